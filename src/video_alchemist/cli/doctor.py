"""`alchemist doctor`: what this machine has, and what a model would need on a GPU before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from video_alchemist.model.hardware import Gpu
    from video_alchemist.sampling.memory import Networks

GIB = 2**30


def doctor(
    model: Annotated[
        str | None, typer.Option(metavar="ID_OR_FOLDER", help="Predict the memory of a pipeline, or of a preset.")
    ] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Of the video; default: the model's.")] = None,
    num_frames: Annotated[int | None, typer.Option(help="Of the video; default: the model's.")] = None,
    gpu: Annotated[
        str | None, typer.Option(metavar="24GB", help="Memory or name of the card it must fit on; default: this one.")
    ] = None,
    num_images: Annotated[int, typer.Option(help="Reference images.")] = 6,
) -> None:
    """Say what this machine has: versions, devices, the shipped model; or what a model will need.

    Example: alchemist doctor --model wan_1_3b --size 832x480 --num-frames 81 --gpu 24GB
    """
    if model is None:
        given = {"--size": size, "--num-frames": num_frames, "--gpu": gpu}
        for option, value in given.items():
            if value is not None:
                raise ValueError(f"{option} {value} without a model; expected --model ID_OR_FOLDER beside it")
        machine()
    else:
        needs(model, size, num_frames, gpu, num_images)


def machine() -> None:
    import platform
    from importlib.metadata import version

    import torch

    from video_alchemist.model.flops import parameters
    from video_alchemist.presets import paper
    from video_alchemist.sampling.pipeline import SHIPPED

    print(f"{'python':<16}{platform.python_version()}")
    for package in ("torch", "diffusers", "transformers", "av"):
        print(f"{package:<16}{version(package)}")
    print(f"{'cpu threads':<16}{torch.get_num_threads()}")
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        print(f"{f'cuda:{i}':<16}{properties.name}, {properties.total_memory / GIB:.0f} GiB")
    if not torch.cuda.is_available():
        print(f"{'cuda':<16}none; models run on the cpu")
    for name, folder in SHIPPED.items():
        state = "present" if (folder / "model_index.json").is_file() else "missing; `make weights` makes it"
        print(f"{name:<16}{state}")
    total = parameters(paper().transformer)["total"]
    print(f"{'paper':<16}{total / 1e9:.1f}B parameters, {total * 2 / GIB:.0f} GiB in bfloat16")


def needs(model: str, size: str | None, num_frames: int | None, gpu: str | None, num_images: int) -> None:
    import torch

    from video_alchemist.model.hardware import Gpu, find_gpu
    from video_alchemist.sampling.memory import SETTINGS, peak, predict
    from video_alchemist.sampling.request import parse_size

    card = None if gpu is None else find_gpu(gpu)
    if card is None and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        card = Gpu(properties.name, 0.0, properties.total_memory)
    asked = None if size is None else parse_size(size)
    networks = outlined(model)
    wanted, frames = asked or networks.size, num_frames or networks.num_frames
    parts = predict(networks, wanted, frames, num_images)
    print(f"{model}, {wanted[0]}x{wanted[1]}, {frames} frames, {num_images} reference images, bfloat16; GiB")
    print(f"  {'part':<24}{'weights':>9}{'work':>9}{'least work':>12}")
    for part in parts:
        print(f"  {part.name:<24}{part.weights / GIB:>9.2f}{part.work / GIB:>9.2f}{part.least / GIB:>12.2f}")
    print("  work: guidance's branches as one batch, whole frames decoded; least: one after another, tiles")
    print(f"  {'setting':<24}{'peak':>9}")
    peaks = {setting.name: peak(parts, setting) for setting in SETTINGS}
    for name, value in peaks.items():
        print(f"  {name:<24}{value / GIB:>9.2f}{'  fits' if card is not None and value <= card.usable else ''}")
    if card is not None:
        print(recommendation(peaks, card))


def recommendation(peaks: dict[str, float], card: Gpu) -> str:
    """The fastest setting that fits on a card, and how to choose it; peaks: bytes by setting."""
    from video_alchemist.sampling.memory import SETTINGS

    usable = f"{card.name} ({card.usable / GIB:.1f} GiB for us)"
    for setting in SETTINGS:
        if peaks[setting.name] <= card.usable:
            return f"recommended on {usable}: {setting.name}\n  {setting.code}"
    least = min(peaks.values()) / GIB
    return f"nothing fits on {usable}; expected {least:.1f} GiB, a smaller --size or fewer frames"


def outlined(model: str) -> Networks:
    """A preset by name or by the open weights it starts from, a pipeline's folder or hub id; configurations only."""
    from functools import partial

    from video_alchemist.model.wan import alchemist_config
    from video_alchemist.presets import DINOV2, PRESETS
    from video_alchemist.pretrained.outline import outline, read_config
    from video_alchemist.sampling.memory import Networks

    for name, make in PRESETS.items():
        preset = make()
        if model in (name, preset.initial) and preset.autoencoder != "emojiworld":
            return Networks(
                preset.transformer,
                partial(outline, preset.autoencoder, "autoencoder"),
                partial(outline, preset.text_encoder, "text_encoder"),
                partial(outline, preset.image_encoder.model, "image_encoder"),
                preset.size,
                preset.num_frames,
                preset.image_encoder.size,
                image_block=preset.image_encoder.block,
                negative_prompt=preset.negative_prompt is not None,
            )
    index = read_config(model, name="model_index.json")
    transformer = read_config(model, "transformer")
    parts: Any = {part: partial(outline, model, part) for part in ("autoencoder", "text_encoder", "image_encoder")}
    if index.get("_class_name") == "WanPipeline":
        parts["image_encoder"] = partial(outline, DINOV2.model, "image_encoder")
        options = alchemist_config(transformer, model) | {"image_dim": DINOV2.channels}
        return Networks(options, **parts, size=(832, 480), num_frames=81, negative_prompt=True)
    if index.get("_class_name") != "AlchemistPipeline":
        raise ValueError(f"{model!r} is a {index.get('_class_name')}; expected an AlchemistPipeline or a WanPipeline")
    return Networks(
        transformer,
        **parts,
        size=tuple(index["size"]),
        num_frames=index["num_frames"],
        reference_size=index["reference_size"],
        text_tokens=index["max_text_length"],
        image_block=index["image_block"],
        negative_prompt=index.get("negative_prompt") is not None,
    )
