"""The curves of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from video_alchemist.training import plot
from video_alchemist.training.plot import curves, read_metrics, smooth


def test_smooth_in_closed_form() -> None:
    """Guards against a curve dragged down by its start: a constant stays, and half-life 1 weighs 1 : 2."""
    assert smooth([3.0] * 5, half_life=10) == pytest.approx([3.0] * 5)
    assert smooth([1.0, 8.0], half_life=1) == pytest.approx([1.0, 4.0])


def test_curves_of_a_run_killed_in_the_middle_of_a_line(tmp_path: Path) -> None:
    """Guards against a last line cut short that makes the whole run unreadable."""
    rows = [
        {
            "step": i + 1,
            "stage": "I" if i < 3 else "II",
            "loss": 1 / (i + 1),
            "bucket": "ab"[i % 2],
            "loss_by_time": [None, 0.5 + i / 10],
        }
        for i in range(6)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 7, "lo')
    assert read_metrics(tmp_path) == rows
    assert [path.name for path in curves(tmp_path)] == ["loss.png", "loss_by_bucket.png", "loss_by_time.png"]
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as picture:
            assert picture.size == (840, 480)


def test_a_stage_that_comes_twice_is_drawn_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a curve of the last stretch alone, where a run was lengthened and went back a stage."""
    rows = [{"step": i + 1, "stage": "ABA"[i // 2], "loss": 1.0 + i} for i in range(6)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = {}
    monkeypatch.setattr(plot, "_draw", lambda path, lines, *_, **__: drawn.setdefault(path.name, dict(lines)))
    curves(tmp_path)
    assert drawn["loss.png"] == {"A": [(1, 1.0), (2, 2.0), (5, 5.0), (6, 6.0)], "B": [(3, 3.0), (4, 4.0)]}


def test_no_metrics(tmp_path: Path) -> None:
    """Guards against an empty picture where the folder is not a run."""
    with pytest.raises(ValueError, match="has no metrics"):
        curves(tmp_path)
