"""How much memory a video will take, part by part, before anything is loaded: `alchemist doctor --model ...`.

The pipeline's own code runs once on tensors of the wanted size but without data (model/memory.py), on networks made
from their configurations. Settings of diffusers (offloading, fp8 storage, 4 bits, tiling) are then sums over its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from video_alchemist.model.condition import EncodedCondition
from video_alchemist.model.flops import options
from video_alchemist.model.memory import MemoryMeter, dry, make, weight_bytes
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.pretrained.image_encoder import ViTImageEncoder
from video_alchemist.pretrained.roles import autoencoder_role
from video_alchemist.sampling.guidance import DualGuidance, Execution, GuidedVelocity

WAYS: tuple[Execution, Execution] = ("batched", "sequential")


@dataclass(frozen=True)
class Networks:
    """A pipeline in outline. The frozen networks are made by functions, to be called where tensors have no data."""

    transformer: Mapping[str, Any]
    autoencoder: Callable[[], Any]
    text_encoder: Callable[[], Any]
    image_encoder: Callable[[], Any]
    size: tuple[int, int]  # width, height
    num_frames: int
    reference_size: int = 224
    text_tokens: int = 512  # at most
    image_block: int | None = None
    negative_prompt: bool = False  # dropped text becomes another text


@dataclass(frozen=True)
class PartMemory:
    """Bytes of one part of the pipeline: its weights, those of its largest layer, and what it adds at work."""

    name: str
    weights: int
    layer: int
    work: int  # guidance's branches as one batch, whole frames decoded
    least: int  # the branches in turn, frames decoded in tiles


@dataclass(frozen=True)
class Setting:
    """A way to run the pipeline. transformer_bytes: its stored weights against those of the computing dtype."""

    name: str
    code: str
    offload: Literal["none", "model", "group"] = "none"
    transformer_bytes: float = 1.0
    least: frozenset[str] = frozenset()  # parts that work in the way that takes least


_MODEL, _TILES = "pipe.enable_model_cpu_offload()", "pipe.autoencoder.enable_tiling()"
_FP8 = "pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn)"
_NF4 = 'from_pretrained(..., quantization_config=PipelineQuantizationConfig("bitsandbytes_4bit", ...))'
_GROUP = 'pipe.enable_group_offload("cuda", offload_type="leaf_level", use_stream=True)'
_TURN = 'pipe(..., branches="sequential")'
_DECODER, _BOTH = frozenset({"autoencoder"}), frozenset({"autoencoder", "transformer"})
SETTINGS = (  # from the fastest to the slowest
    Setting("everything on the GPU", 'pipe.to("cuda")'),
    Setting("tiled decoding", f'pipe.to("cuda"); {_TILES}', least=_DECODER),
    Setting("model offload", _MODEL, "model"),
    Setting("model offload, tiled", f"{_MODEL}; {_TILES}", "model", least=_DECODER),
    Setting("branches in turn", f"{_MODEL}; {_TILES}; {_TURN}", "model", least=_BOTH),
    Setting("fp8 storage, lossy", f"{_FP8}; {_MODEL}; {_TILES}; {_TURN}", "model", 0.5, _BOTH),
    Setting("4 bits, lossy", f"{_NF4}; {_MODEL}; {_TILES}; {_TURN}", "model", 0.29, _BOTH),
    Setting("group offload", f"{_GROUP}; {_TILES}; {_TURN}", "group", least=_BOTH),
)


def predict(
    networks: Networks,
    size: tuple[int, int] | None = None,
    num_frames: int | None = None,
    images: int = 6,
    dtype: torch.dtype = torch.bfloat16,
) -> list[PartMemory]:
    """The parts in the order in which they run, for one sample under guidance by text and images."""
    width, height = size or networks.size
    with dry(), torch.no_grad():
        text_encoder, image_encoder, transformer, autoencoder = (
            make(network, dtype).eval()
            for network in (
                networks.text_encoder,
                networks.image_encoder,
                partial(AlchemistTransformer, **options(networks.transformer)),
                networks.autoencoder,
            )
        )
        role = autoencoder_role(autoencoder)
        frames = ((num_frames or networks.num_frames) - 1) // role.temporal_ratio + 1
        latent = (frames, height // role.spatial_ratio, width // role.spatial_ratio)
        config = transformer.config
        images = images * config["personalization"]
        tokens = (networks.reference_size // image_encoder.config.patch_size) ** 2
        condition = _condition(networks, config, images, tokens).to(transformer.device, dtype)
        return [
            _part("text encoder", text_encoder, partial(_encode_text, text_encoder, networks)),
            _part("image encoder", image_encoder, partial(_encode_images, image_encoder, networks, images)),
            _transformer(networks, transformer, condition, latent, dtype),
            _part(
                "autoencoder",
                autoencoder,
                partial(_decode, autoencoder, config["in_channels"], latent),
                partial(_decode_tiles, autoencoder, config["in_channels"], latent),
            ),
        ]


def peak(parts: Sequence[PartMemory], setting: Setting) -> float:
    """Bytes on the GPU at the worst moment under a setting."""
    worst, everything = 0.0, 0.0
    for part in parts:
        weights, work = float(part.weights), part.least if part.name in setting.least else part.work
        if part.name == "transformer" and setting.transformer_bytes < 1:
            weights, work = weights * setting.transformer_bytes, work + part.layer  # one layer is widened to compute
        if setting.offload == "group":
            weights = 2 * part.layer  # one computes, the next arrives
        worst = max(worst, work if setting.offload == "none" else weights + work)
        everything += weights
    return worst + (everything if setting.offload == "none" else 0)


# ------------------------------------------------------------------------------------------------------------------
# One part at work


def _part(
    name: str, network: nn.Module, work: Callable[[], Any], least: Callable[[], Any] | None = None
) -> PartMemory:
    peaks = []
    for one in (work, least or work):
        with MemoryMeter(network) as meter:
            one()
        peaks.append(meter.peak)
    layers = [sum(p.numel() * p.element_size() for p in layer.parameters(recurse=False)) for layer in network.modules()]
    return PartMemory(name, weight_bytes(network), max(layers), *peaks)


def _transformer(
    networks: Networks,
    whole: AlchemistTransformer,
    condition: EncodedCondition,
    latent: tuple[int, int, int],
    dtype: torch.dtype,
) -> PartMemory:
    """Blocks are alike: each adds its keys and values, so two and three of them tell what all of them take."""
    config = options(networks.transformer)
    two, three = (
        _part("transformer", block_stack, *(partial(_denoise, block_stack, condition, latent, way) for way in WAYS))
        for block_stack in (make(partial(AlchemistTransformer, **{**config, "depth": n}), dtype).eval() for n in (2, 3))
    )
    more = whole.config["depth"] - 2
    work, least = (a + more * (b - a) for a, b in ((two.work, three.work), (two.least, three.least)))
    return PartMemory("transformer", weight_bytes(whole), three.layer, work, least)


def _condition(networks: Networks, config: Mapping[str, Any], images: int, image_tokens: int) -> EncodedCondition:
    """One sample's, as large as it can be."""
    text = torch.empty(1, networks.text_tokens, config["text_dim"])
    mask = torch.ones(1, networks.text_tokens, dtype=torch.bool)
    given: dict[str, Any] = {}
    if images:
        given["image_tokens"] = torch.empty(1, images, image_tokens, config["image_dim"])
        given["word_index"] = torch.zeros(1, images, config["word_length"], dtype=torch.long)
        given["image_mask"] = torch.ones(1, images, dtype=torch.bool)
    if networks.negative_prompt:
        given |= {"null_tokens": text.clone(), "null_mask": mask}
    return EncodedCondition(text, mask, **given)


