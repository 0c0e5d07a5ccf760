"""Videos as files, written whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from video_alchemist.video import contact_sheet, read_video, write_video


def smooth_frames(num_frames: int, height: int, width: int) -> np.ndarray:
    y, x, t = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), np.arange(num_frames), indexing="ij")
    rgb = np.stack([x, y, (x + t / num_frames) % 1], axis=-1)
    return (rgb.transpose(2, 0, 1, 3) * 255).astype(np.uint8)


def test_round_trip(tmp_path: Path) -> None:
    """Guards against lost frames, swapped channels, swapped sides and a wrong frame rate."""
    frames = smooth_frames(9, 32, 48)
    write_video(tmp_path / "new" / "a.mp4", frames, 23.976)
    decoded, fps = read_video(tmp_path / "new" / "a.mp4")
    assert decoded.shape == frames.shape
    assert fps == pytest.approx(23.976, abs=1e-3)
    assert np.abs(decoded.astype(int) - frames).mean() < 4
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.mp4"]


def test_odd_sizes_keep_their_pixels(tmp_path: Path) -> None:
    """Guards against yuv420p's refusal of odd sizes: they grow by a row and a column."""
    frames = smooth_frames(5, 33, 47)
    write_video(tmp_path / "a.mp4", frames, 12)
    decoded, _ = read_video(tmp_path / "a.mp4")
    assert decoded.shape == (5, 34, 48, 3)
    assert np.abs(decoded[:, :33, :47].astype(int) - frames).mean() < 4


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a half-written video in the place of a whole one."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_video(path, smooth_frames(3, 16, 16), 12)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_frames_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"frames are \(3, 16, 16, 3\) of float64; expected \(F, H, W, 3\) of uint8"):
        write_video(tmp_path / "a.mp4", np.zeros((3, 16, 16, 3)), 12)
    assert not list(tmp_path.iterdir())


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("not a video")
    with pytest.raises(ValueError, match="a.mp4' is not a video"):
        read_video(tmp_path / "a.mp4")
    with pytest.raises(FileNotFoundError, match="no such video"):
        read_video(tmp_path / "b.mp4")


def test_contact_sheet_shows_all_pictures() -> None:
    """Guards against rows of different length that overwrite each other or fall off the sheet."""
    red, blue = Image.new("RGB", (10, 20), "red"), Image.new("RGB", (30, 10), "blue")
    sheet = contact_sheet([[red, blue], [blue]], ["first", "second"], cell=40)
    colors = {color for _, color in sheet.getcolors(1 << 16) or []}
    assert {(255, 0, 0), (0, 0, 255), (255, 255, 255)} <= colors
    assert sheet.width > 2 * 40 and sheet.height > 2 * 40
