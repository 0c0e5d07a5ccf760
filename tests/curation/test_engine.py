"""The engine, in process: what is written, when it is done again, and when the run stops."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tiny_stage import (
    VERSIONS,
    annotate,
    background,
    clips_of,
    expected,
    finish,
    published,
    read,
    sources,
    write_unless_full,
)

from video_alchemist.curation import durable
from video_alchemist.curation.clip import Source
from video_alchemist.curation.engine import Limits, run
from video_alchemist.curation.executors import Inline
from video_alchemist.curation.manifest import freeze
from video_alchemist.curation.progress import Progress
from video_alchemist.curation.receipts import Receipt
from video_alchemist.curation.stage import Stage

COUNT, UNIT_SIZE = 10, 4
LENIENT = Limits(failure_share=1.0)


def curate(
    out: Path, *stages: Stage, given: list[Source] | None = None, limits: Limits = LENIENT, only: str | None = None
) -> dict[str, list[Receipt]]:
    manifest = freeze(sources(COUNT) if given is None else given, out, UNIT_SIZE)
    return run(out, manifest, stages or (annotate(),), Inline(), finish, limits=limits, only=only)


def test_shards_hold_every_clip_once_in_order(tmp_path: Path) -> None:
    """Guards against clips lost or doubled where a video becomes several, and against an order that is of batches."""
    results = curate(tmp_path / "a b;c")
    kept, rejected = clips_of(tmp_path / "a b;c")
    assert kept == expected(COUNT)
    assert rejected == {"s003": "too_short"}
    receipts = results["annotate"]
    assert [receipt.sources for receipt in receipts] == [4, 4, 2]
    assert [receipt.clips - receipt.kept for receipt in receipts] == [1, 0, 0]
    assert list(receipts[0].seconds) == ["read", *VERSIONS, "write"]


def test_runs_are_byte_identical_and_resume_does_nothing(tmp_path: Path) -> None:
    """Guards against times or random names in what is published, and against finished units done again."""
    loads = tmp_path / "loads"
    curate(tmp_path / "a", annotate(loads=loads))
    first = published(tmp_path / "a")
    for out in ("b", "a", "b"):
        curate(tmp_path / out, annotate(loads=loads))
        assert published(tmp_path / out) == first
    assert len(loads.read_text().splitlines()) == 2


def test_changed_config_goes_to_another_address(tmp_path: Path) -> None:
    """Guards against results of two configurations mixed in one data set."""
    curate(tmp_path)
    curate(tmp_path, annotate(config={"threshold": 0.5}))
    curate(tmp_path, annotate())
    folders = list((tmp_path / ".work").glob("annotate-*"))
    assert len(folders) == 2
    assert {json.loads((folder / "stage.json").read_text())["config"]["threshold"] for folder in folders} == {0.4, 0.5}


def test_steps_are_those_of_the_address(tmp_path: Path) -> None:
    """Guards against a step whose version was raised without the address knowing."""
    with pytest.raises(ValueError, match="makes steps .*'cut': 1.*expected .*'cut': 2"):
        curate(tmp_path, annotate(versions=VERSIONS | {"cut": 2}))


def test_sources_that_come_change_or_go(tmp_path: Path) -> None:
    """Guards against a new video that makes all shards be done again, and a new caption that changes nothing."""
    curate(tmp_path)
    before = published(tmp_path)
    given = sources(COUNT + 1, s005="A dog")
    results = curate(tmp_path, given=[*given[:2], *given[3:]])
    after = published(tmp_path)
    changed = {name for name in before.keys() | after if before.get(name) != after.get(name)}
    assert changed == {"dataset.json", "examples-00001.txt", "examples-00003.txt", "examples-rejects-00003.jsonl"}
    assert clips_of(tmp_path)[0] == expected(COUNT + 1)
    assert [receipt.sources for receipt in results["annotate"]] == [4, 4, 2, 1]


def test_second_stage_alone_later(tmp_path: Path) -> None:
    """Guards against a cheap stage that is repeated, or an expensive one that is started, with the other."""
    loads, paints = tmp_path / "loads", tmp_path / "paints"
    out = tmp_path / "out"
    stages = (annotate(loads=loads), background(loads=paints))
    with pytest.raises(ValueError, match="'background' reads 'annotate', which is not done"):
        curate(out, *stages, only="background")
    assert set(curate(out, *stages, only="annotate")) == {"annotate"}
    assert not paints.exists() and not list(out.glob("background-*"))
    results = curate(out, *stages, only="background")
    assert len(loads.read_text().splitlines()) == len(paints.read_text().splitlines()) == 1
    assert clips_of(out, "background") == (
        [id for id in expected(COUNT) if not id.startswith("s005")],
        {id: "background_not_clean" for id in expected(COUNT) if id.startswith("s005")},
    )
    assert results["background"][1].sources == results["annotate"][1].kept
    curate(out, *stages, given=sources(COUNT, s009="A dog"))
    assert [path.name for path in sorted(out.glob("background-0*"))] == [f"background-0000{n}.txt" for n in range(3)]
    assert '"A dog"' in (out / "background-00002.txt").read_text()


def test_first_stage_alone_leaves_what_the_second_made(tmp_path: Path) -> None:
    """Guards against costly backgrounds that vanish since new videos were annotated, and against those of a changed
    annotation that stay."""
    stages = (annotate(), background())
    curate(tmp_path, *stages)
    given = sources(COUNT + 1, s005="A dog")
    assert set(curate(tmp_path, *stages, given=given, only="annotate")) == {"annotate"}
    assert [path.name for path in sorted(tmp_path.glob("background-0*"))] == [
        "background-00000.txt",
        "background-00002.txt",
    ]
    curate(tmp_path, *stages, given=given)
    curate(tmp_path / "at once", *stages, given=sources(COUNT), only="annotate")
    curate(tmp_path / "at once", *stages, given=given)
    assert published(tmp_path) == published(tmp_path / "at once")


def test_what_is_no_longer_made_is_taken_away(tmp_path: Path) -> None:
    """Guards against sibling shards of an earlier run beside examples they do not belong to."""
    (tmp_path / "mine.txt").write_text("mine")
    curate(tmp_path, annotate(), background())
    curate(tmp_path, annotate())
    assert not list(tmp_path.glob("background-*"))
    assert (tmp_path / "mine.txt").exists()


def test_failing_clip_is_rejected_alone(tmp_path: Path) -> None:
    """Guards against a batch that goes with one of its clips, and against a step that forgets or invents clips."""
    results = curate(tmp_path, given=sources(COUNT, s001="raise@look", s005="exit@measure", s006="nothing"))
    kept, rejected = clips_of(tmp_path)
    assert kept == [id for id in expected(COUNT) if id[:4] not in ("s001", "s005", "s006")]
    assert rejected == {
        "s003": "too_short",
        "s001": "failed",
        "s006": "failed",
        **{id: "failed" for id in expected(COUNT) if id.startswith("s005")},
    }
    assert "\"KeyError: 'cannot\\\\ns001'\"" in (tmp_path / "examples-rejects-00000.jsonl").read_text()
    assert "Traceback" in results["annotate"][0].trouble[0]["traceback"]


def test_transient_rejects_are_tried_again_permanent_ones_not(tmp_path: Path) -> None:
    """Guards against a clip that is lost for good because the network was away for a minute."""
    mark, loads = tmp_path / "plugged in", tmp_path / "loads"
    given = [replace(one, path=str(mark)) for one in sources(COUNT, s001="unplugged@look", s005="raise@look")]
    out = tmp_path / "out"
    for _ in range(2):
        curate(out, annotate(loads=loads), given=given)
        assert clips_of(out)[1] == {"s003": "too_short", "s001": "io_error", "s005": "failed"}
    mark.touch()
    results = curate(out, annotate(loads=loads), given=given)
    assert clips_of(out)[1] == {"s003": "too_short", "s005": "failed"}
    assert [receipt.transient for receipt in results["annotate"]] == [0, 0, 0]
    curate(out, annotate(loads=loads), given=given)
    assert len(loads.read_text().splitlines()) == 3


def test_full_disk_stops_and_loses_nothing(tmp_path: Path) -> None:
    """Guards against shards cut short, and clips blamed for a full disk."""
    out, room = tmp_path / "out", tmp_path / "room"
    stage = annotate(write=partial(write_unless_full, room=room))
    with pytest.raises(OSError, match="the disk is full; free some space"):
        curate(out, stage)
    assert published(out) == {} and not list(out.glob(".work/*/*.tmp-*"))
    room.touch()
    curate(out, stage)
    curate(tmp_path / "undisturbed")
    assert published(out) == published(tmp_path / "undisturbed")
    with pytest.raises(OSError, match="the disk is full"):
        curate(tmp_path / "step", given=sources(COUNT, s005="full@cut"))


def test_breaker_stops_and_quarantines_nobody(tmp_path: Path) -> None:
    """Guards against a broken GPU that rejects a whole data set."""
    broken = {f"s{n:03d}": "raise@measure" for n in range(6, 30)}
    with pytest.raises(ValueError, match=r"\d+ failed of \d+ clips so far; expected at most 20% \(of 32 at least\)"):
        curate(tmp_path, given=sources(40, **broken), limits=Limits())
    assert published(tmp_path) == {}
    receipts = sorted(path.name for path in tmp_path.glob(".work/*/unit-*.receipt.json"))
    assert receipts == ["unit-00000.receipt.json"]  # unit 1 was finished, below the limit then, with failed clips
    assert [path.name for path in tmp_path.glob(".work/*/unit-00001")] == ["unit-00001"]
    curate(tmp_path, given=sources(40))
    assert clips_of(tmp_path)[0] == expected(40)


def test_few_failures_do_not_stop(tmp_path: Path) -> None:
    """Guards against a breaker that takes a small data set's one broken video for a broken machine."""
    curate(tmp_path, given=sources(4, s000="raise@look", s001="raise@look"), limits=Limits())
    assert clips_of(tmp_path)[1] == {"s000": "failed", "s001": "failed", "s003": "too_short"}


