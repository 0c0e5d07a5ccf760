"""What a run says of itself."""

from __future__ import annotations

from collections import Counter

import pytest
from rich.console import Console

from video_alchemist.curation.progress import Progress, _table, board


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> Progress:
    """After 100 s, a quarter of the sources done."""
    monkeypatch.setattr("video_alchemist.curation.progress.time.monotonic", lambda: 1100.0)
    rejected = Counter(no_motion=7, too_short=30)
    return Progress(
        "annotate", 8, 1000, units_done=2, sources_done=250, clips=400, kept=63, rejected=rejected, began=1000.0
    )


LINE = "annotate: 2/8 units, 4.0 clips/s, 0:05:00 left, kept 63; too_short 30 no_motion 7"


def test_rate_and_time_left(progress: Progress) -> None:
    """Guards against a time left that counts what earlier runs did."""
    assert progress.line() == LINE
    assert Progress("annotate", 8, 1000, began=1000.0).line().startswith("annotate: 0/8 units, 0.0 clips/s, ? left")


def test_plain_lines_elsewhere(progress: Progress, capsys: pytest.CaptureFixture) -> None:
    """Guards against logs full of control characters, and of a line every quarter of a second."""
    with board() as show:
        for _ in range(5):
            show(progress)
        show(progress, final=True)
    assert capsys.readouterr().err.splitlines() == [LINE, LINE]


def test_table_on_a_terminal(progress: Progress) -> None:
    """Guards against rejects that are counted and not shown."""
    console = Console(width=60, force_terminal=True)
    with console.capture() as capture:
        console.print(_table(progress))
    rows = [line.split() for line in capture.get().splitlines()]
    assert rows == [
        ["stage", "annotate"],
        ["units", "2", "of", "8"],
        ["clips/s", "4.0"],
        ["time", "left", "0:05:00"],
        ["kept", "63"],
        ["too_short", "30"],
        ["no_motion", "7"],
    ]
