"""The command line: thin verbs. Heavy imports stand inside the verbs, so that --help answers at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from video_alchemist.cli.bench import bench
from video_alchemist.cli.curate import curate
from video_alchemist.cli.doctor import doctor
from video_alchemist.cli.generate import generate
from video_alchemist.cli.train import train
from video_alchemist.sampling.request import parse_size

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Videos of your subjects, from words and pictures.")
world = typer.Typer(no_args_is_help=True, help="EmojiWorld: clips of which everything is known.")
app.command()(generate)
app.command()(train)
app.command()(doctor)
app.add_typer(curate, name="curate")
app.add_typer(bench, name="bench")
app.add_typer(world, name="world")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a verb. What a user can get wrong ends in one line on stderr and exit code 2."""
    try:
        status = app(args=arguments, standalone_mode=False)
    except TyperException as error:
        _fail(error.format_message() if hasattr(error, "format_message") else str(error))
    except (ValueError, OSError) as error:
        _fail(str(error))
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str) -> NoReturn:
    print("alchemist:", " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


@world.command("render")
def world_render(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the clips.")],
    num_clips: Annotated[int, typer.Option(help="How many.")] = 100,
    seed: Annotated[int, typer.Option(help="The same seed, the same clips.")] = 0,
    size: Annotated[str, typer.Option(metavar="WxH", help="Pixels.")] = "64x64",
    num_frames: Annotated[int, typer.Option(help="Frames of a clip.")] = 17,
    fps: Annotated[float, typer.Option(help="Frames per second.")] = 12.0,
    split: Annotated[str, typer.Option(help="train, test_concept or test_artist.")] = "train",
    undesirable_share: Annotated[float, typer.Option(help="Of clips that curation must reject.")] = 0.0,
    shards: Annotated[bool, typer.Option("--shards", help="Training shards instead, annotated by the truth.")] = False,
) -> None:
    """Render clips (mp4), their captions (txt) and what is known of them (json).

    Example: alchemist world render -o clips --num-clips 20
    """
    from rich.progress import track

    from video_alchemist.emojiworld.files import write_world, write_world_shards

    if shards and undesirable_share:
        raise ValueError(f"--undesirable-share {undesirable_share} with --shards; expected 0: shards are to train on")
    options: dict[str, Any] = {"seed": seed, "split": split, "size": parse_size(size), "num_frames": num_frames}
    if shards:
        done = write_world_shards(output, num_clips, fps=fps, **options)
    else:
        done = write_world(output, num_clips, fps=fps, undesirable_share=undesirable_share, **options)
    for _ in track(done, description="clips", total=num_clips):
        pass
    print(output)
