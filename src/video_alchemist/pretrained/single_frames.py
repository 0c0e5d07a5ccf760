"""Single frames through CogVideoX's autoencoder, in a third of the work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor


@contextmanager
def collapsed_time(num_frames: int = 1) -> Iterator[None]:
    """Runs CogVideoX's causal 3D convolutions as 2D ones on videos of one frame: the padded past repeats it, so the
    sum of a kernel over time does the same, with a third of the multiplications. Longer ones hand on their past, and
    are left alone."""
    if num_frames > 1:
        yield
        return
    from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXCausalConv3d

    original = CogVideoXCausalConv3d.forward

    def forward(self: Any, inputs: Tensor, conv_cache: Tensor | None = None) -> Any:
        repeats = self.pad_mode != "replicate" and self.conv.stride[0] == 1
        if conv_cache is not None or inputs.shape[2] != 1 or not repeats:
            return original(self, inputs, conv_cache)
        weight = self.conv.weight.sum(dim=2)
        return F.conv2d(inputs[:, :, 0], weight, self.conv.bias, padding=self.conv.padding[1:])[:, :, None], None

    CogVideoXCausalConv3d.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        CogVideoXCausalConv3d.forward = original  # type: ignore[method-assign]
