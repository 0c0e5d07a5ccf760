"""Moving a batch between devices and precisions."""

from __future__ import annotations

import torch

from video_alchemist.dataset.batch import Batch


def test_dtype_is_for_floats_only() -> None:
    """Guards against indices turned into bfloat16, where 257 becomes 256, and masks into floats."""
    batch = Batch(
        z0=torch.zeros(1, 16, 1, 2, 2),
        text_tokens=torch.zeros(1, 3, 8),
        text_mask=torch.ones(1, 3, dtype=torch.bool),
        word_index=torch.tensor([[[257, -1]]]),
        null_text=torch.zeros(1, 3, 8),
        bucket="16x16x1",
        ids=("a",),
    )
    moved = batch.to("cpu", torch.bfloat16)
    assert moved.z0.dtype == moved.text_tokens.dtype == torch.bfloat16
    assert moved.text_mask.dtype == torch.bool
    assert moved.null_text is not None and moved.null_text.dtype == torch.bfloat16
    assert (moved.bucket, moved.ids) == ("16x16x1", ("a",))
    assert moved.word_index is not None and moved.word_index.tolist() == [[[257, -1]]]
    assert moved.image_tokens is None and moved.image_mask is None
    assert batch.to("cpu").z0.dtype == torch.float32
