"""Clips that look alike."""

from __future__ import annotations

import numpy as np

from video_alchemist.dataset.duplicates import look_alikes


def test_groups() -> None:
    """Guards against an edge that is off by one, clips without a hash, and chains that fall apart."""
    hashes = {"b": "0f", "a": "00", "c": "1f", "d": "ffffffff", "e": "", "f": "ffffffff", "g": ""}
    assert look_alikes(hashes) == [["a", "b", "c"], ["d", "f"]]  # a-b 4 bits, b-c 1, a-c 5
    assert look_alikes(hashes, near=3) == [["b", "c"], ["d", "f"]]
    assert look_alikes({}) == [] == look_alikes({"a": ""})


def test_no_pair_is_missed() -> None:
    """Guards against pieces of the hash that leave bits out: compared with every pair, differences anywhere."""
    rng = np.random.default_rng(0)
    hashes = {}
    for i in range(40):
        value = int(rng.integers(2**63))
        hashes[f"{i:02d}a"] = f"{value:016x}"
        for bit in rng.choice(64, size=int(rng.integers(1, 8)), replace=False):
            value ^= 1 << int(bit)
        hashes[f"{i:02d}b"] = f"{value:016x}"
    names = list(hashes)
    near = [
        [one, other]
        for k, one in enumerate(names)
        for other in names[k + 1 :]
        if (int(hashes[one], 16) ^ int(hashes[other], 16)).bit_count() <= 4
    ]
    assert near and sorted(look_alikes(hashes)) == sorted(near)
