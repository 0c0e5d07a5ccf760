"""The video backbone: a latent DiT with built-in personalisation (§3.2, Figure 3, Table 5, App. B.1).

B batch · C channels · f, h, w latent · T video tokens · D model width · N reference images · L tokens of one image
S text tokens · W word_length · d image token channels
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange, repeat
from torch import Tensor, nn

from video_alchemist.model.attention import (
    Context,
    CrossAttention,
    KeyValue,
    KeyValueProjection,
    SelfAttention,
    as_context,
)
from video_alchemist.model.binding import Binding
from video_alchemist.model.rope import axis_pairs, rope

# ------------------------------------------------------------------------------------------------------------------
# Parts


def norm(x: Tensor) -> Tensor:
    """LayerNorm without parameters."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Adaptive layer norm (DiT): x (B, T, D) already normalised; shift, scale (B, 1, D)."""
    return x * (1 + scale) + shift


class TimeEmbedding(nn.Module):
    """Time (B,) in [0, 1], 1 = noise -> (B, D)."""

    def __init__(self, hidden_size: int, num_frequencies: int = 128) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        self.mlp = nn.Sequential(
            nn.Linear(2 * num_frequencies, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        half = torch.arange(self.num_frequencies, dtype=torch.float32, device=t.device) / self.num_frequencies
        angle = 1000 * t.float()[:, None] * torch.exp(-math.log(10_000) * half)            # (B, num_frequencies)
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=-1).to(dtype))           # (B, D)


