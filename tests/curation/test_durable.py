"""Files that are whole or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from video_alchemist.curation.durable import locked, place, write_text


def test_copy_where_links_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against file systems without hard links, and against a full disk taken for one."""

    def no_link(code: int) -> None:
        def link(*names: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "link", link)

    (tmp_path / "a").write_text("clips")
    place(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").samefile(tmp_path / "a")
    no_link(errno.EPERM)
    (tmp_path / ".c.tmp").write_text("of a run that was killed")
    place(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "clips" and not (tmp_path / "c").samefile(tmp_path / "a")
    no_link(errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        place(tmp_path / "a", tmp_path / "d")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_text_is_replaced_whole(tmp_path: Path) -> None:
    """Guards against a manifest that is half of the old and half of the new."""
    write_text(tmp_path / "a.json", "a longer text")
    write_text(tmp_path / "a.json", "short 🦊")
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "short 🦊"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_lock_is_given_back(tmp_path: Path) -> None:
    """Guards against a lock that outlives its run."""
    lock = tmp_path / "lock"
    with pytest.raises(KeyError), locked(lock):
        with pytest.raises(ValueError, match="another run"), locked(lock):
            pass
        raise KeyError
    with locked(lock):
        pass
