"""How far a run is, live: units, clips a second, time left, rejects by code. Plain lines where nobody watches."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.table import Table

PLAIN_EVERY = 10.0  # seconds between lines


@dataclass
class Progress:
    """The state of a stage. units, kept and rejected count earlier runs too; sources and clips are of this one."""

    stage: str
    units: int
    sources: int
    earlier_kept: int = 0
    earlier_rejected: Counter[str] = field(default_factory=Counter)
    units_done: int = 0
    sources_done: float = 0.0  # units at work count by their share of settled clips
    clips: int = 0  # that reached their end, kept or rejected
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)

    @property
    def rate(self) -> float:
        """Clips a second."""
        return self.clips / max(time.monotonic() - self.began, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        if self.sources_done <= 0:
            return None
        return (time.monotonic() - self.began) * max(self.sources / self.sources_done - 1, 0.0)

    def line(self) -> str:
        codes = " ".join(f"{code} {count}" for code, count in self.rejected.most_common())
        return (
            f"{self.stage}: {self.units_done}/{self.units} units, {self.rate:.1f} clips/s, "
            f"{_clock(self.seconds_left)} left, kept {self.kept}" + (f"; {codes}" if codes else "")
        )


class Board(Protocol):
    """Where progress is shown."""

    def __call__(self, progress: Progress, final: bool = False) -> None: ...


def silent(progress: Progress, final: bool = False) -> None:
    """Shows nothing."""


@contextmanager
def board() -> Iterator[Board]:
    """Shows progress on stderr: a table that renews itself on a terminal, a line now and then elsewhere."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(lambda text: print(text, file=console.file, flush=True))
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield lambda progress, final=False: live.update(_table(progress))


def _plain(show: Callable[[str], None]) -> Board:
    last = -PLAIN_EVERY

    def line(progress: Progress, final: bool = False) -> None:
        nonlocal last
        if final or time.monotonic() - last >= PLAIN_EVERY:
            last = time.monotonic()
            show(progress.line())

    return line


def _table(progress: Progress) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_row("stage", progress.stage)
    table.add_row("units", f"{progress.units_done} of {progress.units}")
    table.add_row("clips/s", f"{progress.rate:.1f}")
    table.add_row("time left", _clock(progress.seconds_left))
    table.add_row("kept", str(progress.kept))
    for code, count in progress.rejected.most_common():
        table.add_row(f"  {code}", str(count))
    return table


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
