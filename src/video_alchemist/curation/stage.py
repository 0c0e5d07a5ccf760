"""What the engine is asked to do: a stage turns every work unit into files, and what it may depend on is its address.

Stages are separately schedulable: backgrounds, which dominate the cost, can be made later, from the shards of the
first stage, into shards beside them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from video_alchemist.curation.clip import Clip, Rejected, Step

ENGINE_VERSION = 1  # raise it where the engine itself changes what is written


def without_pixels(rejected: Rejected) -> Rejected:
    """A unit's rejects wait in memory until it is written, and their frames would fill it."""
    return replace(rejected, clip=replace(rejected.clip, pixels=None))


@dataclass(frozen=True)
class Stage:
    """All of it must be picklable: functions of modules, `functools.partial`, frozen dataclasses.

    make_steps: called once a worker, where models are loaded.
    write: (empty folder, unit, kept, rejected) -> files in that folder, by name; the same input, the same bytes.
        File names are the published ones, so they hold the unit's number. Clips come sorted by id.
    versions: of each step that `make_steps` makes, in their order; known before any model is loaded.
    config: whatever else changes the result, as JSON: thresholds, model ids and revisions, the writer's version.
    upstream: the stage whose result is the input, through `read`: (that unit's folder, unit) -> clips.
    shrink: what remains of a rejected clip until it is written.
    """

    name: str
    make_steps: Callable[[], Sequence[Step]]
    write: Callable[[Path, int, Sequence[Clip], Sequence[Rejected]], Mapping[str, Path]]
    versions: Mapping[str, int]
    config: Mapping[str, Any] = field(default_factory=dict)
    upstream: str | None = None
    read: Callable[[Path, int], Sequence[Clip]] | None = None
    shrink: Callable[[Rejected], Rejected] = without_pixels

    def load(self) -> list[Step]:
        """The steps with their models; they are the ones that the address promises."""
        steps = list(self.make_steps())
        made = {step.name: step.version for step in steps}
        if len(made) != len(steps) or list(made.items()) != list(self.versions.items()):
            raise ValueError(f"stage {self.name!r} makes steps {made}; expected {dict(self.versions)}, each name once")
        return steps


def describe(stages: Sequence[Stage]) -> dict[str, dict[str, Any]]:
    """By stage, all that its result depends on beside its input; stages stand after what they read."""
    found: dict[str, dict[str, Any]] = {}
    for stage in stages:
        if stage.name in found:
            raise ValueError(f"two stages are named {stage.name!r}; expected unique names")
        if stage.upstream is not None and (stage.upstream not in found or stage.read is None):
            known = ", ".join(found) or "none"
            raise ValueError(
                f"stage {stage.name!r} reads {stage.upstream!r}; expected `read` and an earlier one: {known}"
            )
        found[stage.name] = {
            "engine": ENGINE_VERSION,
            "stage": stage.name,
            "steps": list(stage.versions.items()),
            "config": dict(stage.config),
            "upstream": stage.upstream and address(found[stage.upstream]),
        }
    return found


def address(description: Mapping[str, Any]) -> str:
    """The name of the folder of a stage's results: another one when anything in the description changes."""
    try:
        text = json.dumps(description, sort_keys=True)
    except TypeError as error:
        raise ValueError(f"config of stage {description['stage']!r}: {error}; expected what JSON knows") from error
    return f"{description['stage']}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
