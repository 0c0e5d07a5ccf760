"""The inpainter's role, played by OpenCV and by a Stable Diffusion inpainting pipeline with random weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from video_alchemist.pretrained.inpainter import NEGATIVE_PROMPT, DiffusionInpainter, TeleaInpainter, painting_size

FRAME = np.random.default_rng(0).integers(0, 256, (30, 52, 3), dtype=np.uint8)
MASK = np.zeros((30, 52), bool)
MASK[8:20, 10:33] = True


def tiny_pipeline() -> StableDiffusionInpaintPipeline:
    torch.manual_seed(0)
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "b</w>": 2, "e</w>": 3}
    text = CLIPTextConfig(
        vocab_size=4,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        projection_dim=8,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=1,
    )
    blocks = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    return StableDiffusionInpaintPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **blocks
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16),
        unet=UNet2DConditionModel(
            sample_size=16,
            in_channels=9,
            cross_attention_dim=8,
            attention_head_dim=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            **blocks,
        ),
        scheduler=DDIMScheduler(steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def test_telea_fills_the_hole_from_around() -> None:
    """Guards against a mask read the other way round."""
    frame = np.full((24, 24, 3), (10, 200, 90), np.uint8)
    mask = np.zeros((24, 24), bool)
    mask[8:14, 5:16] = True
    broken = np.where(mask[..., None], np.uint8(255), frame)
    painted = TeleaInpainter()(broken, mask, "beach", 0)
    assert np.abs(painted.astype(int) - frame).max() <= 2
    assert (TeleaInpainter()(FRAME, MASK)[~MASK] == FRAME[~MASK]).all()


def test_diffusion_from_a_folder(tmp_path: Path) -> None:
    """Guards against a frame changed outside the mask, a background that differs from run to run, and a pipeline whose
    answer is on another scale."""
    tiny_pipeline().save_pretrained(tmp_path)
    inpainter = DiffusionInpainter.from_pretrained(str(tmp_path), device="cpu", num_steps=2, size=32, max_side=64)
    painted = inpainter(FRAME, MASK, "beach", 7)
    assert painted.shape == FRAME.shape and painted.dtype == np.uint8
    assert (painted[~MASK] == FRAME[~MASK]).all()
    assert (painted[MASK] != FRAME[MASK]).mean() > 0.9
    np.testing.assert_array_equal(painted, inpainter(FRAME, MASK, "beach", 7))
    assert (painted != inpainter(FRAME, MASK, "beach", 8)).any()
    np.testing.assert_array_equal(inpainter(FRAME, np.zeros_like(MASK), "beach", 7), FRAME)


class Recorder:
    """Stands where the pipeline does, keeps what it is asked and paints white."""

    flagged = False

    def to(self, device: str) -> Recorder:
        return self

    def set_progress_bar_config(self, disable: bool) -> None:
        assert disable

    def __call__(self, **asked: object) -> SimpleNamespace:
        self.asked = SimpleNamespace(**asked)
        white = self.asked.image.point(lambda value: 255)
        return SimpleNamespace(images=[white], nsfw_content_detected=[self.flagged])


def test_what_the_pipeline_is_asked() -> None:
    """Guards against black and white of the mask swapped, a thin subject lost when the mask shrinks, and the prompts
    of §3.1 forgotten."""
    thin = np.zeros((300, 800), bool)
    thin[:, 401] = True
    recorder = Recorder()
    painted = DiffusionInpainter(recorder, size=64, max_side=128)(np.zeros((300, 800, 3), np.uint8), thin, "room", 3)
    asked = recorder.asked
    assert (asked.prompt, asked.negative_prompt) == ("room", NEGATIVE_PROMPT)
    assert (asked.num_inference_steps, asked.guidance_scale) == (50, 12.0)
    assert (asked.width, asked.height) == asked.image.size == asked.mask_image.size == (104, 40)
    columns = np.asarray(asked.mask_image)
    assert set(np.unique(columns)) == {0, 255} and (columns[:, 52] == 255).all() and (columns > 0).mean() < 0.03
    assert asked.generator.initial_seed() == 3
    assert (painted[thin] == 255).all() and (painted[~thin] == 0).all()


@pytest.mark.parametrize(
    ("frame", "painted"),
    [((1920, 1080), (680, 384)), ((320, 240), (592, 440)), ((512, 512), (512, 512)), ((4000, 500), (1024, 128))],
)
def test_painting_size_keeps_the_aspect_ratio(frame: tuple[int, int], painted: tuple[int, int]) -> None:
    """Guards against squares made of wide frames, sizes the autoencoder cannot halve, and small frames that a model of
    512 pixels cannot paint."""
    assert painting_size(*frame, size=512, max_side=1024) == painted


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"the mask is \(30, 52\) of uint8; expected \(30, 52\) of bool"):
        TeleaInpainter()(FRAME, MASK.astype(np.uint8))
    with pytest.raises(ValueError, match="the mask covers the whole frame"):
        TeleaInpainter()(FRAME, np.ones_like(MASK))
    with pytest.raises(ValueError, match="size 512 and max_side 100; expected 8 <= size <= max_side"):
        DiffusionInpainter(Recorder(), max_side=100)
    recorder = Recorder()
    recorder.flagged = True
    with pytest.raises(ValueError, match="safety checker blackened the picture of 'beach'"):
        DiffusionInpainter(recorder)(FRAME, MASK, "beach", 0)
