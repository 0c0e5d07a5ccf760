"""`alchemist curate`: raw videos become training shards; its sub-verbs `report` and `takedown`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

VIDEOS = "(videos)"  # a command's name that no folder has


class _VerbWithSubverbs(TyperGroup):
    """`curate VIDEOS` beside `curate report`: what does not begin with a sub-verb belongs to the verb itself."""

    def parse_args(self, ctx, args):  # type: ignore[no-untyped-def]
        return super().parse_args(ctx, args if args and args[0] in self.commands else [VIDEOS, *args])

    def resolve_command(self, ctx, args):  # type: ignore[no-untyped-def]
        name, command, rest = super().resolve_command(ctx, args)
        return "" if name == VIDEOS else name, command, rest


curate = typer.Typer(cls=_VerbWithSubverbs, help="Raw videos become training shards; what was kept and why not.")


@curate.command(VIDEOS)
def curate_videos(
    videos: Annotated[Path, typer.Argument(help="A folder, a video, a .jsonl, or a .csv as Panda-70M's.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the shards; the same command resumes.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes, or with Ray actors; each loads the models.")] = 1,
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    profile: Annotated[str, typer.Option(help="emojiworld or paper: the models and thresholds.")] = "emojiworld",
    split_shots: Annotated[
        bool, typer.Option("--split-shots", help="Cut videos into shots, else reject them.")
    ] = False,
    captions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A .jsonl or .csv with captions of the folder's videos.")
    ] = None,
    stage: Annotated[str, typer.Option(help="annotate, background (which costs most), or all.")] = "all",
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting; repeat.")] = None,
    unit_size: Annotated[int, typer.Option(help="Videos of a shard; fewer need less memory.")] = 256,
) -> None:
    """Make shards of videos: single shots, entity words, boxes, masks, faces and clean backgrounds.

    A caption is x.txt beside x.mp4, or comes from a table. Afterwards: alchemist curate report SHARDS (one page on what
    was kept and why not), alchemist curate takedown SHARDS SOURCE... (videos that must go).

    Example: alchemist curate videos -o shards --workers 4 --set grounding.detection_score=0.35
    """
    from video_alchemist.curation.run import curate_command

    bundle = Path(str(files("video_alchemist.emojiworld"))) / "bundle" / "curation"
    assignments = [*(settings or []), *(["split_shots=true"] if split_shots else [])]
    curate_command(videos, output, profile, bundle, assignments, captions, engine, workers, stage, unit_size)


@curate.command("report")
def curate_report(
    shards: Annotated[Path, typer.Argument(help="A folder that `alchemist curate` wrote.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML; default: SHARDS/report.html.")] = None,
) -> None:
    """Write one page about shards: the funnel by reject code, histograms, words, contact sheets, costs.

    Example: alchemist curate report shards
    """
    from video_alchemist.curation.report import write_report

    print(write_report(shards, output))


@curate.command("takedown")
def curate_takedown(
    shards: Annotated[Path, typer.Argument(help="A folder of shards.")],
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE_ID...", help="Videos that must go.")],
) -> None:
    """Take videos out: no reader shows them any more, and no later run brings them back.

    Example: alchemist curate takedown shards holiday_beach-1a2b3c4d
    """
    from video_alchemist.dataset.shards import take_down

    for line in take_down(shards, sources):
        print(line)
