"""Named configurations, as short functions. `paper()` quotes Tables 4 to 6; `emojiworld()` is what ships.

with torch.device("meta"):
    transformer = AlchemistTransformer(**paper().transformer)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_alchemist.dataset.augmentation import Augmentation
from video_alchemist.dataset.buckets import Bucket, table_6
from video_alchemist.emojiworld.recipes.image_encoder import SMALL_AUGMENTATION
from video_alchemist.emojiworld.recipes.scale import BASE, SMALL, Scale
from video_alchemist.emojiworld.recipes.transformer import train_config
from video_alchemist.training.config import OptimizerConfig, ParallelConfig, TrainConfig
from video_alchemist.training.stages import PAPER_STAGES

if TYPE_CHECKING:
    import torch

    from video_alchemist.sampling.pipeline import AlchemistPipeline

Resolution = tuple[int, int]  # (width, height)


@dataclass(frozen=True)
class ImageEncoderPreset:
    """Which patch tokens of which network (Table 5, right). mean, std: of its pictures' colours."""

    model: str
    block: int
    tokens: int = 256
    channels: int = 1024
    size: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preset:
    """Everything that differs from one system to the next. Networks are named by hub id or folder."""

    name: str
    transformer: dict[str, Any]
    training: TrainConfig
    autoencoder: str
    text_encoder: str
    image_encoder: ImageEncoderPreset
    buckets: tuple[Bucket, ...]
    num_steps: dict[Resolution, int]
    size: Resolution = (256, 144)
    num_frames: int = 121
    initial: str | None = None  # the open weights that stage I is taken from
    time_shift: dict[Resolution, float] | None = None  # in sampling; None = by the number of pixels (App. B.3)
    text_scale: float = 8.0
    image_scale: float = 3.0
    fps: float = 24.0
    pad_text: bool = False  # see T5TextEncoder's pad_to_max
    negative_prompt: str | None = None  # what dropped text becomes; None = zeros (App. B.2)
    augmentation: Augmentation = field(default_factory=Augmentation)


DINOV2 = ImageEncoderPreset("facebook/dinov2-large", block=24)  # Table 5: "ViT-L/14", "Selective block 24"
CLIP = ImageEncoderPreset(
    "openai/clip-vit-large-patch14",
    block=23,  # Table 5: "Selective block 23"
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)


