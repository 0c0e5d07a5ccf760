"""One block of the backbone (§3.2, Figure 3, App. B.1), and the layer after the last.

B batch · G branches of guidance, 1 in training · T video tokens · D model width
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.normalization import FP32LayerNorm
from torch import Tensor, nn

from video_alchemist.model.attention import Context, CrossAttention, KeyValue, KeyValueProjection, SelfAttention
from video_alchemist.model.hooks import register_block
from video_alchemist.model.modulation import adaptive, modulate, norm


class KeyValues(NamedTuple):
    """Keys and values of both conditions in one block; None skips a condition."""

    text: KeyValue | None
    references: KeyValue | None


class FeedForward(nn.Module):
    def __init__(self, hidden_size: int, ffn_size: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(hidden_size, ffn_size)
        self.down = nn.Linear(ffn_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(F.gelu(self.up(x), approximate="tanh")))


class AlchemistBlock(nn.Module):
    """Self-attention, text cross-attention, personalisation cross-attention, feed-forward (§3.2), with adaLN-Zero.

    Text and references have a cross-attention each, or with `shared` (IP-Adapter's way, which §3.2 found worse)
    one with separate keys and values whose results are added.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        ffn_size: int,
        text_dim: int,
        image_dim: int | None,
        *,
        shared: bool = False,
        modulation: str = "per_block",
        qk_norm: str | None = None,
        text_norm: bool = False,
        text_bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        """image_dim None: without personalisation (stage I). text_norm: the norm before text has parameters."""
        super().__init__()
        self.adaLN_modulation = adaptive(hidden_size, 6, modulation)
        self.self_attn = SelfAttention(hidden_size, num_heads, qk_norm, dropout)
        self.text_norm: Callable[[Tensor], Tensor] = FP32LayerNorm(hidden_size, 1e-6) if text_norm else norm
        self.text_attn = CrossAttention(hidden_size, text_dim, num_heads, qk_norm, dropout, text_bias)
        self.reference_attn: CrossAttention | None = None
        self.reference_key_value: KeyValueProjection | None = None
        if image_dim is not None and shared:
            self.reference_key_value = KeyValueProjection(hidden_size, image_dim, num_heads, qk_norm)
        elif image_dim is not None:
            self.reference_attn = CrossAttention(hidden_size, image_dim, num_heads, qk_norm, dropout)
        self.ffn = FeedForward(hidden_size, ffn_size, dropout)

    def key_values(self, text: Context | None, references: Context | None) -> KeyValues:
        """Keys and values of the conditions as this block sees them."""
        project = self.reference_key_value if self.reference_attn is None else self.reference_attn.key_value
        return KeyValues(
            text=None if text is None else self.text_attn.key_value(text),
            references=None if references is None or project is None else project(references),
        )

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        rotation: tuple[Tensor, Tensor],
        text: Context | None,
        references: Context | None,
        cached: tuple[KeyValues, ...] | None = None,
        tabulated: bool = False,
    ) -> Tensor:
        """x (1 or G, B, T, D), time (B, D or 6 * D) -> (G, B, T, D).

        cached: what each of G branches sees, instead of text and references. x may still be common to all of them,
        as in the first block. tabulated: time is what adaLN_modulation makes of it already.
        """
        modulation = time if tabulated else self.adaLN_modulation(time)                    # (B, 6 * D)
        shift_attn, scale_attn, gate_attn, shift_ffn, scale_ffn, gate_ffn = modulation[:, None].chunk(6, dim=-1)
        branches = (self.key_values(text, references),) if cached is None else cached

        y = modulate(norm(x), shift_attn, scale_attn)                                      # (1 or G, B, T, D)
        y = self.self_attn(y.flatten(0, 1), *rotation).view_as(x)
        x = (x + gate_attn * y).to(x.dtype)
        x = x.expand(len(branches), -1, -1, -1)                                            # (G, B, T, D)
        seen = [self._cross_attend(one, *shown) for one, shown in zip(x, branches, strict=True)]
        x = torch.stack(seen) if len(seen) > 1 else seen[0][None]                          # (G, B, T, D)
        return (x + gate_ffn * self.ffn(modulate(norm(x), shift_ffn, scale_ffn))).to(x.dtype)

    def _cross_attend(self, x: Tensor, text: KeyValue | None, references: KeyValue | None) -> Tensor:
        """One branch, (B, T, D) -> (B, T, D). Null conditions would add zeros, so they are skipped."""
        if self.reference_attn is None:
            contexts = [context for context in (text, references) if context is not None]
            return x + self.text_attn(self.text_norm(x), contexts) if contexts else x
        if text is not None:
            x = x + self.text_attn(self.text_norm(x), [text])
        if references is not None:
            x = x + self.reference_attn(norm(x), [references])
        return x


class FinalLayer(nn.Module):
    def __init__(self, hidden_size: int, patch_channels: int, modulation: str = "per_block") -> None:
        super().__init__()
        self.adaLN_modulation = adaptive(hidden_size, 2, modulation)
        self.linear = nn.Linear(hidden_size, patch_channels)

    def forward(self, x: Tensor, time: Tensor, tabulated: bool = False) -> Tensor:
        """x (G, B, T, D), time (B, D) -> (G, B, T, patch channels). tabulated: as in a block."""
        modulation = time if tabulated else self.adaLN_modulation(time)                    # (B, 2 * D)
        shift, scale = modulation[:, None].chunk(2, dim=-1)                                # 2 x (B, 1, D)
        return self.linear(modulate(norm(x), shift, scale))


register_block(AlchemistBlock)
