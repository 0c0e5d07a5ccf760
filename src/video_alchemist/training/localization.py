"""Teaching attention to references where to look, for data that knows what of a reference is seen where.

Subjects that are small in the frame are learned slowly from the velocity alone: until attention finds the right place
of the right picture, copying it gains nothing, and until copying gains something, nothing tells attention where to
look. The paper trains without this; FastComposer (Xiao et al. 2023) supervises the same attention with masks.

B batch · T video tokens · D model width · K heads · d channels of a head
N reference images · L tokens of one image · S tokens of a condition, N * L
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor

from video_alchemist.model.attention import CrossAttention, KeyValue
from video_alchemist.model.block import AlchemistBlock
from video_alchemist.model.transformer import AlchemistTransformer

HIDDEN = -1e4  # score of a masked token: finite, for its logarithm is multiplied by zero
FIRST_BLOCK = 1 / 3  # of the depth; before, tokens hardly know what they will be part of


@contextmanager
def watched(transformer: AlchemistTransformer) -> Iterator[list[Tensor]]:
    """While it lasts, forwards add to the list: log attention to references (B, K, T, N * L), once a later block."""
    seen: list[Tensor] = []

    def note(module: CrossAttention, inputs: tuple[Any, ...]) -> None:
        x, (references,) = inputs
        seen.append(log_weights(module, x, references))

    blocks = cast(Sequence[AlchemistBlock], transformer.blocks)
    later = blocks[int(len(blocks) * FIRST_BLOCK) :]
    attentions = [block.reference_attn for block in later if block.reference_attn is not None]
    handles = [attention.register_forward_pre_hook(note) for attention in attentions]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def log_weights(attention: CrossAttention, x: Tensor, context: KeyValue) -> Tensor:
    """Logarithms of the weights with which video tokens (B, T, D) attend to a context's: (B, K, T, S) float32."""
    q = rearrange(attention.q(x), "B T (K d) -> B T K d", K=attention.num_heads)
    q = attention.q_norm(q).transpose(1, 2).float()                                        # (B, K, T, d)
    scores = q @ context.key.float().transpose(-1, -2) * q.shape[-1] ** -0.5               # (B, K, T, S)
    if context.mask is not None:
        scores = scores.masked_fill(~context.mask, HIDDEN)
    return scores.log_softmax(dim=-1)


def localization_loss(seen: list[Tensor], origin: Tensor) -> Tensor:
    """Cross-entropy (B,) between attention and origin (B, T, N * L), the share of each video token that each reference
    token shows; averaged over heads, blocks and, over the whole batch, over tokens that have an origin."""
    weight = origin.sum().clamp(min=1) / len(origin)
    attention = torch.stack([block.mean(dim=1) for block in seen]).mean(dim=0)             # (B, T, N * L)
    return -(origin * attention).sum(dim=(1, 2)) / weight
