"""Cross-attention: null conditions are exactly zero, padding is exactly invisible."""

from __future__ import annotations

import pytest
import torch

from video_alchemist.model.attention import CrossAttention, as_context


@pytest.fixture(params=[None, "per_head", "across_heads"])
def attention(request: pytest.FixtureRequest) -> CrossAttention:
    torch.manual_seed(0)
    return CrossAttention(hidden_size=12, context_dim=8, num_heads=2, qk_norm=request.param)


def attend(attention: CrossAttention, x: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    context = as_context(tokens, mask)
    assert context is not None
    return attention(x, [attention.key_value(context)])


def test_fully_masked_sample_is_exactly_zero_with_finite_gradients(attention: CrossAttention) -> None:
    """Guards against NaN from a softmax over nothing, forward or backward, and against biases in a null branch."""
    x = torch.randn(2, 5, 12, requires_grad=True)
    tokens = torch.randn(2, 3, 8, requires_grad=True)
    mask = torch.tensor([[False, False, False], [True, False, True]])
    y = attend(attention, x, tokens, mask)
    assert torch.equal(y[0], torch.zeros_like(y[0]))
    assert y[1].abs().min() > 0
    y.square().sum().backward()
    for gradient in [x.grad, tokens.grad, *(p.grad for p in attention.parameters())]:
        assert gradient is not None and gradient.isfinite().all()
    assert tokens.grad is not None and not tokens.grad[~mask].any()


def test_masked_tokens_are_invisible_whatever_they_hold(attention: CrossAttention) -> None:
    """Guards against padding that draws attention, and against garbage (even NaN) in padded tokens."""
    x, tokens = torch.randn(1, 5, 12), torch.randn(1, 3, 8)
    garbage = torch.full((1, 4, 8), float("nan"))
    mask = torch.tensor([[True] * 3 + [False] * 4])
    padded = attend(attention, x, torch.cat([tokens, garbage], dim=1), mask)
    torch.testing.assert_close(padded, attend(attention, x, tokens, None), atol=1e-6, rtol=0)


def test_no_mask_means_all_valid(attention: CrossAttention) -> None:
    """Guards against None and an all-true mask meaning different things."""
    x, tokens = torch.randn(2, 5, 12), torch.randn(2, 3, 8)
    masked = attend(attention, x, tokens, torch.ones(2, 3, dtype=torch.bool))
    torch.testing.assert_close(masked, attend(attention, x, tokens, None), atol=1e-6, rtol=0)


def test_mask_of_another_shape_is_refused() -> None:
    """Guards against a mask of images (B, N) given where one of tokens (B, N * L) is meant."""
    with pytest.raises(ValueError, match=r"mask is \(2, 3\); expected \(2, 6\)"):
        as_context(torch.randn(2, 6, 8), torch.ones(2, 3, dtype=torch.bool))