def _encode_text(network: Any, networks: Networks) -> Any:
    rows = 1 + networks.negative_prompt
    ids = torch.zeros(rows, networks.text_tokens, dtype=torch.long)
    return network(input_ids=ids).last_hidden_state


def _encode_images(network: Any, networks: Networks, images: int) -> Any:
    size = networks.reference_size
    role = ViTImageEncoder(network, size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), networks.image_block)
    return role(torch.empty(images, 3, size, size, dtype=torch.float32)) if images else None


def _denoise(
    network: AlchemistTransformer, condition: EncodedCondition, latent: tuple[int, int, int], execution: Execution
) -> Any:
    guider = DualGuidance(has_references=condition.image_tokens is not None)
    velocity = GuidedVelocity(network, condition, guider, num_steps=1, execution=execution)
    z = torch.empty(1, network.config["in_channels"], *latent, dtype=torch.float32)
    return z - 0.5 * velocity(z, torch.ones(1, dtype=torch.float32))


def _decode(network: Any, channels: int, latent: tuple[int, int, int]) -> None:
    z = torch.empty(1, channels, *latent, dtype=torch.float32)
    _to_bytes(autoencoder_role(network).decode(z)[0])


def _decode_tiles(network: Any, channels: int, latent: tuple[int, int, int]) -> None:
    """diffusers keeps all decoded tiles, overlaps included, and joins them twice: into rows, and rows into frames.

    One tile is decoded here, for they are alike and thousands of layers take long even so.
    """
    role, (_, height, width) = autoencoder_role(network), latent
    (tile_height, step_height), (tile_width, step_width) = _tiles(network, role.spatial_ratio)
    tiles = len(range(0, height, step_height)) * len(range(0, width, step_width))
    z = torch.empty(1, channels, *latent, dtype=torch.float32)
    tile = role.decode(z[..., :tile_height, :tile_width])
    kept = tile.new_empty(tiles, *tile.shape)
    del tile
    rows = [kept.new_empty(3, kept.shape[3], height * role.spatial_ratio, width * role.spatial_ratio) for _ in range(2)]
    del kept
    _to_bytes(rows.pop())


def _tiles(network: Any, ratio: int) -> list[tuple[int, int]]:
    """Size of a tile and distance to the next one, in latents, of height and width."""
    if hasattr(network, "tile_sample_stride_height"):  # AutoencoderKLWan
        pixels = [(getattr(network, f"tile_sample_min_{side}"), getattr(network, f"tile_sample_stride_{side}"))
                  for side in ("height", "width")]  # fmt: skip
        return [(size // ratio, step // ratio) for size, step in pixels]
    sizes = [(getattr(network, f"tile_latent_min_{side}"), getattr(network, f"tile_overlap_factor_{side}"))
             for side in ("height", "width")]  # fmt: skip
    return [(size, int(size * (1 - overlap))) for size, overlap in sizes]


def _to_bytes(video: Tensor) -> Tensor:
    """(3, F, H, W) => (F, H, W, 3) uint8, as the pipeline does it."""
    video = video.float() / 2 + 0.5
    return (video * 255).round().to(torch.uint8).permute(1, 2, 3, 0).contiguous()
