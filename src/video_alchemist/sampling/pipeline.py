"""AlchemistPipeline: prompt and references -> video (App. B.3). A diffusers DiffusionPipeline.

B samples · F frames · H,W pixels · C channels · f,h,w latent
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from diffusers.loaders import CogVideoXLoraLoaderMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from video_alchemist.dataset.picture import read_picture
from video_alchemist.flow import schedule
from video_alchemist.model.condition import EncodedCondition, encode_conditions, place_references
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.pretrained.image_encoder import ViTImageEncoder
from video_alchemist.pretrained.roles import Roles, autoencoder_role
from video_alchemist.pretrained.text_encoder import T5TextEncoder
from video_alchemist.records import Reference
from video_alchemist.sampling.folder import SHIPPED, find_folder
from video_alchemist.sampling.guidance import DualGuidance, Execution, GuidedVelocity
from video_alchemist.sampling.request import Request
from video_alchemist.sampling.settings import Settings, resolve
from video_alchemist.sampling.sidecar import describe, weights_revision
from video_alchemist.sampling.solver import euler
from video_alchemist.video import replacing, write_video

__all__ = ["SHIPPED", "AlchemistOutput", "AlchemistPipeline"]
CUSTOM_PIPELINE = "from video_alchemist.sampling.pipeline import AlchemistPipeline  # noqa: F401\n"
PAPER_STEPS = {"256x144": 256, "512x288": 128, "1024x576": 64}  # App. B.3: "256, 128, and 64 denoising steps"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OUTPUT_TYPES = ("np", "pt", "pil", "latent")


@dataclass
class AlchemistOutput(BaseOutput):
    """One entry a prompt: (F, H, W, 3) uint8 ("np"), (F, 3, H, W) float in [0, 1] ("pt"), a list of F pictures
    ("pil"), or (C, f, h, w) ("latent")."""

    frames: list[Any]


class AlchemistPipeline(DiffusionPipeline, CogVideoXLoraLoaderMixin):
    """Sizes are (width, height) in pixels. LoRA files, also those for Wan 2.1, are loaded as diffusers does it."""

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
        time_shift: float | dict[str, float] | None = None,
        pad_text: bool = False,
        negative_prompt: str | None = None,
        text_interval: list[float] | tuple[float, ...] = (0.0, 1.0),
        image_interval: list[float] | tuple[float, ...] = (0.0, 1.0),
    ) -> None:
        """Types are those that diffusers can check at loading.

        num_steps: a number, or a table by size, whose nearest entry is taken; None = the paper's table.
        time_shift: likewise; None = by the ratio of pixels to base_size (default: `size`), which has base_shift.
        reference_size, image_mean, image_std, image_block: what the image encoder sees, and where it is read.
        pad_text: see T5TextEncoder's pad_to_max; intervals: see Request. negative_prompt: no text; None = zeros."""
        super().__init__()
        self.register_modules(
            transformer=transformer, autoencoder=autoencoder, text_encoder=text_encoder, tokenizer=tokenizer,
            image_encoder=image_encoder,
        )  # fmt: skip
        self.register_to_config(
            size=list(size), num_frames=num_frames, fps=fps, text_interval=text_interval,
            num_steps=dict(num_steps) if isinstance(num_steps, Mapping) else num_steps or PAPER_STEPS,
            text_scale=text_scale, image_scale=image_scale, base_size=list(base_size or size), base_shift=base_shift,
            reference_size=reference_size, max_text_length=max_text_length,
            image_mean=list(image_mean), image_std=list(image_std), image_block=image_block,
            time_shift=dict(time_shift) if isinstance(time_shift, Mapping) else time_shift,
            pad_text=pad_text, negative_prompt=negative_prompt, image_interval=image_interval,
        )  # fmt: skip
        self.model_name: str | None = None
        self.model_folder: Path | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike, **kwargs: Any) -> AlchemistPipeline:
        """A model that ships with the package ("emojiworld"), a folder, or a hub id."""
        name = str(pretrained_model_name_or_path)
        folder = find_folder(name, kwargs)
        from video_alchemist.sampling.checks import check_folder

        check_folder(folder, inspect.signature(cls.__init__).parameters)
        # One type for all networks: left alone, diffusers' load in float32 and transformers' as they are stored.
        kwargs.setdefault("dtype", kwargs.pop("torch_dtype", torch.float32))
        pipeline = super().from_pretrained(str(folder), **kwargs)
        pipeline.model_name, pipeline.model_folder = name, folder
        return pipeline

    @property
    def roles(self) -> Roles:
        """The frozen networks behind their protocols."""
        config = self.config
        seen = [config[name] for name in ("reference_size", "image_mean", "image_std", "image_block")]
        return Roles(
            autoencoder_role(self.autoencoder),
            T5TextEncoder(self.text_encoder, self.tokenizer, config["max_text_length"], config["pad_text"]),
            ViTImageEncoder(self.image_encoder, *seen),
        )

    @classmethod
    def lora_state_dict(cls, *args: Any, **options: Any) -> Any:  # type: ignore[override]
        """As diffusers does it for Wan, with one line where a file is not whole or of another network."""
        from video_alchemist.sampling.lora import read_lora

        return read_lora(*args, **options)

    @classmethod
    def load_lora_into_transformer(
        cls, state_dict: dict[str, Tensor], transformer: Any, *args: Any, **kwargs: Any
    ) -> None:
        """As diffusers does, after a look whether the file is for this transformer, and in its layout."""
        from video_alchemist.sampling.lora import fit_lora

        weights, kwargs["metadata"] = fit_lora(state_dict, transformer, kwargs.get("metadata"))
        super().load_lora_into_transformer(weights, transformer, *args, **kwargs)

    def enable_group_offload(self, onload_device: torch.device, *args: Any, **kwargs: Any) -> None:
        """As diffusers does, but for the autoencoder: its blocks are entered beside its forward, so layers move."""
        options = inspect.signature(super().enable_group_offload).bind(onload_device, *args, **kwargs).arguments
        excluded = options.pop("exclude_modules", None) or []
        excluded = [excluded] if isinstance(excluded, str) else list(excluded)
        super().enable_group_offload(**options, exclude_modules=[*excluded, "autoencoder"])
        if "autoencoder" not in excluded:
            self.autoencoder.enable_group_offload(**options | {"offload_type": "leaf_level"})

    # Requests

    def settings(self, request: Request) -> Settings:
        """The request's settings, checked against what the networks can do."""
        patch_size = self.transformer.config["patch_size"]
        return resolve(request, self.config, autoencoder_role(self.autoencoder), patch_size)

    def check(self, request: Request) -> Settings:
        """Everything a user can get wrong, before the first network runs: settings, words, pictures."""
        settings = self.settings(request)
        if request.references and not self.transformer.config["personalization"]:
            raise ValueError("references are given to a model of stage I; expected none, or a model after stage II")
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
        output_type: str = "np",
        branches: Execution = "batched",
        use_cache: bool = True,
        **settings: Any,
    ) -> AlchemistOutput:
        """One video a prompt, in one batch. A list of prompts takes a list of references each; one seed serves all.

        branches: how guidance's forwards of a step are computed, see `Execution`; the video stays the same.
        settings: those of a Request: num_frames, size, num_steps, text_scale, image_scale, negative_prompt ...
        """
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type {output_type!r}; expected one of {', '.join(OUTPUT_TYPES)}")
        common = Request("", **settings)
        requests = [
            replace(common, prompt=one, references=tuple(pictures), seed=number)
            for one, pictures, number in _samples(prompt, references, seed)
        ]
        resolved = [self.check(request) for request in requests]
        z0 = self._sample(requests, resolved[0], branches, use_cache)
        frames = [self._decode(one, output_type) for one in z0]
        self.maybe_free_model_hooks()
        return AlchemistOutput(frames=frames)

    def generate(
        self, requests: Request | Sequence[Request], batch_size: int = 1, branches: Execution = "batched"
    ) -> Any:
        """The frames (F, H, W, 3) uint8 of a request, or a list of them; see `generate_each`."""
        if isinstance(requests, Request):
            return next(self.generate_each([requests], branches=branches))
        return list(self.generate_each(requests, batch_size, branches))

    def generate_each(
        self, requests: Sequence[Request], batch_size: int = 1, branches: Execution = "batched"
    ) -> Iterator[np.ndarray]:
        """Checks all requests, then yields their frames one by one, having written outputs with their sidecars."""
        settings = [self.check(request) for request in requests]
        start = 0
        while start < len(requests):
            stop = start + 1  # neighbours with the same settings share a batch
            while stop < min(start + batch_size, len(requests)) and settings[stop] == settings[start]:
                stop += 1
            with torch.no_grad():
                z0 = self._sample(requests[start:stop], settings[start], branches)
                videos = [self._decode(one, "np") for one in z0]
            self.maybe_free_model_hooks()
            for request, frames in zip(requests[start:stop], videos, strict=True):
                # Ranks that share the branches all have the video; one writes it.
                if request.output is not None and not (dist.is_initialized() and dist.get_rank()):
                    self._write(request, settings[start], frames)
                yield frames
            start = stop

    def _sample(
        self, requests: Sequence[Request], settings: Settings, branches: Execution, use_cache: bool = True
    ) -> Tensor:
        """z0 (B, C, f, h, w)."""
        device = self._execution_device
        condition = self._encode(requests, settings)
        names = ("text_scale", "image_scale", "equation", "text_interval", "image_interval")
        chosen = {name: getattr(settings, name) for name in names}
        guider = DualGuidance(**chosen, has_references=condition.image_tokens is not None)
        times = schedule(settings.num_steps, settings.time_shift).to(device)
        guided = GuidedVelocity(self.transformer, condition, guider, settings.num_steps, branches, use_cache, times)
        noise = torch.stack([self._noise(request.seed, settings) for request in requests]).to(device)
        with self.progress_bar(total=settings.num_steps) as bar:

            def velocity(z: Tensor, t: Tensor) -> Tensor:
                v = guided(z, t)
                bar.update()
                return v

            return euler(velocity, noise, times)

    def _encode(self, requests: Sequence[Request], settings: Settings) -> EncodedCondition:
        config, roles = self.transformer.config, self.roles
        conditions, encoders = [request.condition for request in requests], (roles.text_encoder, roles.image_encoder)
        sizes = (config["word_length"], config["max_images"])
        condition = encode_conditions(conditions, *encoders, *sizes, settings.negative_prompt)
        return condition.to(self._execution_device, self.transformer.dtype)

    def _noise(self, seed: int, settings: Settings) -> Tensor:
        """(C, f, h, w): from the sample's own seed, drawn on the CPU, so it is the same in any batch on any machine."""
        autoencoder, (width, height) = autoencoder_role(self.autoencoder), settings.size
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
        video = autoencoder_role(self.autoencoder).decode(z0[None])[0].float() / 2 + 0.5  # (3, F, H, W) in [0, 1]
        if output_type == "pt":
            return video.transpose(0, 1)
        frames = (video * 255).round().to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()  # (F, H, W, 3)
        return [Image.fromarray(frame) for frame in frames] if output_type == "pil" else frames

    # Files

    def save_pretrained(self, save_directory: str | PathLike, *args: Any, **kwargs: Any) -> None:
        """As diffusers does, and a pipeline.py: with it DiffusionPipeline loads the folder as custom_pipeline too."""
        super().save_pretrained(save_directory, *args, **kwargs)
        (Path(save_directory) / "pipeline.py").write_text(CUSTOM_PIPELINE)

    def _write(self, request: Request, settings: Settings, frames: np.ndarray) -> None:
        """X.mp4 and X.json; each is whole or not there, and the video never stands without its sidecar."""
        from video_alchemist.sampling.lora import worn

        output = Path(str(request.output))
        revision = None if self.model_folder is None else weights_revision(self.model_folder)
        settings_ = {**asdict(settings), "fps": self.config["fps"], "dtype": str(self.transformer.dtype)}
        model = {"name": self.model_name, "revision": revision, "lora": worn(self.transformer)}
        described = describe(request, settings_, model)
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
