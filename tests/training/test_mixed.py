"""Mixed precision learns what full precision does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from video_alchemist.training.mixed import attend, mixed_precision


@pytest.mark.parametrize("masked", [False, True])
def test_plain_products_are_the_same_attention(masked: bool) -> None:
    """Guards against training on a CPU that learns another function: scale, mask, gradients."""
    torch.manual_seed(0)
    shapes = (2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8)
    mask = (torch.arange(7) < torch.tensor([[4], [7]]))[:, None, None] if masked else None
    exact = [torch.randn(shape, requires_grad=True) for shape in shapes]
    short = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    F.scaled_dot_product_attention(*exact, mask).square().sum().backward()
    attend(*short, mask).float().square().sum().backward()
    expected = F.scaled_dot_product_attention(*exact, mask)
    torch.testing.assert_close(attend(*short, mask).float(), expected, atol=0.03, rtol=0.03)
    for one, other in zip(short, exact, strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.cosine_similarity(one.grad.float().flatten(), other.grad.flatten(), dim=0) > 0.999


def test_only_products_are_in_bfloat16() -> None:
    """Guards against a residual stream that is rounded, and against a precision that outlives its block."""
    linear, x = torch.nn.Linear(4, 4), torch.randn(3, 4)
    with mixed_precision("cpu", True):
        assert linear(x).dtype == torch.bfloat16
        assert (x + linear(x)).dtype == torch.float32
        q = linear(x)[None, None]
        assert F.scaled_dot_product_attention(q, q, q).dtype == torch.bfloat16
    with mixed_precision("cpu", False):
        assert linear(x).dtype == torch.float32
    assert linear(x).dtype == torch.float32
