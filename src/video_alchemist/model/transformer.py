"""The video backbone: a latent DiT with built-in personalisation (§3.2, Figure 3, Table 5, App. B.1).

Wan 2.1's text-to-video transformer is one of its configurations, see `model/wan.py`.

B batch · C channels · f, h, w latent · T video tokens · D model width · N reference images · L tokens of one image
S text tokens · W word_length · d image token channels · G branches of guidance
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange, repeat
from torch import Tensor, nn

from video_alchemist.model.attention import QK_NORMS, Context, as_context
from video_alchemist.model.binding import Binding
from video_alchemist.model.block import AlchemistBlock, FinalLayer, KeyValues
from video_alchemist.model.hooks import onloaded
from video_alchemist.model.modulation import MODULATIONS, TimeEmbedding
from video_alchemist.model.place import PlaceEmbedding
from video_alchemist.model.rope import axis_pairs, rope


@dataclass(frozen=True)
class ConditionCache:
    """What the conditions look like to every block; the same at all times t, so computed once per video.

    Entries are of B samples, or of 1 that serves all. branches: (text, references) shown in each of G branches.
    """

    blocks: Sequence[KeyValues]
    null_blocks: Sequence[KeyValues]  # what a branch without text sees of text; None = nothing
    branches: Sequence[tuple[bool, bool]] = ((True, True),)

    def show(self, branches: Sequence[tuple[bool, bool]]) -> ConditionCache:
        """The same keys and values in other branches of guidance (App. B.3)."""
        return replace(self, branches=branches)

    def seen_by(self, block: int) -> tuple[KeyValues, ...]:
        """What a block sees in each of the G branches."""
        full, null = self.blocks[block], self.null_blocks[block]
        return tuple(
            KeyValues(full.text if text else null.text, full.references if images else None)
            for text, images in self.branches
        )


class AlchemistTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin, CacheMixin):  # type: ignore[misc]
    """Predicts the velocity of noisy latents, given text and personalisation tokens (either may be missing)."""

    _supports_gradient_checkpointing = True
    _no_split_modules = ["AlchemistBlock"]  # type: ignore[assignment]
    _repeated_blocks = ["AlchemistBlock"]
    _skip_layerwise_casting_patterns = ["embedding", "time_projection", "final_layer", "norm"]  # type: ignore[assignment]
    _keep_in_fp32_modules = ["time_embedding", "table", "text_norm"]  # type: ignore[assignment]

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
        qk_norm: bool | str | None = False,
        dropout: float = 0.0,
        rope_theta: float = 10000.0,
        modulation: str = "per_block",
        ffn_size: int | None = None,
        time_channels: int = 256,
        text_projection: bool = False,
        text_norm: bool = False,
        text_bias: bool = False,
        place_grid: tuple[int, int] | None = None,
        image_grid: tuple[int, int] | None = None,
        input_skip: bool = False,
    ) -> None:
        """personalization=False is stage I: no binding and no attention to references.

        self_conditioning: the paper gives only the word and a probability of 0.9 (Table 5). We read it as in Analog
        Bits (Chen et al. 2022): the net also sees its last estimate of z0, as further channels, zeros where none is.
        qk_norm: None, "per_head" or "across_heads"; False and True of older configurations are the first two.
        input_skip: the last layer also tells how much of a token's noisy values is added to its result (c_skip of
        Karras et al. 2022, learned), so that narrow networks need not carry the noise of all channels through.
        place_grid, image_grid: (rows, columns) of model/place.py, for the video's tokens and for square pictures'. The
        other six are Wan 2.1's: ffn_size instead of mlp_ratio; text_projection, a network before all blocks; text_norm,
        text_bias: before and in attention to text.
        """
        super().__init__()
        if hidden_size % num_heads:
            nearest = max(n for n in range(1, num_heads) if hidden_size % n == 0)
            raise ValueError(f"hidden_size {hidden_size} is not divisible by num_heads {num_heads}; nearest: {nearest}")
        if isinstance(qk_norm, bool):
            qk_norm = "per_head" if qk_norm else None
        for name, value, choices in (("qk_norm", qk_norm, QK_NORMS), ("modulation", modulation, MODULATIONS)):
            if value not in choices:
                raise ValueError(f"{name} {value!r}; expected one of {', '.join(map(repr, choices))}")
        axis_pairs(hidden_size // num_heads)
        self.patch_size = tuple(patch_size)
        patch_channels = in_channels * math.prod(patch_size)
        self.patch_embedding = nn.Linear(patch_channels * (2 if self_conditioning else 1), hidden_size)
        self.place_embedding = PlaceEmbedding(*place_grid, hidden_size) if place_grid is not None else None
        self.time_embedding = TimeEmbedding(hidden_size, time_channels)
        shared_table = modulation == "shared_table"
        self.time_projection = nn.Linear(hidden_size, 6 * hidden_size) if shared_table else None
        self.text_embedding = (
            nn.Sequential(nn.Linear(text_dim, hidden_size), nn.GELU("tanh"), nn.Linear(hidden_size, hidden_size))
            if text_projection
            else None
        )
        sizes = (image_dim, text_dim, word_length, max_images)
        self.binding = Binding(*sizes, word_binding, image_grid) if personalization else None
        self.blocks = nn.ModuleList(
            AlchemistBlock(
                hidden_size,
                num_heads,
                int(hidden_size * mlp_ratio) if ffn_size is None else ffn_size,
                hidden_size if text_projection else text_dim,
                image_dim if personalization else None,
                shared=shared_cross_attention,
                modulation=modulation,
                qk_norm=qk_norm,
                text_norm=text_norm,
                text_bias=text_bias,
                dropout=dropout,
            )
            for _ in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_channels * (2 if input_skip else 1), modulation)
        self.gradient_checkpointing = False
        self.initialize_weights()

    def initialize_weights(self) -> None:
        _initialize_linears(self.modules())
        # adaLN-Zero: every gated residual starts closed. The first velocity is zero, whatever the input.
        for module in (*self.blocks, self.final_layer):
            nn.init.zeros_(next(cast(AlchemistBlock, module).adaLN_modulation.parameters()))
        if self.time_projection is not None:
            nn.init.zeros_(self.time_projection.weight)
        nn.init.zeros_(self.final_layer.linear.weight)
        self._initialize_personalization()

    def _initialize_personalization(self) -> None:
        # What attends to references starts at zero, so that stage II at step 0 equals stage I bit for bit.
        for block in cast(Iterable[AlchemistBlock], self.blocks):
            if block.reference_attn is not None:
                nn.init.zeros_(block.reference_attn.out.weight)
            if block.reference_key_value is not None:
                nn.init.zeros_(block.reference_key_value.kv.weight.chunk(2)[1])
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
        with onloaded(self):
            references = self.binding(image_tokens, word_tokens)                           # (B, N, L, d)
        if image_mask is None:
            image_mask = torch.ones(references.shape[:2], dtype=torch.bool, device=references.device)
        return rearrange(references, "B N L d -> B (N L) d"), repeat(image_mask, "B N -> B (N L)", L=num_tokens)

    def cache(
        self,
        text_tokens: Tensor | None,
        text_mask: Tensor | None = None,
        references: Tensor | None = None,
        reference_mask: Tensor | None = None,
        branches: Sequence[tuple[bool, bool]] | None = None,
        null_text_tokens: Tensor | None = None,
        null_text_mask: Tensor | None = None,
    ) -> ConditionCache:
        """Keys and values of B samples' conditions in every block, for `forward(z, t, cache=...)` of the same batch.

        branches: (text, references) for each of G branches of guidance, also `cache.show(branches)`. A branch without
        text sees null_text_tokens (B or 1, S, D_text), else zeros.
        """
        device = next((tokens.device for tokens in (text_tokens, references) if tokens is not None), self.device)
        with onloaded(self):
            text, bound = self._contexts(text_tokens, text_mask, references, reference_mask, device)
            null, _ = self._contexts(null_text_tokens, null_text_mask, None, None, device)
        seen, null_seen = [], []
        for block in self._onloaded_blocks():
            seen.append(block.key_values(text, bound))
            null_seen.append(block.key_values(null, None))
        cache = ConditionCache(seen, null_seen)
        return cache if branches is None else cache.show(branches)

    def _contexts(
        self,
        text_tokens: Tensor | None,
        text_mask: Tensor | None,
        references: Tensor | None,
        reference_mask: Tensor | None,
        device: torch.device,
    ) -> tuple[Context | None, Context | None]:
        if references is not None and self.binding is None:
            raise ValueError(_NO_PERSONALIZATION)
        if text_tokens is None and (self.config["text_projection"] or self.config["text_bias"]):
            # With biases attention to zeros is not zero. One zero token is as good as many, and serves all samples.
            dtype = self.patch_embedding.weight.dtype
            text_tokens = torch.zeros(1, 1, self.config["text_dim"], device=device, dtype=dtype)
        text = as_context(text_tokens, text_mask)
        if text is not None and self.text_embedding is not None:
            text = Context(self.text_embedding(text.tokens), text.mask)
        return text, as_context(references, reference_mask)

    # The network

    def modulations(self, times: Tensor) -> Tensor:
        """Shifts, scales and gates of all layers for a schedule (n,) -> (n, (6 * depth + 2) * D); a row of it goes to
        `forward(modulation=...)`."""
        with onloaded(self):
            *embedded, final = self._embed_time(times, self.dtype)
            final = self.final_layer.adaLN_modulation(final)
        blocks = [
            block.adaLN_modulation(time) for block, time in zip(self._onloaded_blocks(), embedded, strict=True)
        ]
        return torch.cat([*blocks, final], dim=-1)

    def _embed_time(self, t: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """What the modulations of every block, and of the final layer, are made of."""
        t_emb = self.time_embedding(t, dtype)                                              # (B, D)
        if self.time_projection is None:
            return [F.silu(t_emb)] * (len(self.blocks) + 1)
        return [self.time_projection(F.silu(t_emb))] * len(self.blocks) + [t_emb]          # (B, 6 * D), last (B, D)

    def _onloaded_blocks(self) -> Iterator[AlchemistBlock]:
        for block in self.blocks:
            with onloaded(block):
                yield cast(AlchemistBlock, block)

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
        modulation: Tensor | None = None,
    ) -> Tensor:
        """z (B, C, f, h, w), t (B,) in [0, 1] with 1 = noise -> velocity (B, C, f, h, w).

        text_tokens (B, S, D_text), references (B, N * L, d) as `bind` gives them, or a `cache` of both, whose branches
        follow one another in the result (G * B, C, f, h, w). A missing or fully masked condition is the null
        condition. z0_estimate: see self_conditioning. modulation: a row of `modulations`, instead of t.
        """
        if cache is not None and (text_tokens is not None or references is not None):
            raise ValueError("both a cache and a condition are given; expected one of them")
        text = bound = None
        if cache is None:
            text, bound = self._contexts(text_tokens, text_mask, references, reference_mask, z.device)
        tokens, grid = self._patchify(z, z0_estimate)                                      # (B, T, patch channels)
        # What the branches of guidance have in common is computed once: all that comes before the first condition.
        x = self.patch_embedding(tokens)[None]                                             # (1, B, T, D)
        x = x if self.place_embedding is None else self.place_embedding(x, grid)
        if cache is not None and self.is_cache_enabled:  # diffusers' caches add a later block's output to this
            x = x.expand(len(cache.branches), -1, -1, -1)                                  # (G, B, T, D)
        tabulated = modulation is not None
        *times, final_time = self._embed_time(t, z.dtype) if modulation is None else self._split(modulation)
        head_dim = self.config["hidden_size"] // self.config["num_heads"]
        rotation = rope(grid, head_dim, self.config["rope_theta"], z.device)               # 2 x (T, head_dim / 2)
        for i, block in enumerate(self.blocks):
            seen = None if cache is None else cache.seen_by(i)
            inputs = (x, times[i], rotation, text, bound, seen, tabulated)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, *inputs)  # type: ignore[misc]
            else:
                x = block(*inputs)                                                         # (G, B, T, D)
        x = self.final_layer(x, final_time, tabulated)                                     # (G, B, T, patch channels)
        if self.config["input_skip"]:
            x, scale = x.chunk(2, dim=-1)
            x = x + scale * tokens[..., : x.shape[-1]]                                     # without z0_estimate
        f, h, w = grid
        pf, ph, pw = self.patch_size
        return rearrange(
            x, "G B (f h w) (C pf ph pw) -> (G B) C (f pf) (h ph) (w pw)", f=f, h=h, w=w, pf=pf, ph=ph, pw=pw
        )

    def _split(self, modulation: Tensor) -> Sequence[Tensor]:
        """A row of `modulations` -> (1, 6 * D) of every block, (1, 2 * D) of the final layer."""
        width = self.config["hidden_size"]
        return modulation.view(1, -1).split([6 * width] * len(self.blocks) + [2 * width], dim=-1)

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
            if part_of(name) in ("reference_attn", "binding"):
                yield name, parameter


_NO_PERSONALIZATION = (
    "references are given to a stage I transformer (personalization=False); expected none, "
    "or a transformer with personalization=True (see add_personalization)"
)


def add_personalization(transformer: AlchemistTransformer, **options: Any) -> AlchemistTransformer:
    """Stage I -> stage II (App. B.2): the same weights (not copied), plus binding and attention to references; same
    function. options: of personalisation, where the configuration's are not meant (image_dim, max_images ...)."""
    if transformer.config["personalization"]:
        raise ValueError("the transformer has personalization already; expected one of stage I")
    config = {name: value for name, value in transformer.config.items() if not name.startswith("_")}
    with torch.device("meta"):
        extended = AlchemistTransformer(**{**config, **options, "personalization": True})
    missing, unexpected = extended.load_state_dict(transformer.state_dict(), strict=False, assign=True)
    assert not unexpected and set(missing) == {name for name, _ in extended.personalization_parameters()}
    added = [module for module in extended.modules() if any(p.is_meta for p in module.parameters(recurse=False))]
    for module in added:
        module.to_empty(device=transformer.device, recurse=False).to(transformer.dtype)
        cast(nn.Linear, module).reset_parameters()  # also of embeddings and norms
    _initialize_linears(added)
    extended._initialize_personalization()
    return extended.train(transformer.training)


def _initialize_linears(modules: Iterable[nn.Module]) -> None:
    """Xavier; biases zero."""
    for module in modules:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def part_of(name: str) -> str:
    """The part that a parameter belongs to: blocks.3.self_attn.qkv.weight -> self_attn."""
    first, *rest = name.split(".")
    part = rest[1] if first == "blocks" else first
    parts = {"reference_key_value": "reference_attn", "adaLN_modulation": "adaLN", "text_norm": "text_attn"}
    return parts.get(part, part)
