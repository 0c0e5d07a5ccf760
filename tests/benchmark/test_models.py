"""Networks by name: loaded late, and missed early."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from video_alchemist.benchmark.models import ROLES, EvaluationModels, ModelNames, folder_models, paper_models
from video_alchemist.pretrained.face_detector import HeatmapFaceDetector
from video_alchemist.pretrained.face_embedder import ArcFaceEmbedder, IResNet
from video_alchemist.pretrained.quality_model import QualityHead, probe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    IResNet((1, 1, 1, 1), width=4, size=32, embedding=8).save_pretrained(tmp_path / "face_embedder")
    HeatmapFaceDetector((4, 8), width=8).save_pretrained(tmp_path / "face_detector")
    return tmp_path


def test_folder_models(folder: Path) -> None:
    """Guards against a role that is loaded before it is asked for, or again each time."""
    names = folder_models(folder)
    assert names == ModelNames(
        face_embedder=str(folder / "face_embedder"), face_detector=str(folder / "face_detector")
    )
    models = EvaluationModels(names).load(["face_embedder"])
    assert set(ROLES) & vars(models).keys() == {"face_embedder"}
    assert isinstance(models.face_embedder, ArcFaceEmbedder)
    assert isinstance(models.face_detector, HeatmapFaceDetector)
    assert models.face_embedder is models.face_embedder


def test_revisions_go_by_contents(folder: Path) -> None:
    """Guards against results that do not tell which weights they were made with, or name a machine's folders."""
    models = EvaluationModels(folder_models(folder))
    before = models.revisions(["face_embedder", "face_detector"])
    assert {role: name.split("@")[0] for role, name in before.items()} == {role: role for role in before}
    IResNet((1, 1, 1, 1), width=4, size=32, embedding=8).save_pretrained(folder / "face_embedder")
    after = models.revisions(["face_embedder", "face_detector"])
    assert after["face_embedder"] != before["face_embedder"]
    assert after["face_detector"] == before["face_detector"]


def test_the_papers_models_are_all_named() -> None:
    """Guards against a role of §4.2 that nobody plays, and a missing file found out in the middle of the work."""
    models = EvaluationModels(paper_models())
    assert [role for role in ROLES if not getattr(models.names, role)] == ["quality"]  # which the paper has not
    for role in ("face_embedder", "optical_flow", "face_detector"):
        with pytest.raises(ValueError, match=f"{role}: .* is not there; expected a folder, a checkpoint file"):
            models.load([role])


def test_quality_is_bound_to_the_encoder(tmp_path: Path) -> None:
    """Guards against a head upon another CLIP than it was trained upon: numbers without a meaning."""

    class Own(EvaluationModels):
        image_text: Any = SimpleNamespace(images=lambda frames: np.array([[frame.mean(), 50] for frame in frames]))

    trained = probe(Own.image_text)
    for name, known in (("right", trained), ("wrong", trained[::-1])):
        QualityHead((2, 1), bounded=True, probe=known).save_pretrained(tmp_path / name)
    models = Own(ModelNames(quality=str(tmp_path / "right"))).load(["image_text", "quality"])
    assert models.quality(np.ones((3, 2), np.float32)).shape == (3,)
    with pytest.raises(ValueError, match="trained upon another image and text encoder"):
        Own(ModelNames(quality=str(tmp_path / "wrong"))).load(["quality"])


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no model; expected folders named image_text, subject_encoder"):
        folder_models(tmp_path)
    models = EvaluationModels(ModelNames(segmenter=str(tmp_path)))
    with pytest.raises(ValueError, match="no model plays the detector; expected a folder"):
        models.load(["detector"])
    with pytest.raises(ValueError, match="no role 'detectr'.*'detector'"):
        models.revisions(["detectr"])
    with pytest.raises(ValueError, match="segmenter: .* is not complete"):
        models.load(["segmenter"])


def test_a_role_of_ones_own() -> None:
    """Guards against a network of a user's that has no way in."""

    class Own(EvaluationModels):
        @property
        def image_text(self) -> Any:  # type: ignore[override]
            return "mine"

    assert Own(ModelNames()).image_text == "mine"
