"""Teaching attention to references where to look, for data that knows what of a reference is seen where.

Subjects that are small in the frame are learned slowly from the velocity alone: until attention finds the right place
of the right picture, copying it gains nothing, and until copying gains something, nothing tells attention where to
look. The paper trains without this; FastComposer (Xiao et al. 2023) supervises the same attention with masks.

A video token shows more of a reference than one of its tokens does, and what one head brings from several places is
their mean. So every head is taught another cell of the video token, as far as there are heads.

B batch · T video tokens · C cells of a video token · K heads · d channels of a head · H heads of all blocks
N reference images · L tokens of one image · S tokens of a condition, N * L
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from video_alchemist.model.attention import CrossAttention, KeyValue
from video_alchemist.model.block import AlchemistBlock
from video_alchemist.model.transformer import AlchemistTransformer

HIDDEN = -1e4  # score of a masked token: finite, for its logarithm is multiplied by zero
FIRST_BLOCK = 1 / 3  # of the depth; before, tokens hardly know what they will be part of


@contextmanager
def watched(transformer: AlchemistTransformer) -> Iterator[list[tuple[Tensor, KeyValue]]]:
    """While it lasts, forwards add to the list: queries (B, T, K, d) and the references' keys, once a later block.

    Only what the block computes anyway is noted: what it is made of may be divided over ranks, or be computed again.
    """
    seen: list[tuple[Tensor, KeyValue]] = []
    contexts: list[KeyValue] = []

    def note_references(_: CrossAttention, inputs: tuple[Any, ...]) -> None:
        contexts[:] = inputs[1]

    def note_queries(_: nn.Module, __: Any, queries: Tensor) -> None:
        seen.append((queries, contexts[0]))

    blocks = cast(Sequence[AlchemistBlock], transformer.blocks)
    later = blocks[int(len(blocks) * FIRST_BLOCK) :]
    attentions = [block.reference_attn for block in later if block.reference_attn is not None]
    handles = [attention.register_forward_pre_hook(note_references) for attention in attentions]
    handles += [attention.q_norm.register_forward_hook(note_queries) for attention in attentions]
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled blocks call no hooks that came later
            yield seen
    finally:
        for handle in handles:
            handle.remove()


def log_weights(queries: Tensor, context: KeyValue) -> Tensor:
    """Logarithms of the weights with which queries (B, T, K, d) attend to a context's tokens: (B, K, T, S) float32."""
    q = queries.transpose(1, 2).float()                                                    # (B, K, T, d)
    scores = q @ context.key.float().transpose(-1, -2) * q.shape[-1] ** -0.5               # (B, K, T, S)
    if context.mask is not None:
        scores = scores.masked_fill(~context.mask, HIDDEN)
    return scores.log_softmax(dim=-1)


def localization_loss(seen: Sequence[Tensor], origin: Tensor) -> Tensor:
    """Cross-entropy (B,) between log attention (B, K, T, N * L) of several blocks and origin (B, T, C, N * L), the
    share of each cell of a video token that each reference token shows. Heads, counted on from block to block, take
    cells in turn; averaged over heads and, over the whole batch, over what has an origin."""
    attention, num_cells = torch.cat(list(seen), dim=1), origin.shape[2]                   # (B, H, T, N * L)
    missed, weight = origin.new_zeros(len(origin)), origin.new_zeros(())                   # (B,), ()
    for cell in range(min(num_cells, attention.shape[1])):
        heads, where = attention[:, cell::num_cells], origin[:, :, cell]                   # where: (B, T, N * L)
        missed = missed - (where * heads.sum(dim=1)).sum(dim=(1, 2))
        weight = weight + where.sum() * heads.shape[1]
    return missed * len(origin) / weight.clamp(min=1)
