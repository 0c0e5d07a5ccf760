"""From videos to shards: sources, profile and engine brought together (Fig. 2). The same call goes on where it stopped.

curate(Path("videos"), Path("shards"), paper(), workers=8)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from pathlib import Path

from video_alchemist.curation import engine
from video_alchemist.curation.clip import Step
from video_alchemist.curation.codes import CODES
from video_alchemist.curation.encode import thumbnail
from video_alchemist.curation.executors import Executor, Processes
from video_alchemist.curation.manifest import UNIT_SIZE, freeze
from video_alchemist.curation.pack import (
    PACK_VERSION,
    finish,
    read_annotations,
    write_annotations,
    write_backgrounds,
)
from video_alchemist.curation.profile import (
    CurationProfile,
    check_models,
    emojiworld,
    model_names,
    override,
    paper,
    settings,
)
from video_alchemist.curation.progress import Board, silent
from video_alchemist.curation.progress import board as progress_board
from video_alchemist.curation.ray_executor import RayActors
from video_alchemist.curation.receipts import Receipt
from video_alchemist.curation.roles import Roles
from video_alchemist.curation.sources import list_sources
from video_alchemist.curation.stage import Stage, without_pixels
from video_alchemist.curation.steps import annotation_steps, background_steps

ENGINES = ("local", "ray")
STAGES = ("annotate", "background")
MakeRoles = Callable[[CurationProfile], Roles]
ANNOTATION_ROLES = (
    "shot_detector", "clip_filter", "entity_extractor", "detector", "segmenter", "face_detector",
)  # fmt: skip
BACKGROUND_ROLES = ("detector", "inpainter")
ANNOTATION_SETTINGS = (
    "name", "limits", "shot_end", "min_motion", "undesirable", "max_text", "grounding", "faces", "split_shots",
    "blur_faces", "batch",
)  # fmt: skip
BACKGROUND_SETTINGS = ("name", "background", "batch")


def curate(
    videos: Path,
    output: Path,
    profile: CurationProfile,
    captions: Path | None = None,
    executor: Executor | None = None,
    only: str | None = None,
    unit_size: int = UNIT_SIZE,
    make_roles: MakeRoles = Roles,
    board: Board = silent,
) -> dict[str, list[Receipt]]:
    """Curates VIDEOS (a folder, a video or a table, see `sources`) into shards. Receipts by finished stage.

    only: the one stage to work on. make_roles: called in every worker; a function of a module, to bring own models.
    """
    sources = list_sources(videos, captions)
    if make_roles is Roles:
        check_models(profile, (*annotation_roles(profile), *BACKGROUND_ROLES))
    manifest = freeze(sources, output, unit_size)
    stages = make_stages(profile, make_roles)
    config = {stage.name: dict(stage.config) for stage in stages}
    end = partial(finish, config=config)
    return engine.run(output, manifest, stages, executor or Processes(), end, only=only, board=board)


def curate_command(
    videos: Path,
    output: Path,
    profile: str,
    bundle: Path,
    assignments: Sequence[str],
    captions: Path | None,
    engine: str,
    workers: int,
    stage: str,
    unit_size: int,
) -> None:
    """`alchemist curate`, with its options as they were written. bundle: the networks of the profile `emojiworld`."""
    profiles = {"emojiworld": lambda: emojiworld(bundle), "paper": paper}
    if profile not in profiles:
        raise ValueError(f"profile {profile!r}; expected one of {', '.join(profiles)}")
    if stage not in (*STAGES, "all"):
        raise ValueError(f"stage {stage!r}; expected one of {', '.join((*STAGES, 'all'))}")
    chosen = reduce(override, assignments, profiles[profile]())
    executor = make_executor(engine, workers)
    with progress_board() as board:
        only = None if stage == "all" else stage
        receipts = curate(videos, output, chosen, captions, executor, only, unit_size, board=board)
    print(summary(receipts))
    print(output)


def summary(receipts: Mapping[str, Sequence[Receipt]]) -> str:
    """The funnel: how many came, were kept, and left by each code."""
    lines = []
    for stage, done in receipts.items():
        clips, kept = sum(one.clips for one in done), sum(one.kept for one in done)
        lines.append(f"{stage}: kept {kept} of {clips} clips")
        rejected = sum((Counter(one.rejected) for one in done), Counter[str]())
        lines += [f"  {count:>8} {code}: {CODES[code].meaning}" for code, count in rejected.most_common()]
    return "\n".join(lines)


def annotation_roles(profile: CurationProfile) -> tuple[str, ...]:
    """All that the paper has, and what the profile adds."""
    return (*ANNOTATION_ROLES, *(["text_detector"] if profile.models.text_detector else []))


def make_stages(profile: CurationProfile, make_roles: MakeRoles = Roles) -> list[Stage]:
    """Annotation and backgrounds, each with all that its result depends on."""
    models = model_names(profile, annotation_roles(profile))
    common = {"pack": PACK_VERSION, "roles": f"{make_roles.__module__}.{make_roles.__qualname__}"}
    annotate = Stage(
        name=STAGES[0],
        make_steps=partial(_annotation, profile, make_roles),
        write=partial(write_annotations, profile=profile.name, models=models),
        versions=_versions(annotation_steps(profile, Roles(profile))),
        config={**common, "models": models, "settings": settings(profile, ANNOTATION_SETTINGS)},
        shrink=without_pixels if profile.blur_faces else thumbnail,  # those of rejects would show the faces
    )
    painters = model_names(profile, BACKGROUND_ROLES)
    background = Stage(
        name=STAGES[1],
        make_steps=partial(_background, profile, make_roles),
        write=write_backgrounds,
        versions=_versions(background_steps(profile, Roles(profile))),
        config={**common, "models": painters, "settings": settings(profile, BACKGROUND_SETTINGS)},
        upstream=STAGES[0],
        read=read_annotations,
        shrink=thumbnail,
    )
    return [annotate, background]


def make_executor(engine: str, workers: int) -> Executor:
    """Local processes or Ray actors, sharing the GPUs that there are."""
    import torch

    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r}; expected {' or '.join(ENGINES)}")
    gpus = torch.cuda.device_count()
    if engine == "local":
        return Processes(workers, gpus)
    return RayActors(workers, gpus=min(1.0, gpus / workers) if gpus else 0.0)


def _annotation(profile: CurationProfile, make_roles: MakeRoles) -> list[Step]:
    return annotation_steps(profile, make_roles(profile).load(annotation_roles(profile)))


def _background(profile: CurationProfile, make_roles: MakeRoles) -> list[Step]:
    return background_steps(profile, make_roles(profile).load(BACKGROUND_ROLES))


def _versions(steps: list[Step]) -> dict[str, int]:
    return {step.name: step.version for step in steps}