def test_one_run_at_a_time(tmp_path: Path) -> None:
    """Guards against two runs that take each other's files away."""
    manifest = freeze(sources(2), tmp_path, 2)
    with durable.locked(tmp_path / ".work/lock"), pytest.raises(ValueError, match="worked on by another run"):
        run(tmp_path, manifest, [annotate()], Inline(), finish)


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ((annotate(), annotate()), "two stages are named 'annotate'"),
        ((background(),), "'background' reads 'annotate'; expected `read` and an earlier one: none"),
        ((annotate(config={"model": read}),), "config of stage 'annotate': .*expected what JSON knows"),
    ],
)
def test_wrong_stages_are_named(tmp_path: Path, stages: tuple[Stage, ...], words: str) -> None:
    """Guards against stages that overwrite each other, and addresses that change with memory addresses."""
    with pytest.raises(ValueError, match=words):
        curate(tmp_path, *stages)


def test_progress_counts_what_is_done(tmp_path: Path) -> None:
    """Guards against progress that forgets earlier runs, or counts a clip at every step."""
    seen: list[Progress] = []
    manifest = freeze(sources(COUNT), tmp_path, UNIT_SIZE)
    for _ in range(2):
        run(
            tmp_path,
            manifest,
            [annotate()],
            Inline(),
            finish,
            board=lambda progress, final: seen.append(replace(progress)),
        )
    assert seen[-2].units_done == seen[-1].units_done == 3
    assert seen[-2].clips == len(expected(COUNT)) + 1 and seen[-2].sources_done == seen[-2].sources == COUNT
    assert seen[-1].clips == 0 and seen[-1].kept == len(expected(COUNT))
    assert "annotate: 3/3 units" in seen[-1].line() and seen[-1].line().endswith("; too_short 1")
    assert 0 < seen[4].sources_done < COUNT


