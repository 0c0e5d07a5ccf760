"""The command line: thin verbs. Heavy imports stand inside the verbs, so that --help answers at once."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from video_alchemist.records import Kind, Reference, View
from video_alchemist.sampling.request import Request, parse_size, read_manifest

if TYPE_CHECKING:
    import numpy as np

    from video_alchemist.sampling.pipeline import AlchemistPipeline

VIDEOS = "(videos)"  # a command's name that no folder has


class _VerbWithSubverbs(TyperGroup):
    """`curate VIDEOS` beside `curate report`: what does not begin with a sub-verb belongs to the verb itself."""

    def parse_args(self, ctx, args):  # type: ignore[no-untyped-def]
        return super().parse_args(ctx, args if args and args[0] in self.commands else [VIDEOS, *args])

    def resolve_command(self, ctx, args):  # type: ignore[no-untyped-def]
        name, command, rest = super().resolve_command(ctx, args)
        return "" if name == VIDEOS else name, command, rest


app = typer.Typer(no_args_is_help=True, add_completion=False, help="Videos of your subjects, from words and pictures.")
world = typer.Typer(no_args_is_help=True, help="EmojiWorld: clips of which everything is known.")
app.add_typer(world, name="world")
curate = typer.Typer(cls=_VerbWithSubverbs, help="Raw videos become training shards; what was kept and why not.")
app.add_typer(curate, name="curate")

SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SHEET_FRAMES = 8


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


# ------------------------------------------------------------------------------------------------------------------
# generate


@app.command()
def generate(
    prompt: Annotated[str | None, typer.Argument(help="What the video shows.")] = None,
    ref: Annotated[list[str] | None, typer.Option(metavar="WORD=IMAGE", help="A picture of its subject.")] = None,
    face: Annotated[list[str] | None, typer.Option(metavar="WORD=IMAGE", help="A picture of its face.")] = None,
    background: Annotated[str | None, typer.Option(metavar="WORD=IMAGE", help="A picture of the place.")] = None,
    mask: Annotated[
        list[str] | None, typer.Option(metavar="WORD=IMAGE", help="Where the subject is in its picture; n-th to n-th.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="OUT.mp4, or with --batch the folder of the outputs.")
    ] = None,
    model: Annotated[str, typer.Option(metavar="DIR|ID", help="Shipped, a folder or a hub id.")] = "emojiworld",
    num_frames: Annotated[int | None, typer.Option(help="4 k + 1.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Pixels.")] = None,
    num_steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    text_scale: Annotated[float | None, typer.Option(help="Guidance by the text; the paper: 8.")] = None,
    image_scale: Annotated[float | None, typer.Option(help="Guidance by the pictures; the paper: 3.")] = None,
    equation: Annotated[int, typer.Option(help="Guidance as in the paper's Eq. 1 or Eq. 2.")] = 2,
    seed: Annotated[int, typer.Option(help="The same seed, the same video.")] = 0,
    batch: Annotated[Path | None, typer.Option(metavar="FILE.jsonl", help="Many requests, one a line.")] = None,
    sheet: Annotated[Path | None, typer.Option(metavar="PNG", help="Also a sheet of references and frames.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default: cuda where there is one.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second of the file.")] = None,
) -> None:
    """Make a video of your subjects.

    WORD is a word of the prompt; WORD#2 its second occurrence. Several pictures of one subject: repeat --ref.

    Example: alchemist generate "A dog jumps beside a robot" --ref dog=dog.png --ref robot=robot.png -o out.mp4
    """
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps is {fps}; expected a number above 0")
    if sheet is not None and sheet.suffix.lower() not in SHEET_SUFFIXES:
        raise ValueError(f"sheet {str(sheet)!r}; expected a name that ends in {', '.join(SHEET_SUFFIXES)}")
    if batch is not None:
        if prompt is not None or ref or face or background or mask or sheet is not None:
            raise ValueError("--batch reads prompts and references from its file; expected none beside it, nor --sheet")
        settings_given = any(one is not None for one in (num_frames, size, num_steps, text_scale, image_scale))
        if settings_given or seed != 0 or equation != 2:
            raise ValueError("--batch reads settings from its file and the model; expected none beside it")
        requests = read_manifest(batch, output)
    else:
        if prompt is None or output is None:
            raise ValueError("expected a prompt and -o OUT.mp4, or --batch FILE.jsonl; see alchemist generate --help")
        references = _references(ref or [], face or [], [background] if background else [], mask or [])
        wanted = parse_size(size) if size is not None else None
        settings = (num_frames, wanted, num_steps, text_scale, image_scale, equation)
        requests = [Request(prompt, references, seed, *settings, output=output)]
    for request in requests:
        request.check()

    pipeline = _load(model, device)
    if fps is not None:
        pipeline.register_to_config(fps=fps)
    for number, (request, frames) in enumerate(zip(requests, pipeline.generate_each(requests), strict=True), start=1):
        print(f"{number}/{len(requests)} {request.output}" if batch else request.output, flush=True)
        if sheet is not None:
            _write_sheet(sheet, request, frames)


def _references(ref: list[str], face: list[str], background: list[str], mask: list[str]) -> tuple[Reference, ...]:
    """WORD=IMAGE options as references; the n-th --mask of a word belongs to its n-th picture."""
    masks: dict[tuple[str, int], list[str]] = {}
    for option in mask:
        word, occurrence, path = _binding("--mask", option)
        masks.setdefault((word, occurrence), []).append(path)
    references = []
    kinds: tuple[tuple[str, list[str], Kind, View], ...] = (
        ("--ref", ref, "subject", "whole"),
        ("--face", face, "subject", "face"),
        ("--background", background, "background", "whole"),
    )
    for name, options, kind, view in kinds:
        for option in options:
            word, occurrence, path = _binding(name, option)
            own = masks.get((word, occurrence))
            references.append(Reference(word, path, own.pop(0) if own else None, kind, view, occurrence))
    unused = [word for (word, _), paths in masks.items() if paths]
    if unused:
        raise ValueError(f"--mask {unused[0]}=... has no picture left to belong to; expected a --ref {unused[0]}=IMAGE")
    return tuple(references)


def _binding(name: str, option: str) -> tuple[str, int, str]:
    """dog#2=a.png -> ("dog", 1, "a.png")."""
    word, equals, path = option.partition("=")
    word, hash_, number = word.partition("#")
    if not (word.strip() and equals and path) or (hash_ and not (number.isdecimal() and int(number) > 0)):
        raise ValueError(f"{name} {option!r}; expected WORD=IMAGE, or WORD#2=IMAGE for the word's second occurrence")
    return word.strip(), int(number or 1) - 1, path


