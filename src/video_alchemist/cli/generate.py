"""`alchemist generate`: the main job."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from video_alchemist.records import Kind, Reference, View
from video_alchemist.sampling.manifest import read_manifest
from video_alchemist.sampling.request import Request, parse_size

if TYPE_CHECKING:
    import numpy as np

    from video_alchemist.sampling.guidance import Execution
    from video_alchemist.sampling.pipeline import AlchemistPipeline

SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SHEET_FRAMES = 8


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
    lora: Annotated[list[str] | None, typer.Option(metavar="FILE[=WEIGHT]", help="LoRA upon the model.")] = None,
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
    negative_prompt: Annotated[str | None, typer.Option(help="What the video shall not show.")] = None,
    branches: Annotated[str, typer.Option(help="Guidance's forwards: batched, sequential or parallel.")] = "batched",
    offload: Annotated[str, typer.Option(help="Keep on the CPU what waits: none, model or group (blocks).")] = "none",
    fp8: Annotated[bool, typer.Option("--fp8", help="Keep the transformer's weights in 8 bits; lossy.")] = False,
    tiling: Annotated[bool, typer.Option("--tiling", help="Decode in tiles; seams may show.")] = False,
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
        told = (num_frames, size, num_steps, text_scale, image_scale, negative_prompt)
        settings_given = any(one is not None for one in told)
        if settings_given or seed != 0 or equation != 2:
            raise ValueError("--batch reads settings from its file and the model; expected none beside it")
        requests = read_manifest(batch, output)
    else:
        if prompt is None or output is None:
            raise ValueError("expected a prompt and -o OUT.mp4, or --batch FILE.jsonl; see alchemist generate --help")
        references = _references(ref or [], face or [], [background] if background else [], mask or [])
        wanted = parse_size(size) if size is not None else None
        settings = (num_frames, wanted, num_steps, text_scale, image_scale, equation)
        requests = [Request(prompt, references, seed, *settings, output, negative_prompt)]
    for request in requests:
        request.check()

    loras = [_weighted(option) for option in lora or []]
    place = _rank_device(device) if branches == "parallel" else device
    pipeline = load_pipeline(model, place, offload, fp8, tiling, loras)
    if fps is not None:
        pipeline.register_to_config(fps=fps)
    videos = pipeline.generate_each(requests, branches=cast("Execution", branches))
    for number, (request, frames) in enumerate(zip(requests, videos, strict=True), start=1):
        if os.environ.get("RANK", "0") != "0":
            continue  # the first rank speaks and writes
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


def _weighted(option: str) -> tuple[str, float]:
    """style.safetensors=0.8 -> ("style.safetensors", 0.8)."""
    path, equals, weight = option.rpartition("=")
    try:
        number = float(weight) if equals else 1.0
    except ValueError:
        return option, 1.0  # the file's name has an equals sign
    if not math.isfinite(number):
        raise ValueError(f"--lora {option!r}; expected FILE or FILE=WEIGHT, as style.safetensors=0.8")
    return (path if equals else option), number


def load_pipeline(
    model: str,
    device: str | None,
    offload: str = "none",
    fp8: bool = False,
    tiling: bool = False,
    loras: Sequence[tuple[str, float]] = (),
) -> AlchemistPipeline:
    """On a device in its usual precision, with what diffusers has for little memory. loras: files and weights."""
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
    if offload not in ("none", "model", "group"):
        raise ValueError(f"offload {offload!r}; expected none, model or group")
    if offload != "none" and device == "cpu":
        raise ValueError(f"offload {offload!r} from the cpu to the cpu; expected none, or another --device")
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    pipeline = AlchemistPipeline.from_pretrained(model, dtype=dtype)
    names = [f"lora-{number}" for number in range(1, len(loras) + 1)]
    for name, (path, _) in zip(names, loras, strict=True):
        pipeline.load_lora_weights(path, adapter_name=name)
    if names:
        pipeline.set_adapters(names, [weight for _, weight in loras])
    if fp8:
        pipeline.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
    if tiling:
        pipeline.autoencoder.enable_tiling()
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "group":
        streams = device.startswith("cuda")
        pipeline.enable_group_offload(torch.device(device), num_blocks_per_group=1, use_stream=streams)
    else:
        pipeline.to(device)
    return pipeline


def _rank_device(device: str | None) -> str | None:
    """Joins the ranks that torchrun started; each takes a GPU of its own where there are some."""
    import torch
    import torch.distributed as dist

    if "LOCAL_RANK" not in os.environ:
        raise ValueError("--branches parallel; expected torchrun --nproc-per-node 3 -m video_alchemist generate ...")
    cuda = torch.cuda.is_available() and device != "cpu"
    dist.init_process_group("nccl" if cuda else "gloo")
    return f"cuda:{os.environ['LOCAL_RANK']}" if cuda else device


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
