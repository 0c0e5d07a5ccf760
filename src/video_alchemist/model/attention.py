"""Attention among video tokens, and from video tokens to a condition (§3.2, App. B.1).

"Null" means zeros (App. B.2: "set them to zero"). Without biases, zero tokens give exactly zero.

B batch · T video tokens · D model width · K heads · d channels of a head · S tokens of a condition (text or references)
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from video_alchemist.model.rope import rotate

QK_NORMS = (None, "per_head", "across_heads")  # across_heads: one norm over all heads of a token, as in Wan 2.1


class Context(NamedTuple):
    """Tokens (B, S, D_context) that video tokens attend to; mask (B, 1, 1, S) bool, None where all are valid."""

    tokens: Tensor
    mask: Tensor | None


class KeyValue(NamedTuple):
    """A context seen by one block: keys and values (B, K, S, d), and the context's mask. B may be 1 for all samples."""

    key: Tensor
    value: Tensor
    mask: Tensor | None


def as_context(tokens: Tensor | None, mask: Tensor | None) -> Context | None:
    """Tokens (B, S, D_context) with their mask (B, S): padding is hidden, a sample without any token sees zeros."""
    if tokens is None:
        return None
    if mask is None:
        return Context(tokens, None)
    if mask.shape != tokens.shape[:2]:
        raise ValueError(f"mask is {tuple(mask.shape)}; expected {tuple(tokens.shape[:2])} for these tokens")
    # A softmax over nothing is NaN, so fully masked samples attend everywhere: to zeros.
    visible = mask | ~mask.any(dim=-1, keepdim=True)
    return Context(tokens.masked_fill(~mask[..., None], 0), visible[:, None, None, :])


class SelfAttention(nn.Module):
    """Multi-head self-attention with RoPE."""

    def __init__(self, hidden_size: int, num_heads: int, qk_norm: str | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.q_norm = _qk_norm(hidden_size, num_heads, qk_norm)
        self.k_norm = _qk_norm(hidden_size, num_heads, qk_norm)
        self.out = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        qkv = self.qkv(x)                                                                  # (B, T, 3 * D)
        q, k, v = rearrange(qkv, "B T (three K d) -> three B T K d", three=3, K=self.num_heads).unbind(0)
        q = rotate(self.q_norm(q).transpose(1, 2), cos, sin).to(v.dtype)                   # (B, K, T, d)
        k = rotate(self.k_norm(k).transpose(1, 2), cos, sin).to(v.dtype)                   # (B, K, T, d)
        x = F.scaled_dot_product_attention(q, k, v.transpose(1, 2))                        # (B, K, T, d)
        return self.dropout(self.out(rearrange(x, "B K T d -> B T (K d)")))                # (B, T, D)


class KeyValueProjection(nn.Module):
    """Keys and values of a condition."""

    def __init__(
        self, hidden_size: int, context_dim: int, num_heads: int, qk_norm: str | None = None, bias: bool = False
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.kv = nn.Linear(context_dim, 2 * hidden_size, bias=bias)
        self.k_norm = _qk_norm(hidden_size, num_heads, qk_norm)

    def forward(self, context: Context) -> KeyValue:
        kv = self.kv(context.tokens)                                                       # (B, S, 2 * D)
        k, v = rearrange(kv, "B S (two K d) -> two B S K d", two=2, K=self.num_heads).unbind(0)
        return KeyValue(self.k_norm(k).to(v.dtype).transpose(1, 2), v.transpose(1, 2), context.mask)


class CrossAttention(nn.Module):
    """Multi-head cross-attention. Several contexts share queries and output, each with a softmax of its own."""

    def __init__(
        self,
        hidden_size: int,
        context_dim: int,
        num_heads: int,
        qk_norm: str | None = None,
        dropout: float = 0.0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(hidden_size, hidden_size, bias=bias)
        self.q_norm = _qk_norm(hidden_size, num_heads, qk_norm)
        self.key_value = KeyValueProjection(hidden_size, context_dim, num_heads, qk_norm, bias)
        self.out = nn.Linear(hidden_size, hidden_size, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, contexts: list[KeyValue]) -> Tensor:
        q = rearrange(self.q(x), "B T (K d) -> B T K d", K=self.num_heads)
        q = self.q_norm(q).transpose(1, 2)                                                 # (B, K, T, d)
        attended = [_attend(q, context) for context in contexts]
        x = sum(attended[1:], start=attended[0])                                           # (B, K, T, d)
        return self.dropout(self.out(rearrange(x, "B K T d -> B T (K d)")))                # (B, T, D)


def _attend(q: Tensor, context: KeyValue) -> Tensor:
    key, value = (tensor.expand(len(q), -1, -1, -1) for tensor in (context.key, context.value))
    return F.scaled_dot_product_attention(q.to(value.dtype), key, value, context.mask)


def _qk_norm(hidden_size: int, num_heads: int, kind: str | None) -> nn.Module:
    """Of queries or keys (B, T, K, d)."""
    if kind is None:
        return nn.Identity()
    head_dim = hidden_size // num_heads
    return nn.RMSNorm((num_heads, head_dim) if kind == "across_heads" else head_dim, eps=1e-6)