def paper(image_encoder: ImageEncoderPreset = DINOV2, self_conditioning: bool = True) -> Preset:
    """The paper's system at its full size."""
    return Preset(
        name="paper",
        transformer={
            "in_channels": 16,  # Table 5: "Input channels 16"
            "patch_size": (1, 2, 2),  # Table 5: "Patch size 1 x 2 x 2"
            "hidden_size": 4096,  # Table 5: "Latent token channels 4096"
            "depth": 32,  # Table 5: "DiT blocks count 32"
            "num_heads": 32,  # Table 5: "Attention heads count 32"
            "text_dim": 1024,  # Table 5: "Conditioning channels 1024"
            "image_dim": image_encoder.channels,  # Table 5: "Tokens channels 1024"
            "max_images": 6,  # Table 5: "Conditioning images 6 (stage II training only)"
            "word_length": 4,  # ours; §3.2: "a consistent length"
            "self_conditioning": self_conditioning,  # Table 5: "Use self conditioning"
            "dropout": 0.1,  # Table 6: "Dropout 0.1"
        },
        training=TrainConfig(
            stages=PAPER_STAGES,
            optimizer=OptimizerConfig(learning_rate=1e-4, betas=(0.9, 0.99), weight_decay=0.01, gradient_clipping=0.05),
            dropout=0.1,
            text_drop=0.1,  # B.2: "randomly drop text or image conditioning with a probability of 10%"
            image_drop=0.1,
            self_conditioning_probability=0.9,  # Table 5: "Self conditioning prob. 0.9"
            base_latent=(256 // 8, 144 // 8),  # ours: larger latents are trained with the time shift they sample with
            parallel=ParallelConfig(activation_checkpointing=True),  # no bucket fits 80 GB without
            data_workers=8,
        ),
        autoencoder="THUDM/CogVideoX-5b",  # B.1: "CogVideoX-5B as the autoencoder"
        text_encoder="google/t5-v1_1-large",  # ours: the paper names none; 1,024 channels as in Table 5
        image_encoder=image_encoder,
        buckets=table_6(),
        # B.3: "256, 128, and 64 denoising steps"
        num_steps={(256, 144): 256, (512, 288): 128, (1024, 576): 64},
        text_scale=8.0,  # B.3: "s_T = 8 and s_I = 3"
        image_scale=3.0,
    )


def emojiworld(scale: Scale = SMALL) -> Preset:
    """The small system that ships with the package, trained on EmojiWorld by `make weights`."""
    width, height = scale.size[1], scale.size[0]
    return Preset(
        name="emojiworld",
        transformer={
            "in_channels": scale.latent_channels,
            "text_dim": scale.text_encoder["d_model"],
            "image_dim": scale.image_encoder["hidden_size"],
            **scale.transformer,
        },
        training=train_config(scale),
        autoencoder="emojiworld",
        text_encoder="emojiworld",
        image_encoder=ImageEncoderPreset(
            "emojiworld",
            block=scale.image_encoder["num_hidden_layers"],
            tokens=(scale.reference_size // scale.image_encoder["patch_size"]) ** 2,
            channels=scale.image_encoder["hidden_size"],
            size=scale.reference_size,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        augmentation=SMALL_AUGMENTATION,
        buckets=(
            Bucket((width, height), 1, scale.image_batch, 50.0),
            Bucket((width, height), scale.num_frames, scale.clip_batch, 50.0),
        ),
        num_steps={(width, height): scale.num_steps},
        time_shift={(width, height): scale.sampling_shift},
        size=(width, height),
        num_frames=scale.num_frames,
        initial="emojiworld",
        text_scale=scale.text_scale,
        image_scale=scale.image_scale,
        fps=scale.fps,
    )


def wan_1_3b(image_encoder: ImageEncoderPreset = DINOV2) -> Preset:
    """Stage II on Wan 2.1 T2V 1.3B, which stands for stage I."""
    # Its makers guide by 6; their scale counts from the null branch, ours from the full one.
    return _wan("wan_1_3b", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", (1536, 30, 12, 8960), 5.0, image_encoder)


def wan_14b(image_encoder: ImageEncoderPreset = DINOV2) -> Preset:
    """Stage II on Wan 2.1 T2V 14B, which stands for stage I."""
    return _wan("wan_14b", "Wan-AI/Wan2.1-T2V-14B-Diffusers", (5120, 40, 40, 13824), 4.0, image_encoder)


def _wan(
    name: str, model: str, sizes: tuple[int, int, int, int], text_scale: float, image_encoder: ImageEncoderPreset
) -> Preset:
    """What both sizes of Wan 2.1 share. sizes: hidden_size, depth, num_heads, ffn_size."""
    from video_alchemist.model.wan import WAN_OPTIONS

    hidden_size, depth, num_heads, ffn_size = sizes
    landscape, portrait, large = (832, 480), (480, 832), (1280, 720)
    return Preset(
        name=name,
        transformer={
            "in_channels": 16,
            "patch_size": (1, 2, 2),
            "hidden_size": hidden_size,
            "depth": depth,
            "num_heads": num_heads,
            "ffn_size": ffn_size,
            "text_dim": 4096,  # UMT5-XXL
            **WAN_OPTIONS,
            "image_dim": image_encoder.channels,
            "max_images": 6,
            "word_length": 4,
        },
        training=TrainConfig(
            stages=PAPER_STAGES[1:],
            shift=3.0,
            dropout=0.0,  # the open weights were trained without
            parallel=ParallelConfig(activation_checkpointing=True),  # one clip is 32,760 tokens
        ),
        autoencoder=model,
        text_encoder=model,
        image_encoder=image_encoder,
        # Wan's own frame rate and sizes; a batch is about one clip of 81 frames: 32,760 tokens.
        buckets=tuple(
            Bucket(size, num_frames, batch_size, weight)
            for size in (landscape, portrait)
            for num_frames, batch_size, weight in ((17, 4, 10.0), (49, 1, 20.0), (81, 1, 20.0))
        ),
        num_steps={landscape: 50},
        size=landscape,
        num_frames=81,
        initial=model,
        time_shift={landscape: 3.0, large: 5.0},
        text_scale=text_scale,
        image_scale=3.0,
        fps=16.0,
        pad_text=True,
        negative_prompt="",
    )


PRESETS: dict[str, Callable[[], Preset]] = {
    "emojiworld": emojiworld,
    "emojiworld-base": partial(emojiworld, BASE),
    "paper": paper,
    "wan_1_3b": wan_1_3b,
    "wan_14b": wan_14b,
}


def build_pipeline(
    preset: Preset,
    model: str | None = None,
    dtype: torch.dtype | None = None,
    with_weights: bool = True,
    encoder_dtype: torch.dtype | None = None,
) -> AlchemistPipeline:
    """The preset's networks as a pipeline, in float32 by default.

    model: instead of `preset.initial`; a pipeline of ours, or for Wan a diffusers folder or hub id.
    Wan begins at the end of stage I, the paper's transformer untrained; training adds the personalisation.
    with_weights=False: the transformer is shapes alone (meta), for ranks that get its weights from the first.
    encoder_dtype: of the text and the image encoder, where it is another.
    """
    import torch

    from video_alchemist.sampling.pipeline import AlchemistPipeline

    source, dtype = model or preset.initial, dtype or torch.float32
    encoder_dtype = encoder_dtype or dtype
    if source == "emojiworld" or (source is not None and _class_of(source) == "AlchemistPipeline"):
        given = {} if with_weights else {"transformer": _shapes(source)}
        dtypes = {"text_encoder": encoder_dtype, "image_encoder": encoder_dtype, "default": dtype}
        return AlchemistPipeline.from_pretrained(source, dtype=dtypes, **given)
    make = _paper_networks if source is None else partial(_wan_networks, source=source)
    return AlchemistPipeline(
        **make(preset, dtype=dtype, encoder_dtype=encoder_dtype, with_weights=with_weights),
        image_encoder=_image_encoder(preset.image_encoder.model, encoder_dtype),
        size=preset.size,
        num_frames=preset.num_frames,
        fps=preset.fps,
        num_steps=_by_size(preset.num_steps),
        text_scale=preset.text_scale,
        image_scale=preset.image_scale,
        time_shift=None if preset.time_shift is None else _by_size(preset.time_shift),
        reference_size=preset.image_encoder.size,
        image_mean=preset.image_encoder.mean,
        image_std=preset.image_encoder.std,
        image_block=preset.image_encoder.block,
        pad_text=preset.pad_text,
        negative_prompt=preset.negative_prompt,
    )


def _by_size(table: Mapping[Resolution, Any]) -> dict[str, Any]:
    return {f"{width}x{height}": value for (width, height), value in table.items()}


def _class_of(source: str) -> str:
    """The class that a pipeline's folder or hub id is of."""
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    return str(_load(DiffusionPipeline.load_config, source)["_class_name"])


def _shapes(source: str) -> Any:
    """The transformer of a pipeline of ours, without its weights."""
    import torch

    from video_alchemist.model.transformer import AlchemistTransformer
    from video_alchemist.sampling.pipeline import SHIPPED

    config = _load(AlchemistTransformer.load_config, str(SHIPPED.get(source, source)), subfolder="transformer")
    with torch.device("meta"):
        return AlchemistTransformer.from_config(config)


def _wan_networks(
    preset: Preset, source: str, dtype: torch.dtype, encoder_dtype: torch.dtype, with_weights: bool
) -> dict[str, Any]:
    import torch
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
    from transformers import AutoTokenizer, UMT5EncoderModel

    from video_alchemist.model.transformer import AlchemistTransformer
    from video_alchemist.model.wan import alchemist_config, load_wan

    options = {name: preset.transformer[name] for name in ("image_dim", "max_images", "word_length")}
    if with_weights:
        transformer = load_wan(source, **options, personalization=False, dtype=dtype)
    else:
        wan = _load(WanTransformer3DModel.load_config, source, subfolder="transformer")
        with torch.device("meta"):
            transformer = AlchemistTransformer(**{**alchemist_config(wan, source), **options}, personalization=False)
    return {
        "transformer": transformer,
        "autoencoder": _load(AutoencoderKLWan.from_pretrained, source, subfolder="vae", torch_dtype=dtype),
        "text_encoder": _load(UMT5EncoderModel.from_pretrained, source, subfolder="text_encoder", dtype=encoder_dtype),
        "tokenizer": _load(AutoTokenizer.from_pretrained, source, subfolder="tokenizer"),
    }


def _paper_networks(
    preset: Preset, dtype: torch.dtype, encoder_dtype: torch.dtype, with_weights: bool
) -> dict[str, Any]:
    import torch
    from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
    from transformers import AutoTokenizer, T5EncoderModel

    from video_alchemist.model.transformer import AlchemistTransformer

    with torch.device("cpu" if with_weights else "meta"):
        transformer = AlchemistTransformer(**preset.transformer, personalization=False).to(dtype)
    return {
        "transformer": transformer,
        "autoencoder": _load(
            AutoencoderKLCogVideoX.from_pretrained, preset.autoencoder, subfolder="vae", torch_dtype=dtype
        ),
        "text_encoder": _load(T5EncoderModel.from_pretrained, preset.text_encoder, dtype=encoder_dtype),
        "tokenizer": _load(AutoTokenizer.from_pretrained, preset.text_encoder),
    }


def _image_encoder(source: str, dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, CLIPVisionModel, Dinov2Model

    kind = _load(AutoConfig.from_pretrained, source).model_type
    return _load((CLIPVisionModel if kind.startswith("clip") else Dinov2Model).from_pretrained, source, dtype=dtype)


def _load(load: Callable[..., Any], source: str, **options: Any) -> Any:
    """What a library loads from a folder or hub id; where it cannot, one line that names it."""
    from video_alchemist.pretrained.weights import check_files

    folder = Path(source, options.get("subfolder", ""))
    if folder.is_dir():
        check_files(folder)
    try:
        return load(source, **options)
    except (OSError, ValueError) as error:
        what = source + (f"/{options['subfolder']}" if "subfolder" in options else "")
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        message = f"{what} cannot be loaded; expected a folder, or a hub id that can be reached: {reason}"
        raise ValueError(message) from error