class Killed(BaseException):
    """Stands for SIGKILL, of which `test_kill.py` has the real ones."""


class Disk:
    """Lets so many changes of the disk happen, and none after, whatever cleans up on the way out."""

    CHANGES = ("replace", "rename", "link", "unlink", "mkdir", "rmdir", "write")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = -1  # < 0: no limit
        monkeypatch.setattr(os, "fsync", lambda handle: None)  # a process's death loses nothing that was written
        for name in self.CHANGES:
            monkeypatch.setattr(os, name, self._limited(getattr(os, name)))

    def _limited(self, change: Callable) -> Callable:
        def call(*args: object, **options: object) -> object:
            if self.left == 0:
                raise Killed
            self.left -= 1
            return change(*args, **options)

        return call


def test_killed_before_every_change_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against any order of renames, receipts and links in which a kill loses, doubles or tears something."""
    stages = (annotate(), background())
    manifest = freeze(sources(4), tmp_path / "whole", 2)
    run(tmp_path / "whole", manifest, stages, Inline(), finish)
    whole = published(tmp_path / "whole")
    disk = Disk(monkeypatch)
    for changes in range(1000):
        out = tmp_path / str(changes)
        freeze(sources(4), out, 2)
        disk.left = changes
        try:
            run(out, manifest, stages, Inline(), finish)
            break
        except Killed:
            disk.left = -1
        seen = published(out)
        assert "dataset.json" not in seen or {name: whole[name] for name in seen} == seen
        run(out, manifest, stages, Inline(), finish)
        assert published(out) == whole, changes
    assert changes > 60
