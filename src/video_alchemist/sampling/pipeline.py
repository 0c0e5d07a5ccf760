"""AlchemistPipeline: prompt and references -> video (App. B.3). A diffusers DiffusionPipeline.

B samples · F frames · H,W pixels · C channels · f,h,w latent
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from video_alchemist.dataset.picture import read_picture
from video_alchemist.flow import resolution_shift, schedule
from video_alchemist.model.condition import EncodedCondition, encode_conditions, place_references
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.pretrained.autoencoder import CogVideoXAutoencoder
from video_alchemist.pretrained.image_encoder import ViTImageEncoder
from video_alchemist.pretrained.text_encoder import T5TextEncoder
from video_alchemist.records import Reference
from video_alchemist.sampling.guidance import GuidedVelocity, branch_weights
from video_alchemist.sampling.request import Request, parse_size
from video_alchemist.sampling.sidecar import describe, weights_revision
from video_alchemist.sampling.solver import euler
from video_alchemist.video import replacing, write_video

SHIPPED = {"emojiworld": Path(__file__).parents[1] / "emojiworld" / "bundle"}
PAPER_STEPS = {"256x144": 256, "512x288": 128, "1024x576": 64}  # App. B.3: "256, 128, and 64 denoising steps"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OUTPUT_TYPES = ("np", "pt", "pil", "latent")


@dataclass
class AlchemistOutput(BaseOutput):
    """One entry a prompt: (F, H, W, 3) uint8 ("np"), (F, 3, H, W) float in [0, 1] ("pt"), a list of F pictures
    ("pil"), or (C, f, h, w) ("latent")."""

    frames: list[Any]


@dataclass(frozen=True)
class Settings:
    """A request's settings with the model's own filled in. Samples of one batch share them."""

    size: tuple[int, int]  # width, height
    num_frames: int
    num_steps: int
    text_scale: float
    image_scale: float
    equation: int
    time_shift: float


class AlchemistPipeline(DiffusionPipeline):
    """Sizes are (width, height) in pixels."""

    model_cpu_offload_seq = "text_encoder->image_encoder->transformer->autoencoder"  # type: ignore[assignment]
    transformer: AlchemistTransformer
    autoencoder: Any
    text_encoder: Any
    tokenizer: Any
    image_encoder: Any

    def __init__(
        self,
        transformer: AlchemistTransformer,
        autoencoder: Any,
        text_encoder: Any,
        tokenizer: Any,
        image_encoder: Any,
        size: list[int] | tuple[int, ...] = (256, 144),
        num_frames: int = 121,
        fps: float = 24.0,
        num_steps: int | dict[str, int] | None = None,
        text_scale: float = 8.0,
        image_scale: float = 3.0,
        base_size: list[int] | tuple[int, ...] | None = None,
        base_shift: float = 1.0,
        reference_size: int = 224,
        max_text_length: int = 512,
        image_mean: list[float] | tuple[float, ...] = IMAGENET_MEAN,
        image_std: list[float] | tuple[float, ...] = IMAGENET_STD,
        image_block: int | None = None,
    ) -> None:
        """Types are those that diffusers can check at loading.

        num_steps: a number, or a table by size, whose nearest entry is taken; None = the paper's table.
        base_size, base_shift: the size trained with time shift base_shift (default: `size`); others shift more or less.
        reference_size, image_mean, image_std, image_block: what the image encoder sees, and where it is read."""
        super().__init__()
        self.register_modules(
            transformer=transformer,
            autoencoder=autoencoder,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            image_encoder=image_encoder,
        )
        self.register_to_config(
            size=list(size),
            num_frames=num_frames,
            fps=fps,
            num_steps=dict(num_steps) if isinstance(num_steps, Mapping) else num_steps or PAPER_STEPS,
            text_scale=text_scale,
            image_scale=image_scale,
            base_size=list(base_size or size),
            base_shift=base_shift,
            reference_size=reference_size,
            max_text_length=max_text_length,
            image_mean=list(image_mean),
            image_std=list(image_std),
            image_block=image_block,
        )
        self.model_name: str | None = None
        self.model_folder: Path | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike, **kwargs: Any) -> AlchemistPipeline:
        """A model that ships with the package ("emojiworld"), a folder, or a hub id."""
        name = str(pretrained_model_name_or_path)
        folder = SHIPPED.get(name) or _model_folder(name, kwargs)
        if not (folder / "model_index.json").is_file():
            raise ValueError(f"{str(folder)!r} holds no pipeline; expected a model_index.json in it")
        # One type for all networks: left alone, diffusers' load in float32 and transformers' as they are stored.
        kwargs.setdefault("dtype", kwargs.pop("torch_dtype", torch.float32))
        pipeline = super().from_pretrained(str(folder), **kwargs)
        pipeline.model_name, pipeline.model_folder = name, folder
        return pipeline

    # Requests

    def settings(self, request: Request) -> Settings:
        """The request's settings, checked against what the networks can do."""
        request.check()
        size = tuple(request.size or self.config["size"])
        num_frames = self.config["num_frames"] if request.num_frames is None else request.num_frames
        autoencoder = CogVideoXAutoencoder(self.autoencoder)
        _, patch_height, patch_width = self.transformer.config["patch_size"]
        cells = (autoencoder.spatial_ratio * patch_width, autoencoder.spatial_ratio * patch_height)
        if len(size) != 2 or any(side <= 0 or side % cell for side, cell in zip(size, cells, strict=True)):
            nearest = "x".join(str(max(1, round(side / cell)) * cell) for side, cell in zip(size, cells, strict=False))
            wanted = "x".join(map(str, size))
            raise ValueError(f"size {wanted}; expected multiples of {cells[0]}x{cells[1]}, nearest: {nearest}")
        ratio = autoencoder.temporal_ratio
        if num_frames < 1 or (num_frames - 1) % ratio:
            nearest_frames = max(0, round((num_frames - 1) / ratio)) * ratio + 1
            raise ValueError(f"num_frames is {num_frames}; expected {ratio} * k + 1, nearest: {nearest_frames}")
        return Settings(
            size=(size[0], size[1]),
            num_frames=num_frames,
            num_steps=request.num_steps or _steps_at(self.config["num_steps"], size),
            text_scale=float(self.config["text_scale"] if request.text_scale is None else request.text_scale),
            image_scale=float(self.config["image_scale"] if request.image_scale is None else request.image_scale),
            equation=request.equation,
            time_shift=resolution_shift(*size, tuple(self.config["base_size"]), self.config["base_shift"]),
        )

    def check(self, request: Request) -> Settings:
        """Everything a user can get wrong, before the first network runs: settings, words, pictures."""
        settings = self.settings(request)
        for place in place_references(request.condition, self.transformer.config["max_images"]):
            read_picture(place.reference)
        return settings

    # Generating

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        references: Sequence[Reference] | Sequence[Sequence[Reference]] = (),
        *,
        seed: int | Sequence[int] = 0,
        num_frames: int | None = None,
        size: tuple[int, int] | None = None,
        num_steps: int | None = None,
        text_scale: float | None = None,
        image_scale: float | None = None,
        equation: int = 2,
        output_type: str = "np",
        use_cache: bool = True,
    ) -> AlchemistOutput:
        """One video a prompt, in one batch. A list of prompts takes a list of references each; one seed serves all."""
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type {output_type!r}; expected one of {', '.join(OUTPUT_TYPES)}")
        common = Request("", (), 0, num_frames, size, num_steps, text_scale, image_scale, equation)
        requests = [
            replace(common, prompt=one, references=tuple(pictures), seed=number)
            for one, pictures, number in _samples(prompt, references, seed)
        ]
        settings = [self.check(request) for request in requests]
        z0 = self._sample(requests, settings[0], use_cache)
        frames = [self._decode(one, output_type) for one in z0]
        self.maybe_free_model_hooks()
        return AlchemistOutput(frames=frames)

    def generate(self, requests: Request | Sequence[Request], batch_size: int = 1) -> Any:
        """The frames (F, H, W, 3) uint8 of a request, or a list of them; see `generate_each`."""
        if isinstance(requests, Request):
            return next(self.generate_each([requests]))
        return list(self.generate_each(requests, batch_size))

    def generate_each(self, requests: Sequence[Request], batch_size: int = 1) -> Iterator[np.ndarray]:
        """Checks all requests, then yields their frames one by one, having written outputs with their sidecars."""
        settings = [self.check(request) for request in requests]
        start = 0
        while start < len(requests):
            stop = start + 1  # neighbours with the same settings share a batch
            while stop < min(start + batch_size, len(requests)) and settings[stop] == settings[start]:
                stop += 1
            with torch.no_grad():
                z0 = self._sample(requests[start:stop], settings[start], use_cache=True)
                videos = [self._decode(one, "np") for one in z0]
            self.maybe_free_model_hooks()
            for request, frames in zip(requests[start:stop], videos, strict=True):
                if request.output is not None:
                    self._write(request, settings[start], frames)
                yield frames
            start = stop

    def _sample(self, requests: Sequence[Request], settings: Settings, use_cache: bool) -> Tensor:
        """z0 (B, C, f, h, w)."""
        device = self._execution_device
        condition = self._encode(requests)
        weights = branch_weights(
            settings.text_scale, settings.image_scale, settings.equation, condition.image_tokens is not None
        )
        guided = GuidedVelocity(self.transformer, condition, weights, use_cache)
        noise = torch.stack([self._noise(request.seed, settings) for request in requests]).to(device)
        times = schedule(settings.num_steps, settings.time_shift).to(device)
        with self.progress_bar(total=settings.num_steps) as bar:

            def velocity(z: Tensor, t: Tensor) -> Tensor:
                v = guided(z, t)
                bar.update()
                return v

            return euler(velocity, noise, times)

    def _encode(self, requests: Sequence[Request]) -> EncodedCondition:
        config, device, dtype = self.config, self._execution_device, self.transformer.dtype
        condition = encode_conditions(
            [request.condition for request in requests],
            T5TextEncoder(self.text_encoder, self.tokenizer, config["max_text_length"]),
            ViTImageEncoder(
                self.image_encoder,
                config["reference_size"],
                config["image_mean"],
                config["image_std"],
                config["image_block"],
            ),
            self.transformer.config["word_length"],
            self.transformer.config["max_images"],
        )
        return condition.to(device, dtype)

    def _noise(self, seed: int, settings: Settings) -> Tensor:
        """(C, f, h, w): from the sample's own seed, drawn on the CPU, so it is the same in any batch on any machine."""
        autoencoder, (width, height) = CogVideoXAutoencoder(self.autoencoder), settings.size
        shape = (
            self.transformer.config["in_channels"],
            (settings.num_frames - 1) // autoencoder.temporal_ratio + 1,
            height // autoencoder.spatial_ratio,
            width // autoencoder.spatial_ratio,
        )
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def _decode(self, z0: Tensor, output_type: str) -> Any:
        """One sample (C, f, h, w) => what AlchemistOutput says."""
        if output_type == "latent":
            return z0
        video = CogVideoXAutoencoder(self.autoencoder).decode(z0[None])[0].float() / 2 + 0.5  # (3, F, H, W) in [0, 1]
        if output_type == "pt":
            return video.transpose(0, 1)
        frames = (video * 255).round().to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()  # (F, H, W, 3)
        return [Image.fromarray(frame) for frame in frames] if output_type == "pil" else frames

    # Files

    def _write(self, request: Request, settings: Settings, frames: np.ndarray) -> None:
        """X.mp4 and X.json; each is whole or not there, and the video never stands without its sidecar."""
        output = Path(str(request.output))
        revision = None if self.model_folder is None else weights_revision(self.model_folder)
        settings_ = {**asdict(settings), "fps": self.config["fps"], "dtype": str(self.transformer.dtype)}
        described = describe(request, settings_, {"name": self.model_name, "revision": revision})
        with replacing(output.with_suffix(".json")) as sidecar:
            sidecar.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            write_video(output, frames, self.config["fps"])


