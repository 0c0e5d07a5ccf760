"""How far the scoring is, live on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PLAIN_EVERY = 10.0  # seconds between lines


@contextmanager
def watch(total: int, shown: bool = True) -> Iterator[Callable[[str], None]]:
    """Gives a function that is told of every video that is done."""
    if not shown:
        yield lambda name: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(total, lambda text: print(text, file=console.file, flush=True))
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[name]}"))
    with Progress(TextColumn("videos"), *columns, console=console) as bars:
        bar = bars.add_task("videos", total=total, name="")
        yield lambda name: bars.update(bar, advance=1, name=name)


def _plain(total: int, show: Callable[[str], None]) -> Callable[[str], None]:
    began = last = time.monotonic()
    done = 0

    def line(name: str) -> None:
        nonlocal last, done
        done += 1
        now = time.monotonic()
        if done == total or now - last >= PLAIN_EVERY:
            last = now
            left = (now - began) / done * (total - done)
            show(f"{done}/{total} videos, {done / max(now - began, 1e-9):.2f} videos/s, {left:.0f} s left: {name}")

    return line
