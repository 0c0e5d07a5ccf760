"""Mixed precision: matrix products and attention in bfloat16, all else as the weights are.

B batch · K heads · d channels of a head · T video tokens · S tokens that they attend to
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def mixed_precision(device_type: str, enabled: bool) -> Iterator[None]:
    """PyTorch's autocast; on CPUs with attention as plain products. With PyTorch's own kernel, which gains nothing from
    bfloat16 there, a step takes half as long again (benchmarks/cpu_training.py)."""
    with torch.autocast(device_type, torch.bfloat16, enabled=enabled):
        if enabled and device_type == "cpu":
            with _PlainAttention():
                yield
        else:
            yield


class _PlainAttention(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        ours = func is F.scaled_dot_product_attention and not kwargs  # other networks ask for more of it
        return (attend if ours else func)(*args, **(kwargs or {}))


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention, (B, K, T, d) over (B, K, S, d); mask (B, 1, 1, S) bool."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)                     # (B, K, T, S)
    if mask is not None and not mask.all():
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1).to(value.dtype) @ value                                  # (B, K, T, d)