def _samples(
    prompt: str | Sequence[str], references: Sequence[Any], seed: int | Sequence[int]
) -> list[tuple[str, Sequence[Reference], int]]:
    """Prompt, references and seed of every sample."""
    if isinstance(prompt, str):
        prompt, references = [prompt], [references]
    references = references or [()] * len(prompt)
    seeds = [seed] * len(prompt) if isinstance(seed, int) else list(seed)
    if not len(prompt) == len(references) == len(seeds) or not prompt:
        raise ValueError(
            f"{len(prompt)} prompts, {len(references)} lists of references, {len(seeds)} seeds; expected equal numbers"
        )
    return list(zip(prompt, references, seeds, strict=True))


def _steps_at(num_steps: int | Mapping[str, int], size: Sequence[int]) -> int:
    """Number of steps at a size: that of the table's entry with the nearest number of pixels."""
    if isinstance(num_steps, int):
        return num_steps

    def ratio(entry: str) -> float:
        width, height = parse_size(entry)
        return abs(float(np.log(width * height / (size[0] * size[1]))))

    return num_steps[min(num_steps, key=ratio)]


def _model_folder(name: str, kwargs: dict[str, Any]) -> Path:
    """A folder as it is; a hub id downloaded whole: diffusers itself refuses models whose code is not its own."""
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ValueError(f"model {name!r}; expected {', '.join(map(repr, SHIPPED))}, a folder, or a hub id OWNER/NAME")
    from huggingface_hub import snapshot_download

    options = {key: kwargs.pop(key) for key in ("revision", "cache_dir", "token", "local_files_only") if key in kwargs}
    return Path(snapshot_download(name, **options))
