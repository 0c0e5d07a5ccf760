"""Which clip killed a worker: what was begun and not ended when a process died, and what follows from it.

A segfault in a decoder or the kernel's OOM killer takes the whole process, so nobody is left to report. Hence every
batch is written down before it starts. After a death the open clips are suspects: each is tried alone, first thing in
the next attempt and without using the result. Who is open alone when the third worker dies is quarantined. Who only
kills in company runs alone from then on. Where the whole run died (a container out of memory, but mostly somebody's
Ctrl-C) the suspicion weighs a third, and is forgotten when the clip passes.

One line an event, JSON: [attempt, kind, ...]. Lines of an attempt that another has followed are of an orphan: ignored.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CRASHED, TIMED_OUT = "crashed", "timed_out"
OBSERVED, UNOBSERVED = 3, 1  # points for a death that was seen to be a worker's own, and for one of the whole run
SUSPECTED, ALONE, GUILTY = 3, 6, 9
Key = tuple[str, str]  # step, clip id


class Journal:
    """A unit's journal, open for appending. Every line is one write, which outlives the process at once."""

    def __init__(self, path: Path, attempt: str) -> None:
        self.attempt = attempt
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":  # whoever wrote last died in the middle of a line
            os.write(self._file, b"\n")

    def _append(self, *event: Any) -> None:
        os.write(self._file, json.dumps([self.attempt, *event]).encode() + b"\n")

    def begin(self) -> None:
        self._append("begin")

    def start(self, step: str, clips: Sequence[tuple[str, str]]) -> None:
        """clips: (root id, clip id); the root is the source, or what was read, that the clip came from."""
        self._append("start", time.time(), step, clips)

    def end(self) -> None:
        self._append("end")

    def clear(self, root: str) -> None:
        """A suspect survived being alone."""
        self._append("clear", root)

    def died(self, how: str, memory: int, words: str) -> None:
        """how: "SIGSEGV", "exit code 1". memory: bytes resident when last seen. words: the end of stderr."""
        self._append("died", time.time(), how, memory, words)

    def close(self) -> None:
        os.close(self._file)


@dataclass
class Blame:
    """What follows from a journal.

    suspects: root id -> the step up to which it is to be tried alone.
    singly: whose batches killed more than once.
    quarantined: (code, detail); the same words on every machine, so that shards are the same.
    trouble: more on those, for people.
    unexplained: deaths outside of any step, e.g. while models were loaded.
    """

    suspects: dict[str, str] = field(default_factory=dict)
    singly: frozenset[Key] = frozenset()
    quarantined: dict[Key, tuple[str, str]] = field(default_factory=dict)
    trouble: list[dict[str, Any]] = field(default_factory=list)
    unexplained: int = 0


def replay(path: Path, time_limit: float) -> Blame:
    """Reads a unit's journal while nobody works on the unit. time_limit: seconds that a batch may take."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return _Replay(time_limit).of(lines)


class _Replay:
    def __init__(self, time_limit: float) -> None:
        self.time_limit = time_limit
        self.blame = Blame()
        self.observed: Counter[Key] = Counter()
        self.unobserved: Counter[Key] = Counter()
        self.open: list[Any] | None = None  # [time, step, clips]

    def of(self, lines: Sequence[str]) -> Blame:
        attempt = None
        for line in lines:
            try:
                token, kind, *rest = json.loads(line)
            except ValueError:  # cut short by a death
                continue
            if kind == "begin":
                self._death(None)
                attempt = token
            elif token == attempt:
                self._event(kind, rest)
        self._death(None)
        points = self.observed + self.unobserved
        self.blame.singly = frozenset(key for key in points if self._points(key) >= ALONE)
        return self.blame

    def _event(self, kind: str, rest: list[Any]) -> None:
        if kind == "start":
            self.open = rest
        elif kind == "end" and self.open is not None:
            for _, clip in self.open[2]:
                self.unobserved.pop((self.open[1], clip), None)
            self.open = None
        elif kind == "clear":
            self.blame.suspects.pop(rest[0], None)
        elif kind == "died":
            if self.open is None:
                self.blame.unexplained += 1
            self._death(dict(zip(("time", "how", "memory", "stderr"), rest, strict=True)))

    def _points(self, key: Key) -> int:
        return OBSERVED * self.observed[key] + UNOBSERVED * self.unobserved[key]

    def _death(self, death: Mapping[str, Any] | None) -> None:
        """None: the whole run died, if anything was open at all."""
        if self.open is None:
            return
        began, step, clips = self.open
        self.open = None
        for root, clip in clips:
            key = (step, clip)
            (self.unobserved if death is None else self.observed)[key] += 1
            if self._points(key) >= GUILTY and len(clips) == 1:
                self._quarantine(key, began, death)
                self.blame.suspects.pop(root, None)
            elif self._points(key) >= SUSPECTED:
                self.blame.suspects[root] = step

    def _quarantine(self, key: Key, began: float, death: Mapping[str, Any] | None) -> None:
        step, clip = key
        how = "of unknown causes, and the whole run with it" if death is None else f"of {death['how']}"
        code, detail = CRASHED, f"the process died {how}"
        if death is not None and death["how"] == "exit code 1" and death["time"] - began >= self.time_limit:
            code, detail = TIMED_OUT, f"no answer within {self.time_limit:g} s"
        self.blame.quarantined[key] = (code, detail)
        self.blame.trouble.append({"clip": clip, "step": step, "code": code, "detail": detail} | dict(death or {}))
