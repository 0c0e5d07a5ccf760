"""Named configurations, as short functions. `paper()` quotes Tables 4 to 6; `emojiworld()` is what ships.

with torch.device("meta"):
    transformer = AlchemistTransformer(**paper().transformer)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from video_alchemist.dataset.augmentation import Augmentation
from video_alchemist.emojiworld.recipes.image_encoder import SMALL_AUGMENTATION
from video_alchemist.emojiworld.recipes.scale import SMALL, Scale
from video_alchemist.emojiworld.recipes.transformer import train_config
from video_alchemist.training.config import OptimizerConfig, TrainConfig
from video_alchemist.training.stages import PAPER_STAGES

Resolution = tuple[int, int]  # (width, height)


@dataclass(frozen=True)
class ImageEncoderPreset:
    """Which patch tokens of which network (Table 5, right)."""

    model: str
    block: int
    tokens: int = 256
    channels: int = 1024
    size: int = 224


@dataclass(frozen=True)
class Preset:
    """Everything that differs from one system to the next. Networks are named by hub id or folder."""

    name: str
    transformer: dict[str, Any]
    training: TrainConfig
    autoencoder: str
    text_encoder: str
    image_encoder: ImageEncoderPreset
    augmentation: Augmentation = field(default_factory=Augmentation)
    buckets: dict[tuple[Resolution, int], tuple[int, float]] = field(default_factory=dict)  # -> (batch size, weight %)
    num_steps: dict[Resolution, int] = field(default_factory=dict)
    text_scale: float = 8.0
    image_scale: float = 3.0
    fps: float = 24.0


DINOV2 = ImageEncoderPreset("facebook/dinov2-large", block=24)  # Table 5: "ViT-L/14", "Selective block 24"
CLIP = ImageEncoderPreset("openai/clip-vit-large-patch14", block=23)  # Table 5: "Selective block 23"

_FRAMES = (17, 49, 73, 97, 121, 145, 193, 289)  # Table 6: "# frames"
_BATCHES = {  # Table 6: "Batch Size"
    (256, 144): (1216, 464, 320, 240, 192, 160, 128, 80),
    (512, 288): (304, 112, 80, 64, 48),
    (1024, 576): (80, 32, 16, 16, 16),
}
_REST_WEIGHT = {(256, 144): 10 / 3, (512, 288): 35 / 6, (1024, 576): 35 / 6}  # printed as 3.3 % and 5.8 %


def table_6_buckets() -> dict[tuple[Resolution, int], tuple[int, float]]:
    """(resolution, frames) -> (batch size, sampling weight in %). The 17-frame rows have "10%" each."""
    return {
        (resolution, frames): (batch, 10.0 if frames == 17 else _REST_WEIGHT[resolution])
        for resolution, batches in _BATCHES.items()
        for frames, batch in zip(_FRAMES, batches, strict=False)
    }


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
        ),
        autoencoder="THUDM/CogVideoX-5b",  # B.1: "CogVideoX-5B as the autoencoder"
        text_encoder="google/t5-v1_1-large",  # ours: the paper names none; 1,024 channels as in Table 5
        image_encoder=image_encoder,
        buckets=table_6_buckets(),
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
        ),
        augmentation=SMALL_AUGMENTATION,
        buckets={
            ((width, height), 1): (scale.image_batch, 50.0),
            ((width, height), scale.num_frames): (scale.clip_batch, 50.0),
        },
        num_steps={(width, height): scale.num_steps},
        text_scale=scale.text_scale,
        image_scale=scale.image_scale,
        fps=scale.fps,
    )