class FeedForward(nn.Module):
    def __init__(self, hidden_size: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(hidden_size, int(hidden_size * mlp_ratio))
        self.down = nn.Linear(int(hidden_size * mlp_ratio), hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(F.gelu(self.up(x), approximate="tanh")))


class KeyValues(NamedTuple):
    """Keys and values of both conditions in one block; None skips a condition."""

    text: KeyValue | None
    references: KeyValue | None


@dataclass(frozen=True)
class ConditionCache:
    """What a condition looks like to every block; the same at all times t, so computed once per video."""

    blocks: tuple[KeyValues, ...]


class AlchemistBlock(nn.Module):
    """Self-attention, text cross-attention, personalisation cross-attention, feed-forward (§3.2), with adaLN-Zero.

    Text and references have a cross-attention each, or with `shared` (IP-Adapter's way, which §3.2 found worse)
    one with separate keys and values whose results are added.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        mlp_ratio: float,
        text_dim: int,
        image_dim: int | None,
        shared: bool,
        qk_norm: bool,
        dropout: float,
    ) -> None:
        """image_dim None: without personalisation (stage I)."""
        super().__init__()
        self.adaLN_modulation = nn.Linear(hidden_size, 6 * hidden_size)
        self.self_attn = SelfAttention(hidden_size, num_heads, qk_norm, dropout)
        self.text_attn = CrossAttention(hidden_size, text_dim, num_heads, qk_norm, dropout)
        self.reference_attn: CrossAttention | None = None
        self.reference_key_value: KeyValueProjection | None = None
        if image_dim is not None and shared:
            self.reference_key_value = KeyValueProjection(hidden_size, image_dim, num_heads, qk_norm)
        elif image_dim is not None:
            self.reference_attn = CrossAttention(hidden_size, image_dim, num_heads, qk_norm, dropout)
        self.ffn = FeedForward(hidden_size, mlp_ratio, dropout)

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
        t_emb: Tensor,
        rotation: tuple[Tensor, Tensor],
        text: Context | None,
        references: Context | None,
        cached: KeyValues | None = None,
    ) -> Tensor:
        """x (B, T, D), t_emb (B, D) after its SiLU -> (B, T, D)."""
        modulation = self.adaLN_modulation(t_emb)[:, None].chunk(6, dim=-1)                # 6 x (B, 1, D)
        shift_attn, scale_attn, gate_attn, shift_ffn, scale_ffn, gate_ffn = modulation
        text_kv, reference_kv = self.key_values(text, references) if cached is None else cached

        x = x + gate_attn * self.self_attn(modulate(norm(x), shift_attn, scale_attn), *rotation)
        if self.reference_attn is None:
            contexts = [kv for kv in (text_kv, reference_kv) if kv is not None]
            if contexts:
                x = x + self.text_attn(norm(x), contexts)
        else:
            if text_kv is not None:
                x = x + self.text_attn(norm(x), [text_kv])
            if reference_kv is not None:
                x = x + self.reference_attn(norm(x), [reference_kv])
        return x + gate_ffn * self.ffn(modulate(norm(x), shift_ffn, scale_ffn))            # (B, T, D)


class FinalLayer(nn.Module):
    def __init__(self, hidden_size: int, patch_channels: int) -> None:
        super().__init__()
        self.adaLN_modulation = nn.Linear(hidden_size, 2 * hidden_size)
        self.linear = nn.Linear(hidden_size, patch_channels)

    def forward(self, x: Tensor, t_emb: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(t_emb)[:, None].chunk(2, dim=-1)              # 2 x (B, 1, D)
        return self.linear(modulate(norm(x), shift, scale))                                # (B, T, patch channels)


# ------------------------------------------------------------------------------------------------------------------
# The transformer


class AlchemistTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin, CacheMixin):  # type: ignore[misc]
    """Predicts the velocity of noisy latents, given text and personalisation tokens (either may be missing)."""

    _supports_gradient_checkpointing = True
    _no_split_modules = ["AlchemistBlock"]  # type: ignore[assignment]
    _repeated_blocks = ["AlchemistBlock"]
    _skip_layerwise_casting_patterns = ["patch_embedding", "time_embedding", "final_layer", "norm"]  # type: ignore[assignment]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        hidden_size: int = 192,
        depth: int = 8,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        text_dim: int = 128,
        image_dim: int = 192,
        max_images: int = 6,
        word_length: int = 4,
        personalization: bool = True,
        word_binding: bool = True,
        shared_cross_attention: bool = False,
        self_conditioning: bool = False,
        qk_norm: bool = False,
        dropout: float = 0.0,
        rope_theta: float = 10000.0,
    ) -> None:
        """personalization=False is stage I: no binding and no attention to references.

        self_conditioning: the paper gives only the word and a probability of 0.9 (Table 5). We read it as in Analog
        Bits (Chen et al. 2022): the net also sees its last estimate of z0, as further channels, zeros where none is.
        """
        super().__init__()
        if hidden_size % num_heads:
            nearest = max(n for n in range(1, num_heads) if hidden_size % n == 0)
            raise ValueError(f"hidden_size {hidden_size} is not divisible by num_heads {num_heads}; nearest: {nearest}")
        axis_pairs(hidden_size // num_heads)
        self.patch_size = tuple(patch_size)
        patch_channels = in_channels * math.prod(patch_size)
        self.patch_embedding = nn.Linear(patch_channels * (2 if self_conditioning else 1), hidden_size)
        self.time_embedding = TimeEmbedding(hidden_size)
        self.binding = Binding(image_dim, text_dim, word_length, max_images, word_binding) if personalization else None
        self.blocks = nn.ModuleList(
            AlchemistBlock(
                hidden_size,
                num_heads,
                mlp_ratio,
                text_dim,
                image_dim if personalization else None,
                shared_cross_attention,
                qk_norm,
                dropout,
            )
            for _ in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_channels)
        self.gradient_checkpointing = False
        self.initialize_weights()

    def initialize_weights(self) -> None:
        # Linear layers: Xavier, biases zero.
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            # adaLN-Zero: every gated residual starts closed. The first velocity is zero, whatever the input.
            if isinstance(module, AlchemistBlock | FinalLayer):
                nn.init.zeros_(module.adaLN_modulation.weight)
            if isinstance(module, FinalLayer):
                nn.init.zeros_(module.linear.weight)
            # What attends to references starts at zero, so that stage II at step 0 equals stage I bit for bit.
            if isinstance(module, AlchemistBlock) and module.reference_attn is not None:
                nn.init.zeros_(module.reference_attn.out.weight)
            if isinstance(module, AlchemistBlock) and module.reference_key_value is not None:
                nn.init.zeros_(module.reference_key_value.kv.weight.chunk(2)[1])
        # Binding starts as a small step away from the image tokens, which its residual carries.
        if self.binding is not None:
            nn.init.normal_(self.binding.projection.weight, std=0.02)
            nn.init.normal_(self.binding.image_index_embedding.weight, std=0.02)

    # Conditions

    def bind(
        self, image_tokens: Tensor, word_tokens: Tensor | None = None, image_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Personalization embeddings (§3.2): (B, N, L, d), (B, N, W * D_text), (B, N) -> (B, N * L, d), (B, N * L)."""
        if self.binding is None:
            raise ValueError(_NO_PERSONALIZATION)
        num_tokens = image_tokens.shape[2]
        references = self.binding(image_tokens, word_tokens)                               # (B, N, L, d)
        if image_mask is None:
            image_mask = torch.ones(references.shape[:2], dtype=torch.bool, device=references.device)
        return rearrange(references, "B N L d -> B (N L) d"), repeat(image_mask, "B N -> B (N L)", L=num_tokens)

    def cache(
        self,
        text_tokens: Tensor | None,
        text_mask: Tensor | None = None,
        references: Tensor | None = None,
        reference_mask: Tensor | None = None,
    ) -> ConditionCache:
        """Keys and values of a condition in every block, for `forward(z, t, cache=...)` of the same batch."""
        text, bound = self._contexts(text_tokens, text_mask, references, reference_mask)
        return ConditionCache(tuple(cast(AlchemistBlock, block).key_values(text, bound) for block in self.blocks))

    def _contexts(
        self, text_tokens: Tensor | None, text_mask: Tensor | None, references: Tensor | None, mask: Tensor | None
    ) -> tuple[Context | None, Context | None]:
        if references is not None and self.binding is None:
            raise ValueError(_NO_PERSONALIZATION)
        return as_context(text_tokens, text_mask), as_context(references, mask)

    # The network

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        text_tokens: Tensor | None = None,
        text_mask: Tensor | None = None,
        references: Tensor | None = None,
        reference_mask: Tensor | None = None,
        z0_estimate: Tensor | None = None,
        cache: ConditionCache | None = None,
    ) -> Tensor:
        """z (B, C, f, h, w), t (B,) in [0, 1] with 1 = noise -> velocity (B, C, f, h, w).

        text_tokens (B, S, D_text), references (B, N * L, d) as `bind` gives them, or a `cache` of both. A missing or
        fully masked condition is the null condition. z0_estimate: see self_conditioning.
        """
        if cache is not None and (text_tokens is not None or references is not None):
            raise ValueError("both a cache and a condition are given; expected one of them")
        text, bound = self._contexts(text_tokens, text_mask, references, reference_mask)
        x, grid = self._patchify(z, z0_estimate)                                           # (B, T, patch channels)
        x = self.patch_embedding(x)                                                        # (B, T, D)
        t_emb = F.silu(self.time_embedding(t, z.dtype))                                    # (B, D)
        head_dim = self.config["hidden_size"] // self.config["num_heads"]
        rotation = rope(grid, head_dim, self.config["rope_theta"], z.device)                  # 2 x (T, head_dim / 2)
        for i, block in enumerate(self.blocks):
            inputs = (x, t_emb, rotation, text, bound, None if cache is None else cache.blocks[i])
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, *inputs)  # type: ignore[misc]
            else:
                x = block(*inputs)                                                         # (B, T, D)
        x = self.final_layer(x, t_emb)                                                     # (B, T, patch channels)
        f, h, w = grid
        pf, ph, pw = self.patch_size
        return rearrange(
            x, "B (f h w) (C pf ph pw) -> B C (f pf) (h ph) (w pw)", f=f, h=h, w=w, pf=pf, ph=ph, pw=pw
        )

    def _patchify(self, z: Tensor, z0_estimate: Tensor | None) -> tuple[Tensor, tuple[int, int, int]]:
        """(B, C, f, h, w) -> (B, T, C * patch volume) and the grid of patches."""
        if z0_estimate is not None and not self.config["self_conditioning"]:
            raise ValueError("z0_estimate is given to a transformer without self_conditioning; expected None")
        if z.shape[1] != self.config["in_channels"]:
            raise ValueError(f"latents have {z.shape[1]} channels; expected {self.config['in_channels']}")
        pf, ph, pw = self.patch_size
        for axis, length, patch in zip(("frames", "height", "width"), z.shape[2:], self.patch_size, strict=True):
            if length % patch:
                nearest = max(patch, round(length / patch) * patch)
                raise ValueError(f"latent {axis} {length} is not a multiple of the patch's {patch}; nearest: {nearest}")
        grid = (z.shape[2] // pf, z.shape[3] // ph, z.shape[4] // pw)
        if self.config["self_conditioning"]:
            z = torch.cat([z, torch.zeros_like(z) if z0_estimate is None else z0_estimate], dim=1)
        tokens = rearrange(z, "B C (f pf) (h ph) (w pw) -> B (f h w) (C pf ph pw)", pf=pf, ph=ph, pw=pw)
        return tokens, grid

    def personalization_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What stage II adds, and trains alone in its first 10k steps (App. B.2)."""
        for name, parameter in self.named_parameters():
            if _part(name) in ("reference_attn", "binding"):
                yield name, parameter


_NO_PERSONALIZATION = (
    "references are given to a stage I transformer (personalization=False); expected none, "
    "or a transformer with personalization=True (see add_personalization)"
)


def add_personalization(transformer: AlchemistTransformer) -> AlchemistTransformer:
    """Stage I -> stage II (App. B.2): the same weights, plus binding and attention to references; same function."""
    if transformer.config["personalization"]:
        raise ValueError("the transformer has personalization already; expected one of stage I")
    config = {name: value for name, value in transformer.config.items() if not name.startswith("_")}
    extended = AlchemistTransformer(**{**config, "personalization": True})
    missing, unexpected = extended.load_state_dict(transformer.state_dict(), strict=False)
    assert not unexpected and set(missing) == {name for name, _ in extended.personalization_parameters()}
    return extended.to(transformer.device, transformer.dtype).train(transformer.training)


def parameter_counts(transformer: AlchemistTransformer) -> dict[str, int]:
    """Parameters by part, and their total; works on the meta device."""
    counts: dict[str, int] = {}
    for name, parameter in transformer.named_parameters():
        counts[_part(name)] = counts.get(_part(name), 0) + parameter.numel()
    return {**counts, "total": sum(counts.values())}


def _part(name: str) -> str:
    """The part that a parameter belongs to: blocks.3.self_attn.qkv.weight -> self_attn."""
    first, *rest = name.split(".")
    part = rest[1] if first == "blocks" else first
    return {"reference_key_value": "reference_attn", "adaLN_modulation": "adaLN"}.get(part, part)
