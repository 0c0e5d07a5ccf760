"""A wider transformer that begins as a narrower one: what was learned at little cost is not learned again.

Old channels, heads and units stay as they are. New ones are read at random and write nothing, so they change next to
nothing in the beginning, and have gradients from the first step on.

D model width · K heads · d channels of a head
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from video_alchemist.emojiworld.recipes.origins import CELLS
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.training.localization import FIRST_BLOCK

READ = 0.5  # deviation of the weights that read new channels, over that of the old ones beside them
LATENTS = 0.15  # of the noisy latents in new channels of the first layer, whose other writers are silent yet
CONDITION = ("text_attn.key_value.kv.weight", "reference_attn.key_value.kv.weight")
QUERY = ("text_attn.q.weight", "reference_attn.q.weight")


def widen(transformer: AlchemistTransformer, hidden_size: int, num_heads: int, seed: int = 0) -> AlchemistTransformer:
    """A copy with more channels and heads, as wide as before each, that says nearly the same.

    For transformers of adaLN-Zero by block, without q/k norm and biases in cross-attention, as the shipped one is.
    """
    config = {name: value for name, value in transformer.config.items() if not name.startswith("_")}
    old_width, old_heads = config["hidden_size"], config["num_heads"]
    if hidden_size * old_heads != old_width * num_heads or hidden_size < old_width:
        raise ValueError(
            f"{hidden_size} channels in {num_heads} heads; expected at least {old_width}, "
            f"{old_width // old_heads} a head"
        )
    wide = AlchemistTransformer(**{**config, "hidden_size": hidden_size, "num_heads": num_heads})
    growth = Growth(
        old_width, hidden_size, old_heads, num_heads, len(transformer.blocks), torch.Generator().manual_seed(seed)
    )
    shapes = {name: tensor.shape for name, tensor in wide.state_dict().items()}
    wide.load_state_dict(
        {name: growth.grown(name, old.float(), shapes[name]) for name, old in transformer.state_dict().items()}
    )
    return wide


@dataclass(frozen=True)
class Growth:
    old_width: int
    width: int
    old_heads: int
    heads: int
    depth: int
    generator: torch.Generator

    def grown(self, name: str, old: Tensor, shape: torch.Size) -> Tensor:
        """A parameter (old shape) -> (shape)."""
        if old.shape == shape:
            return old
        first, *rest = name.split(".")
        part, block = (".".join(rest[1:]), int(rest[0])) if first == "blocks" else (name, 0)
        if part.endswith("bias") and "adaLN" not in part and "qkv" not in part:
            return self.padded(old, shape)
        if "adaLN" in part:
            return self.modulation(old, shape, gated=first == "blocks")
        if part.startswith("self_attn.qkv"):
            return torch.cat([self.with_heads(one, range(self.old_heads), reads=True) for one in old.chunk(3)])
        if part in QUERY:
            return self.with_heads(old, self.order(part, block), reads=True)
        if part in CONDITION:
            return torch.cat([self.with_heads(one, self.order(part, block), reads=False) for one in old.chunk(2)])
        if part.endswith("_attn.out.weight"):
            return self.padded(self.reordered(old.T, self.order(part, block)).T, shape)
        if part == "ffn.up.weight":
            return self.reading(torch.cat([old, self.drawn(shape[0] - len(old), self.old_width, like=old)]))
        if part == "final_layer.linear.weight":
            return self.reading(old)
        if part == "patch_embedding.weight":
            drawn = torch.randn(self.width - self.old_width, old.shape[1], generator=self.generator)
            return torch.cat([old, LATENTS * torch.linalg.qr(drawn)[0]])
        if part.startswith("time_embedding"):
            top = self.padded(old, torch.Size((len(old), shape[1])))
            return torch.cat([top, self.drawn(shape[0] - len(old), shape[1], like=old)])
        return self.padded(old, shape)  # what writes: ffn.down, places

    def drawn(self, *shape: int, like: Tensor) -> Tensor:
        return torch.randn(*shape, generator=self.generator) * like.std()

    def padded(self, old: Tensor, shape: torch.Size) -> Tensor:
        new = old.new_zeros(shape)
        new[tuple(slice(0, length) for length in old.shape)] = old
        return new

    def reading(self, old: Tensor) -> Tensor:
        """(o, old D) -> (o, D), of normalised channels: with a third of them quiet the others come out louder."""
        quieter = math.sqrt(self.old_width / self.width)
        fresh = self.drawn(len(old), self.width - self.old_width, like=old)
        return torch.cat([quieter * old, READ * fresh], dim=1)

    def with_heads(self, old: Tensor, order: range | list[int], reads: bool) -> Tensor:
        """(old K * d, ...) -> (K * d, ...); reads: from the residual stream, not from a condition."""
        old = self.reordered(old, order)
        count = (self.heads - self.old_heads) * len(old) // self.old_heads
        if old.ndim == 1:
            return self.padded(old, torch.Size((len(old) + count,)))
        more = torch.cat([old, self.drawn(count, old.shape[1], like=old)])
        return self.reading(more) if reads else more

    def reordered(self, old: Tensor, order: range | list[int]) -> Tensor:
        heads = old.unflatten(0, (self.old_heads, -1))
        return heads[list(order)].flatten(0, 1)

    def order(self, part: str, block: int) -> range | list[int]:
        """Old heads in the order in which they stand in a block. Localization counts heads on from block to block, so
        those that know a cell of the latent must stand where that cell's turn is."""
        taught = block - int(self.depth * FIRST_BLOCK)
        if not part.startswith("reference") or taught < 0:
            return range(self.old_heads)
        cells = CELLS**2
        return sorted(range(self.old_heads), key=lambda head: (head + taught * (self.old_heads - self.heads)) % cells)

    def modulation(self, old: Tensor, shape: torch.Size, gated: bool) -> Tensor:
        """Shifts and scales of new channels are zero, gates those of some old one: a closed gate would never open."""
        parts, fresh = len(old) // self.old_width, self.width - self.old_width
        grown = []
        for i, one in enumerate(old.chunk(parts)):
            chosen = torch.randperm(self.old_width, generator=self.generator)[:fresh]
            is_gate = gated and i in (2, 5)
            grown.append(torch.cat([one, one[chosen] if is_gate else torch.zeros_like(one[:fresh])]))
        return self.padded(torch.cat(grown), shape)
