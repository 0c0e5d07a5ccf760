"""From what was begun and not ended to who is to blame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from video_alchemist.curation.journal import Blame, Journal, replay

PAIR, ONE = [("a", "a-0-1"), ("b", "b-0-1")], [("a", "a-0-1")]


class Writer:
    """Writes a journal as workers and the run would, and says what follows from it."""

    def __init__(self, path: Path) -> None:
        self.path, self.attempts = path, 0

    def attempt(self, clips: Sequence[tuple[str, str]] = (), *, how: str | None = None, cleared: str = "") -> Blame:
        """An attempt that clears a suspect, starts a batch and dies in it. how: None = with the whole run."""
        self.attempts += 1
        journal = Journal(self.path, str(self.attempts))
        journal.begin()
        if cleared:
            journal.start("detect", [(cleared, f"{cleared}-0-1")])
            journal.end()
            journal.clear(cleared)
        if clips:
            journal.start("detect", clips)
        if how is not None:
            journal.died(how, 2**30, "last words")
        journal.close()
        return replay(self.path, 60)


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(tmp_path / "journal")


def test_batch_then_twice_alone_then_quarantine(writer: Writer) -> None:
    """Guards against a batch that is quarantined whole, and a clip that is condemned after one death."""
    blame = writer.attempt(PAIR, how="SIGSEGV")
    assert blame.suspects == {"a": "detect", "b": "detect"} and not blame.quarantined
    blame = writer.attempt(ONE, how="SIGSEGV")
    assert set(blame.suspects) == {"a", "b"} and not blame.quarantined
    blame = writer.attempt(ONE, how="SIGSEGV")
    assert blame.quarantined == {("detect", "a-0-1"): ("crashed", "the process died of SIGSEGV")}
    assert set(blame.suspects) == {"b"}
    assert blame.trouble[0]["memory"] == 2**30 and blame.trouble[0]["stderr"] == "last words"


def test_who_survives_alone_but_not_in_company_runs_alone(writer: Writer) -> None:
    """Guards against an endless circle of a batch that dies and whose clips do not."""
    writer.attempt(PAIR, how="SIGKILL")
    blame = writer.attempt(PAIR, how="SIGKILL", cleared="a")
    assert blame.singly == {("detect", "a-0-1"), ("detect", "b-0-1")}


def test_deaths_of_the_whole_run_hardly_count(writer: Writer) -> None:
    """Guards against clips lost because somebody pressed Ctrl-C twenty times."""
    for _ in range(2):
        assert not writer.attempt(PAIR).suspects
    writer.attempt(cleared="a")
    assert not writer.attempt(ONE).suspects
    for _ in range(8):
        blame = writer.attempt(ONE)
    detail = "the process died of unknown causes, and the whole run with it"
    assert list(blame.quarantined.values()) == [("crashed", detail)]


def test_deaths_outside_of_steps(writer: Writer) -> None:
    """Guards against a model that kills while it loads, for ever."""
    writer.attempt(how="SIGKILL")
    assert writer.attempt(how="SIGKILL").unexplained == 2


def test_torn_line_and_orphan(writer: Writer) -> None:
    """Guards against a journal that a death in the middle of a line makes unreadable, and against a late orphan."""
    writer.attempt(PAIR, how="SIGSEGV")
    with writer.path.open("a") as file:
        file.write('["1", "sta')
    orphan = Journal(writer.path, "1")
    new = Journal(writer.path, "2")
    new.begin()
    new.start("detect", ONE)
    orphan.end()
    new.died("SIGSEGV", 0, "")
    assert replay(writer.path, 60).singly == {("detect", "a-0-1")}
    assert replay(writer.path.with_name("none"), 60) == Blame()
