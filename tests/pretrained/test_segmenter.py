"""The segmenter's role, played by SAM's class with random weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import SamConfig, SamModel, SamProcessor
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from video_alchemist.pretrained.segmenter import SamSegmenter

NOISE = np.random.default_rng(0)
FRAMES = [NOISE.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((30, 50), (40, 24), (30, 50))]
BOXES = [
    np.array([[2, 3, 20, 25], [10, 10, 45, 28], [30, 0, 50, 12]]),
    np.zeros((0, 4)),
    np.array([[5.5, 1, 40, 29]]),
]


def tiny_model() -> SamModel:
    torch.manual_seed(0)
    image, width = {"image_size": 32, "patch_size": 8}, 16
    vision = SamVisionConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        mlp_dim=16,
        output_channels=width,
        num_pos_feats=width // 2,
        window_size=0,
        global_attn_indexes=[0],
        initializer_range=0.3,
        **image,
    )
    prompt = SamPromptEncoderConfig(hidden_size=width, mask_input_channels=4, **image)
    decoder = SamMaskDecoderConfig(hidden_size=width, mlp_dim=16, num_attention_heads=2, iou_head_hidden_dim=16)
    model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder))
    for parameter in model.mask_decoder.parameters():  # as drawn, masks would be empty
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.normal_(model.shared_image_embedding.positional_embedding)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("segmenter")
    tiny_model().save_pretrained(path)
    square, small = {"height": 32, "width": 32}, {"height": 16, "width": 16}
    SamProcessor(
        SamImageProcessorPil(
            size={"longest_edge": 32}, pad_size=square, mask_size={"longest_edge": 16}, mask_pad_size=small
        )
    ).save_pretrained(path)
    return str(path)


@torch.no_grad()
def test_parity_with_one_frame_at_a_time(folder: str) -> None:
    """Guards against boxes of one frame used for another, boxes on the wrong scale, masks of the padded square, and a
    call that fails or changes its answer where frames have different numbers of boxes."""
    found = SamSegmenter.from_pretrained(folder, device="cpu")(FRAMES, BOXES)
    model, processor = SamModel.from_pretrained(folder).eval(), SamProcessor.from_pretrained(folder)
    for frame, boxes, (masks, scores) in zip(FRAMES, BOXES, found, strict=True):
        assert masks.shape == (len(boxes), *frame.shape[:2]) and masks.dtype == bool
        assert scores.shape == (len(boxes),) and scores.dtype == np.float32
        if not len(boxes):
            continue
        inputs = processor(frame, input_boxes=[boxes.tolist()], return_tensors="pt")
        inputs["input_boxes"] = inputs["input_boxes"].float()
        output = model(
            pixel_values=inputs["pixel_values"], input_boxes=inputs["input_boxes"], multimask_output=False
        )
        expected = processor.post_process_masks(
            output.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
        )[0][:, 0].numpy()
        assert 0 < expected.mean() < 1
        assert (masks == expected).mean() > 0.999
        np.testing.assert_allclose(scores, output.iou_scores[0, :, 0].clamp(0, 1), atol=1e-4)


def test_frames_are_encoded_once_and_only_where_asked() -> None:
    """Guards against an encoder (nearly all of the cost) that runs a box at a time, or for frames without boxes."""
    segmenter = SamSegmenter(
        tiny_model(),
        SamProcessor(SamImageProcessorPil(size={"longest_edge": 32}, pad_size={"height": 32, "width": 32})),
        batch=2,
    )
    seen = []
    segmenter.model.vision_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    segmenter(FRAMES, BOXES)
    assert seen == [2]
    segmenter([FRAMES[0]] * 3, [BOXES[0]] * 3)
    assert seen == [2, 2, 1]
    assert segmenter([], []) == []


def test_errors_name_what_is_wrong(folder: str) -> None:
    with pytest.raises(ValueError, match="3 frames and 2 arrays of boxes; expected one array a frame"):
        SamSegmenter.from_pretrained(folder)(FRAMES, BOXES[:2])


def test_a_folder_that_lacks_weights_is_refused(folder: str, without_a_weight: Callable[[str], str]) -> None:
    """Guards against random numbers in place of weights, of which transformers only warns: days of curation lost."""
    with pytest.raises(ValueError, match="holds no SamModel: it lacks 1 of its weights"):
        SamSegmenter.from_pretrained(without_a_weight(folder))
