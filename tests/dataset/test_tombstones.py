"""What must go can be named, whether or not it was kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from video_alchemist.curation.clip import Source
from video_alchemist.curation.manifest import freeze
from video_alchemist.dataset.tombstones import buried_sources, take_down


def test_rejected_sources_can_be_taken_down(tmp_path: Path) -> None:
    """Guards against a video that comes back with other thresholds since it was rejected when its owner objected; also
    before the first shard is there."""
    freeze([Source("beach-1a-0_9", "b.mp4", video="beach-1a"), Source("park-2b", "p.mp4")], tmp_path)
    assert take_down(tmp_path, ["park-2b", "beach-1a"]) == ["beach-1a", "park-2b"] == buried_sources(tmp_path)
    with pytest.raises(ValueError, match="no source 'bech-1a' in .*; did you mean 'beach-1a'"):
        take_down(tmp_path, ["bech-1a"])
    with pytest.raises(ValueError, match="holds no dataset.json"):
        take_down(tmp_path / "nothing", ["park-2b"])
