"""The frozen manifest: places that never move."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_stage import sources

from video_alchemist.curation.clip import Source
from video_alchemist.curation.manifest import freeze, read_manifest


def ids(manifest) -> list[list[str]]:
    return [[source.id for source in unit] for unit in manifest.units]


def test_order_of_inputs_changes_nothing(tmp_path: Path) -> None:
    """Guards against units that depend on the order in which a folder is listed."""
    given = sources(7)
    one, other = freeze(given, tmp_path / "a", 3), freeze(given[::-1], tmp_path / "b", 3)
    assert one == other == read_manifest(tmp_path / "a")
    assert ids(one) == [["s000", "s001", "s002"], ["s003", "s004", "s005"], ["s006"]]
    assert (tmp_path / "a/.work/manifest.json").read_bytes() == (tmp_path / "b/.work/manifest.json").read_bytes()


def test_places_are_kept_and_new_sources_appended(tmp_path: Path) -> None:
    """Guards against a source that changes its shard because another one came or went."""
    first = freeze(sources(5), tmp_path, 3)
    later = [Source("a000", "first of all.mp4"), *sources(5)[2:]]
    changed = replace(later[-1], caption="A dog")
    second = freeze([*later[:-1], changed], tmp_path, 3)
    assert second.units[0] == first.units[0]
    assert second.units[1] == (first.units[1][0], changed)
    assert ids(second)[2:] == [["a000"]]


def test_unchanged_manifest_is_not_written_again(tmp_path: Path) -> None:
    """Guards against metadata that differs from itself after a way through JSON."""
    given = [Source("a", "ä \udc80;'\".mp4", "🦊", metadata={"size": (1, 2)})]
    first = freeze(given, tmp_path)
    stamp = (tmp_path / ".work/manifest.json").stat().st_mtime_ns
    assert freeze(given, tmp_path) == first
    assert (tmp_path / ".work/manifest.json").stat().st_mtime_ns == stamp
    assert first.units[0][0].path == given[0].path


@pytest.mark.parametrize(
    ("given", "unit_size", "words"),
    [
        ([Source("a", "x.mp4"), Source("a", "y.mp4")], 4, "'y.mp4' and 'x.mp4' have the same id 'a'"),
        ([Source("a b", "x.mp4")], 4, "id 'a b' of 'x.mp4'; expected letters"),
        ([Source("a", "x.mp4", metadata={"raw": b""})], 4, "expected what JSON knows"),
        ([], 4, "no videos to curate"),
        ([Source("a", "x.mp4")], 0, "unit size 0; expected 1 to 512"),
    ],
)
def test_wrong_input_is_named(tmp_path: Path, given: list[Source], unit_size: int, words: str) -> None:
    """Guards against two videos that overwrite each other, and against half a manifest."""
    with pytest.raises(ValueError, match=words):
        freeze(given, tmp_path, unit_size)
    assert not (tmp_path / ".work").exists()
    with pytest.raises(ValueError, match="expected the output folder of a curation"):
        read_manifest(tmp_path)
