"""`alchemist bench`: the benchmark (§4.1-4.2), from its data to its tables."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from video_alchemist.benchmark.models import ModelNames
    from video_alchemist.benchmark.protocol import Protocol

bench = typer.Typer(no_args_is_help=True, help="MSRVTT-Personalization: how good are videos, whoever made them?")

SCORES = ("detection_score", "mask_score", "face_score")  # of the protocol, which depend on whose networks they are
Data = Annotated[Path, typer.Option("--data", metavar="DATA", help="What `alchemist bench prepare` wrote.")]


@bench.command()
def prepare(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DATA", help="Folder of the benchmark.")],
    world: Annotated[bool, typer.Option("--world", help="Of held-out EmojiWorld clips; needs nothing else.")] = False,
    truth: Annotated[bool, typer.Option("--truth", help="With --world: annotated by the truth, not curation.")] = False,
    shards: Annotated[str | None, typer.Option(help="Of shards: a folder or URL.")] = None,
    annotation: Annotated[
        Path | None, typer.Option(help="Of MSR-VTT: the authors' annotation, a folder or a zip.")
    ] = None,
    videos: Annotated[Path | None, typer.Option(help="With --annotation: the folder of MSR-VTT's videos.")] = None,
    inpainter: Annotated[
        str, typer.Option(help="With --annotation: telea, or the name of a diffusers inpainting pipeline.")
    ] = "telea",
    layout: Annotated[Path | None, typer.Option(help="Also write the authors' folders and lists, for others.")] = None,
    num_samples: Annotated[int | None, typer.Option(help="So many, drawn at random; --world: 100.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw, or of the world.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that annotate the world's clips.")] = 1,
) -> None:
    """Prepare a benchmark: from EmojiWorld, from shards, or from the authors' annotation of MSR-VTT.

    Example: alchemist bench prepare --world -o data --num-samples 50
    """
    if sum((world, shards is not None, annotation is not None)) != 1:
        raise ValueError("expected one of --world, --shards SHARDS and --annotation ANNOTATION --videos FOLDER")
    if (annotation is None) != (videos is None):
        raise ValueError("--annotation and --videos go together: the annotation says where to cut MSR-VTT's videos")
    from rich.progress import Progress

    from video_alchemist.benchmark.prepare import prepare_official, prepare_shards
    from video_alchemist.curation.progress import board
    from video_alchemist.emojiworld.benchmark_data import prepare_world

    if world:
        with board() as shown:
            networks = None if truth else _bundle("curation")
            count = 100 if num_samples is None else num_samples
            data = prepare_world(output, count, networks=networks, seed=seed, workers=workers, board=shown)
    elif shards is not None:
        data = prepare_shards(shards, output, num_samples, seed)
    else:
        assert annotation is not None and videos is not None
        from video_alchemist.curation.profile import override, paper
        from video_alchemist.curation.roles import Roles

        role = Roles(override(paper(), f"models.inpainter={inpainter}")).inpainter
        with Progress() as progress:
            bar = progress.add_task("samples")
            data = prepare_official(
                annotation, videos, output, role, num_samples=num_samples, seed=seed,
                on_done=lambda done, total: progress.update(bar, completed=done, total=total),
            )  # fmt: skip
    if layout is not None:
        from video_alchemist.benchmark.layout import write_layout

        write_layout(data, layout)
    print(", ".join(f"{mode} {len(ids)}" for mode, ids in data.modes.items()))
    print(output)


@bench.command()
def generate(
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="VIDEOS", help="Folder of <id>.mp4.")],
    method: Annotated[
        str, typer.Option(help="pipeline, external, first_frame (a still), or ground_truth (the true clips).")
    ] = "pipeline",
    variant: Annotated[
        str, typer.Option(help="text, single, multiple, background, face or faces: which pictures are given.")
    ] = "single",
    mode: Annotated[str, typer.Option(help="subject, face, multi, background or all: which samples.")] = "subject",
    model: Annotated[str, typer.Option(metavar="DIR|ID", help="Of the method pipeline.")] = "emojiworld",
    command: Annotated[
        str | None,
        typer.Option(help="Of the method external, with {prompt}, {references}, {output}, {seed} in it."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The first one.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Videos of each sample, with so many seeds in a row.")] = 1,
    num_samples: Annotated[int | None, typer.Option(help="Only the first so many.")] = None,
    num_steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    text_scale: Annotated[float | None, typer.Option(help="Guidance by the text.")] = None,
    image_scale: Annotated[float | None, typer.Option(help="Guidance by the pictures.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Videos made together.")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; default: cuda where there is one.")] = None,
) -> None:
    """Make the videos to be judged; the same command resumes.

    Example: alchemist bench generate --data data --variant multiple -o videos/multiple
    """
    from rich.progress import Progress

    from video_alchemist.benchmark.generate import generate as make
    from video_alchemist.benchmark.samples import BenchmarkData
    from video_alchemist.cli.generate import load_pipeline

    opened = BenchmarkData(data)
    pipeline = load_pipeline(model, device) if method == "pipeline" else None
    if pipeline is not None:
        pipeline.set_progress_bar_config(disable=True)
    given: dict[str, Any] = {"num_steps": num_steps, "text_scale": text_scale, "image_scale": image_scale}
    settings = {name: value for name, value in given.items() if value is not None}
    with Progress() as progress:
        bar = progress.add_task("videos")
        made = make(
            opened, method, output, pipeline, variant=variant, mode=mode, seeds=range(seed, seed + seeds),
            num_samples=num_samples, batch_size=batch_size, settings=settings or None, command=command,
            on_done=lambda done, total: progress.update(bar, completed=done, total=total),
        )  # fmt: skip
    for path, reason in (made.failures | made.unfit).items():
        print(f"{path}: {reason}")
    unfit = f", {len(made.unfit)} have no such pictures" if made.unfit else ""
    print(f"{output}: {made.made} made, {made.kept} were there, {len(made.failures)} failed{unfit}")


@bench.command()
def score(
    videos: Annotated[Path, typer.Argument(help="A folder of <id>.mp4, whoever made them.")],
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="RESULT", help="Folder of the result.")],
    protocol: Annotated[str, typer.Option(help="paper, or official: the released code's, quirks and all.")] = "paper",
    num_frames: Annotated[int | None, typer.Option(help="official: how many frames it looks at.")] = None,
    world_size: Annotated[int, typer.Option(help="official: GPUs that it is run on, which changes its scores.")] = 1,
    mode: Annotated[str, typer.Option(help="subject, face, multi, background or all: which samples.")] = "subject",
    metrics: Annotated[list[str] | None, typer.Option("--metric", help="Only this one; repeat. Default: all.")] = None,
    models: Annotated[str, typer.Option(help="emojiworld, paper, or a folder with one folder a role.")] = "emojiworld",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A role's model, or detection_score, mask_score, face_score."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, or with Ray actors.")] = 1,
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; default: cuda where there is one.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the method in reports; default: the folder's.")] = None,
) -> None:
    """Score videos by every metric; the same command resumes, and adds metrics that are not there yet.

    Example: alchemist bench score videos/multiple --data data -o results/multiple
    """
    from dataclasses import replace

    import torch
    import transformers

    from video_alchemist.benchmark.report_tables import warnings
    from video_alchemist.benchmark.results import write_official_json
    from video_alchemist.benchmark.samples import BenchmarkData
    from video_alchemist.benchmark.score import score as judge

    transformers.utils.logging.disable_progress_bar()  # of loading; that of scoring stays
    chosen = protocol_of(protocol, num_frames, world_size, small=models == "emojiworld")
    names, scores = _models(models, settings or [])
    chosen = replace(chosen, **scores)
    result = judge(
        videos, BenchmarkData(data), output, chosen, names, metrics or None, mode, workers, engine,
        device or ("cuda" if torch.cuda.is_available() else "cpu"), name=name, progress=True,
    )  # fmt: skip
    for line in warnings([result]):
        print(line)
    if chosen.name == "official":
        write_official_json(result, output / "official.json")
    print(output)


@bench.command()
def report(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="What `alchemist bench score` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the tables and the page.")] = Path("report"),
) -> None:
    """Set results side by side, and beside the paper's: Markdown, JSON, CSV and one HTML page.

    Example: alchemist bench report results/text results/multiple -o report
    """
    from video_alchemist.benchmark.report import write_report

    print(write_report(results, output))


@bench.command()
def diff(
    first: Annotated[Path, typer.Argument(help="A result.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
) -> None:
    """Say in what two results differ: what went in, and what came out by how much.

    Example: alchemist bench diff results/before results/after
    """
    from video_alchemist.benchmark.results import diff as compare
    from video_alchemist.benchmark.results import read_result

    for line in compare(read_result(first), read_result(second)).lines():
        print(line)


def _bundle(part: str) -> Path:
    return Path(str(files("video_alchemist.emojiworld"))) / "bundle" / part


def protocol_of(name: str, num_frames: int | None = None, world_size: int = 1, small: bool = True) -> Protocol:
    """small: at the thresholds of the networks that ship, which are less sure of themselves than the paper's."""
    from dataclasses import replace

    from video_alchemist.benchmark.protocol import official, paper
    from video_alchemist.curation.profile import emojiworld

    if name not in ("paper", "official"):
        raise ValueError(f"protocol {name!r}; expected paper or official")
    if name == "official" and num_frames is None:
        raise ValueError("--protocol official wants --num-frames, as the released code does; 49 for the paper's")
    if name == "paper" and (num_frames is not None or world_size != 1):
        raise ValueError("--num-frames and --world-size are the official protocol's; the paper's looks at all frames")
    chosen = paper() if num_frames is None else official(num_frames, world_size)
    if not small:
        return chosen
    known = emojiworld(_bundle("curation"))
    return replace(
        chosen,
        detection_score=known.grounding.detection_score,
        mask_score=known.grounding.mask_score,
        face_score=known.faces.score,
    )


