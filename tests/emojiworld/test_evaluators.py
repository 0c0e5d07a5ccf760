"""The recipes of the benchmark's small networks: end to end on a tiny scale, and what they learn from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from video_alchemist.benchmark.models import EvaluationModels, folder_models
from video_alchemist.emojiworld.recipes import bundle, evaluators, quality_model
from video_alchemist.emojiworld.recipes.evaluators import EvaluatorScale, contrast
from video_alchemist.sampling.pipeline import SHIPPED

NARROW = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TINY = EvaluatorScale(
    vision=NARROW,
    text=NARROW,
    image_text_batch=4,
    image_text_steps=1,
    subject=NARROW,
    subject_batch=4,
    subject_steps=1,
    face={"layers": (1, 1, 1, 1), "width": 4, "embedding": 8},
    face_batch=8,
    face_steps=1,
    flow={"channels": (8, 8), "features": 8, "hidden": 8, "context": 8, "motion": 8, "levels": 2, "radius": 1},
    flow_batch=2,
    flow_steps=1,
)


CODER = SHIPPED["emojiworld"] / "autoencoder"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("benchmark")
    for role in evaluators.NETWORKS:
        evaluators.train(role, TINY, work, "cpu", None, SHIPPED["emojiworld"] / "tokenizer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality_model, "ROUND", 10)
        quality_model.train(1, work, "cpu", None, CODER, steps=1)
    return work


def test_the_shipped_copies_fill_the_benchmarks_roles(trained: Path, tmp_path: Path) -> None:
    """Guards against folders that an adaptor cannot read, and against captions that are read where they begin."""
    models = EvaluationModels(folder_models(bundle.write_evaluators(trained, tmp_path)))
    frames = [np.full((64, 80, 3), shade, np.uint8) for shade in (0, 200)]
    texts = models.image_text.texts(["a fox jumps", "a robot waits on the beach"])
    assert texts.shape == models.image_text.images(frames).shape == (2, 128)
    assert not np.allclose(texts[0], texts[1])
    assert models.subject_encoder(frames).shape == (2, 16)
    assert models.face_embedder(frames).shape == (2, 8)
    flow = models.optical_flow(np.stack(frames[:1]), np.stack(frames[1:]))
    assert flow.shape == (1, 64, 80, 2) and flow.dtype == np.float32
    scores = models.quality(models.image_text.images(frames))
    assert scores.shape == (2,) and 0 < scores.min() <= scores.max() < 1


def test_they_are_measured_on_held_out_concepts(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a measure that breaks on some batch, and shares outside [0, 1]."""
    scores = evaluators.measure(trained, batch=8, rounds=1)
    assert len(scores) == 6 and all(0 <= value <= 1 for name, value in scores.items() if "flow" not in name)
    monkeypatch.setattr(quality_model, "ROUND", 10)
    quality = quality_model.measure(trained, CODER, rounds=1)
    assert len(quality) == 9 and all(-1 <= value <= 1 for value in quality.values())


def test_what_is_left_of_spoilt_frames() -> None:
    """Guards against labels that are not those of their frames: none but the true ones are whole, and of what is spoilt
    in one way less is left the more it was spoilt."""
    frames, quality = quality_model.spoilt_batch(6, 0, 25, quality_model.load_coder(CODER, "cpu"), "cpu")
    left = quality.view(5, 5)
    assert frames.shape == (25, 3, 64, 64) and 0 <= frames.min() and frames.max() <= 1
    assert torch.allclose(left[:, 0], torch.ones(5)) and left[:, 1:].max() < 0.995 and left[:, 4].min() > 0.8
    true = frames[::5]
    strengths = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0]).view(-1, 1, 1, 1)
    one = true[:1].expand(5, -1, -1, -1)
    for kind in ("noisy", "shuffled"):
        spoilt = quality_model.KINDS[kind](one, strengths, torch.Generator().manual_seed(0), None)
        similarities = quality_model.similarity(one, spoilt)
        assert similarities[0] == 1 and (similarities.diff() < 0.05).all() and similarities[-1] < 0.6


def test_rank_correlation() -> None:
    assert quality_model.rank_correlation(np.array([1, 5, 9]), np.array([2, 30, 400])) == pytest.approx(1)
    assert quality_model.rank_correlation(np.array([1, 5, 9]), np.array([3, 2, 1])) == pytest.approx(-1)


def test_contrast_wants_each_row_to_find_its_own() -> None:
    """Guards against pairs that are shuffled on the way, and a margin that makes the task easier."""
    rows = torch.eye(4)
    right, shuffled = contrast(rows, rows, 20.0), contrast(rows, rows.roll(1, 0), 20.0)
    assert right < 0.01 < 5 < shuffled
    assert contrast(rows, rows + 0.5, 5.0, margin=0.3) > contrast(rows, rows + 0.5, 5.0)


def test_both_pictures_show_one_subject() -> None:
    """Guards against pairs of different subjects: their colours would not agree."""
    first, second, actors = evaluators.subject_batch(3, 0, 24, "cpu")
    assert first.shape == second.shape == (len(actors), 3, 64, 64)
    colours = [one.flatten(2).mean(dim=-1) for one in (first, second)]
    distance = torch.cdist(*colours)
    assert distance.diag().median() < 0.7 * distance.median()


def test_faces_are_of_the_first_actor_and_there_are_some() -> None:
    """Guards against pairs of faces of different people, and batches without any."""
    first, second = evaluators.face_batch(4, 0, 16, "cpu")
    assert first.shape == second.shape and len(first) >= 6 and first.min() >= -1 and first.max() <= 1


def test_flow_leads_from_the_first_frame_to_the_second() -> None:
    """Guards against flow of another gap or direction: following it must explain the second frame."""
    plain = replace(TINY)
    first, second, flow = evaluators.flow_batch(5, 0, 12, "cpu")
    assert plain.flow_batch == 2 and flow.shape == (12, 2, 64, 64)
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    places = torch.stack([columns, rows])[None] + flow
    grid = ((2 * places + 1) / 64 - 1).permute(0, 2, 3, 1)
    followed = torch.nn.functional.grid_sample(second, grid, align_corners=False, padding_mode="border")
    moving = (flow.norm(dim=1) > 1)[:, None].expand_as(first)
    assert (followed - first)[moving].abs().mean() < 0.75 * (second - first)[moving].abs().mean()