def _load(model: str, device: str | None) -> AlchemistPipeline:
    import diffusers
    import torch
    import transformers

    from video_alchemist.sampling.pipeline import AlchemistPipeline

    diffusers.utils.logging.disable_progress_bar()  # of loading; that of sampling stays
    transformers.utils.logging.disable_progress_bar()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    available = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if device not in (*available, "cuda", "mps") or (device == "cuda" and len(available) == 1):
        raise ValueError(f"device {device!r}; this machine has {', '.join(available)}")
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    pipeline = AlchemistPipeline.from_pretrained(model, dtype=dtype)
    pipeline.to(device)
    return pipeline


def _write_sheet(path: Path, request: Request, frames: np.ndarray) -> None:
    import numpy as np
    from PIL import Image

    from video_alchemist.model.condition import place_references, reference_image
    from video_alchemist.video import contact_sheet, replacing

    references = [reference_image(place.reference, 256) for place in place_references(request.condition)]
    pictures = [Image.fromarray((one.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)) for one in references]
    shown = np.linspace(0, len(frames) - 1, min(SHEET_FRAMES, len(frames))).round().astype(int)
    image = contact_sheet([[*pictures, *(Image.fromarray(frames[i]) for i in shown)]], [request.prompt])
    with replacing(path) as temporary:
        image.save(temporary)
    print(path)


# ------------------------------------------------------------------------------------------------------------------
# train


@app.command()
def train(
    preset: Annotated[str, typer.Argument(help="emojiworld, or emojiworld-base for a GPU.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The run's folder; the same command resumes.")],
    data: Annotated[
        str | None,
        typer.Option(metavar="SHARDS", help="A folder or URL of shards; default: EmojiWorld, rendered."),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Stop after this step of the run.")] = None,
    time_limit: Annotated[str | None, typer.Option(metavar="9m", help="Stop with a checkpoint after it.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting; repeat.")] = None,
    export: Annotated[Path | None, typer.Option(metavar="DIR", help="Write a pipeline folder at the end.")] = None,
) -> None:
    """Train the transformer in the paper's two stages; everything else stays as it ships.

    Example: alchemist train emojiworld -o run --time-limit 9m --set optimizer.learning_rate=3e-4 --export model
    """
    from video_alchemist.emojiworld.recipes.command import train_preset

    train_preset(preset, output, max_steps, time_limit, settings or [], export, data)


# ------------------------------------------------------------------------------------------------------------------
# curate


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

    bundle = Path(__file__).parent / "emojiworld" / "bundle" / "curation"
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


# ------------------------------------------------------------------------------------------------------------------
# world, doctor


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


@app.command()
def doctor() -> None:
    """Say what this machine has: versions, devices, the shipped model.

    Example: alchemist doctor
    """
    import platform
    from importlib.metadata import version

    import torch

    from video_alchemist.model.transformer import AlchemistTransformer, parameter_counts
    from video_alchemist.presets import paper
    from video_alchemist.sampling.pipeline import SHIPPED

    print(f"{'python':<16}{platform.python_version()}")
    for package in ("torch", "diffusers", "transformers", "av"):
        print(f"{package:<16}{version(package)}")
    print(f"{'cpu threads':<16}{torch.get_num_threads()}")
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        print(f"{f'cuda:{i}':<16}{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        print(f"{'cuda':<16}none; models run on the cpu")
    for name, folder in SHIPPED.items():
        state = "present" if (folder / "model_index.json").is_file() else "missing; `make weights` makes it"
        print(f"{name:<16}{state}")
    with torch.device("meta"):
        total = parameter_counts(AlchemistTransformer(**paper().transformer))["total"]
    print(f"{'paper':<16}{total / 1e9:.1f}B parameters, {total * 2 / 2**30:.0f} GiB in bfloat16")