def emojiworld_models() -> ModelNames:
    """Those that ship: the benchmark's own, and curation's detectors."""
    from dataclasses import replace

    from video_alchemist.benchmark.models import folder_models

    shared = {role: str(_bundle("curation") / role) for role in ("detector", "segmenter", "face_detector")}
    return replace(folder_models(_bundle("benchmark")), **shared)


def _models(name: str, settings: list[str]) -> tuple[ModelNames, dict[str, Any]]:
    """The networks by role, and the protocol's scores that --set changes."""
    from dataclasses import replace

    from video_alchemist.benchmark.models import ROLES, folder_models, paper_models
    from video_alchemist.dataset.shards import did_you_mean

    named = {"paper": paper_models, "emojiworld": emojiworld_models}
    chosen = named[name]() if name in named else folder_models(name)
    scores: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key not in (*ROLES, *SCORES):
            known = ", ".join((*ROLES, *SCORES))
            near = did_you_mean(key, (*ROLES, *SCORES))
            raise ValueError(f"--set {setting!r}; expected KEY=VALUE, of {known}{near}")
        if key in ROLES:
            chosen = replace(chosen, **{key: value})
            continue
        try:
            scores[key] = float(value)
        except ValueError as error:
            raise ValueError(f"--set {setting!r}; expected a number in [0, 1]") from error
    return chosen, scores
