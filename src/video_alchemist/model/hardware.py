"""What graphics cards can do, as data: dense bf16 matrix products with fp32 sums, and memory (vendors' data sheets)."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    name: str
    flops: float  # FLOP/s, dense bf16; 0 = not known
    memory: float  # bytes

    @property
    def usable(self) -> float:
        """Bytes: a tenth is for the driver, NCCL, the libraries' workspaces and what the allocator cannot fill."""
        return 0.9 * self.memory


GPUS = {
    name: Gpu(name, teraflops * 1e12, gibibytes * GIB)
    for name, teraflops, gibibytes in (
        ("a100-40gb", 312, 40),
        ("a100-80gb", 312, 80),
        ("h100-80gb", 989, 80),
        ("h200", 989, 140),
        ("b200", 2250, 179),
        ("mi300x", 1307, 192),
        ("l40s", 362, 45),
        ("l4", 121, 22),
        ("a6000", 155, 48),
        ("rtx6000-ada", 364, 48),
        ("rtx3090", 71, 24),
        ("rtx4090", 165, 24),
        ("rtx5090", 209, 32),
    )
}


def find_gpu(name: str) -> Gpu:
    """A card by name ("a100-80gb"), or by memory alone ("24GB", then without a speed)."""
    if name.lower() in GPUS:
        return GPUS[name.lower()]
    memory = re.fullmatch(r"(\d+(?:\.\d+)?)\s*gi?b", name.strip(), re.IGNORECASE)
    if memory:
        return Gpu(name, 0.0, float(memory[1]) * GIB)
    nearest = difflib.get_close_matches(name.lower(), GPUS, 1, cutoff=0)[0]
    raise ValueError(f"gpu {name!r}; expected one of {', '.join(GPUS)}, or a memory like 24GB; nearest: {nearest}")
