"""The clip filter's role, played by VideoMAE's class with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from video_alchemist.pretrained.clip_filter import UNDESIRABLE, VideoMAEClipFilter

CLIPS = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 16, 3), dtype=np.uint8)


def tiny_model(labels: tuple[str, ...] = UNDESIRABLE, **settings: object) -> VideoMAEForVideoClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return VideoMAEForVideoClassification(
        VideoMAEConfig(
            **{
                "image_size": 16,
                "patch_size": 8,
                "id2label": dict(enumerate(labels)),
                "problem_type": "multi_label_classification",
                **sizes,
                **settings,
            }
        )
    ).eval()


def test_columns_follow_the_labels() -> None:
    """Guards against a filter whose training put the categories in another order: screens called still pictures."""
    model = tiny_model(("ok", *reversed(UNDESIRABLE)))
    torch.nn.init.zeros_(model.classifier.weight)
    model.classifier.bias.data = torch.tensor([9.0, 4.0, 3.0, 2.0, 1.0])
    answer = VideoMAEClipFilter(model, batch=2)(CLIPS)
    assert answer.shape == (3, 4) and answer.dtype == np.float32
    np.testing.assert_allclose(answer, np.tile(1 / (1 + np.exp([-1.0, -2.0, -3.0, -4.0])), (3, 1)), rtol=1e-5)
    assert VideoMAEClipFilter(model)(CLIPS[:0]).shape == (0, 4)


def test_folder_with_its_own_colours(tmp_path: Path) -> None:
    """Guards against colours on another scale than the model was trained with, and frames and channels swapped."""
    model = tiny_model()
    model.save_pretrained(tmp_path)
    for mean, std in (((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))):
        pixels = (torch.from_numpy(CLIPS).float() / 255 - torch.tensor(mean)) / torch.tensor(std)
        with torch.no_grad():
            expected = model(pixel_values=pixels.permute(0, 1, 4, 2, 3)).logits.sigmoid().numpy()
        answer = VideoMAEClipFilter.from_pretrained(str(tmp_path), device="cpu")(CLIPS)
        np.testing.assert_allclose(answer, expected, atol=1e-6)
        (tmp_path / "preprocessor_config.json").write_text(
            json.dumps({"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]})
        )


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"labels are \['a', 'still_foreground'\]; \['slight_motion', .* are missing"):
        VideoMAEClipFilter(tiny_model(("still_foreground", "a")))
    with pytest.raises(ValueError, match="problem_type is None; expected 'multi_label_classification'"):
        VideoMAEClipFilter(tiny_model(problem_type=None))
    with pytest.raises(ValueError, match="reads 8 frames; expected 16"):
        VideoMAEClipFilter(tiny_model(num_frames=8))
    with pytest.raises(ValueError, match=r"clips are \(3, 16, 16, 16, 1\) of uint8; expected \(B, 16, 16, 16, 3\)"):
        VideoMAEClipFilter(tiny_model())(CLIPS[..., :1])


def test_a_folder_that_lacks_weights_is_refused(tmp_path: Path, without_a_weight: Callable[[str], str]) -> None:
    """Guards against random numbers in place of weights, of which transformers only warns: days of curation lost."""
    tiny_model().save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match="holds no VideoMAEForVideoClassification: it lacks 1 of its weights"):
        VideoMAEClipFilter.from_pretrained(without_a_weight(str(tmp_path / "whole")))
