"""How large the shipped models are and how long each is trained: frozen values for two cores, and one for a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Scale:
    """Sizes are (height, width) in pixels; steps count optimiser steps, of `batch` samples each.

    The dictionaries are the configurations of AutoencoderKLLTXVideo, T5Config, Dinov2Config and AlchemistTransformer.
    """

    name: str
    size: tuple[int, int] = (64, 64)
    num_frames: int = 17
    fps: float = 12.0
    latent_channels: int = 48
    autoencoder: dict[str, Any] = field(default_factory=dict)
    text_encoder: dict[str, Any] = field(default_factory=dict)
    image_encoder: dict[str, Any] = field(default_factory=dict)
    transformer: dict[str, Any] = field(default_factory=dict)
    reference_size: int = 96
    image_encoder_size: int = 48  # it is trained at; places of larger pictures are interpolated, as DINOv2's are
    max_text_length: int = 40
    autoencoder_batch: int = 8
    crop: int = 32  # autoencoder: convolutions learn as well from crops, at a quarter of the cost
    autoencoder_steps: int = 2800
    text_steps: int = 1400
    image_steps: int = 450
    image_scenes: int = 16_384  # encoded once, trained on in random order with other references every time
    clip_scenes: int = 4096
    decoded_clips: int = 2048  # of them, for the motion judge
    stage_one_steps: int = 500
    stage_two_new_steps: int = 150
    stage_two_image_steps: int = 2300
    stage_two_clip_steps: int = 6000
    image_batch: int = 64
    clip_batch: int = 16
    learning_rate: float = 1.5e-3
    reference_factor: float = 4.0  # see OptimizerConfig
    localization_weight: float = 0.05  # latents of a mean variance of 0.3 leave small errors beside it
    clip_localization_every: int = 3  # steps: pictures have taught where to look, and it costs half a step
    subject_weight: float = 3.0  # a latent of a clip that shows an actor counts so much more than scenery
    # What is learned last, drawn more often from the encoded clips; the clips themselves show all actions alike.
    action_emphasis: dict[str, float] = field(
        default_factory=lambda: {"sways": 4, "flips": 4, "circles": 3, "spins": 2, "runs": 2, "waves": 2}
    )
    # Below t = .5 latents tell their content themselves; references matter nearer to noise.
    training_shift: float = 4.0
    ema_decay: float = 0.995
    encode_batch: int = 64
    workers: int = 1  # processes that render and encode
    num_steps: int = 12
    text_scale: float = 2.0
    image_scale: float = 3.0
    # At the last of the twelve steps it adds grain and garish colours; before, likeness.
    image_interval: tuple[float, float] = (0.0, 0.9)
    # Steps are few, and most of what moves is settled near noise.
    sampling_shift: float = 6.0


# What ships learned the use of references as 6 blocks of 128 channels and was then made deeper and wider: begun anew at
# this size, with few steps a minute of two cores, it takes several times as long. Latents are not patched: an actor is
# some 30 pixels high, four tokens of 8.
SMALL = Scale(
    name="small",
    autoencoder={"block_out_channels": (24, 64, 128), "decoder_block_out_channels": (48, 96)},
    text_encoder={"d_model": 128, "d_kv": 32, "num_heads": 4, "num_layers": 4, "d_ff": 384, "vocab_size": 2048},
    image_encoder={
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "patch_size": 8,
        "layerscale_value": 0.1,  # blocks begin as small corrections of what the patches tell
    },
    transformer={
        "hidden_size": 192,
        "depth": 10,
        "num_heads": 6,
        "patch_size": (1, 1, 1),
        "place_grid": (8, 8),
        "image_grid": (12, 12),
        "input_skip": True,  # 48 channels of noise in a width of 192
    },
)

# As large as a bundle of 60 MB lets it be.
BASE = Scale(
    name="base",
    autoencoder={"block_out_channels": (32, 64, 128), "decoder_block_out_channels": (64, 128)},
    text_encoder={"d_model": 128, "d_kv": 32, "num_heads": 4, "num_layers": 4, "d_ff": 384, "vocab_size": 2048},
    image_encoder={
        "hidden_size": 192,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "patch_size": 8,
        "layerscale_value": 0.1,
    },
    transformer={
        "hidden_size": 224,
        "depth": 8,
        "num_heads": 7,
        "patch_size": (1, 1, 1),
        "place_grid": (8, 8),
        "image_grid": (12, 12),
        "input_skip": True,
    },
    autoencoder_batch=32,
    crop=64,
    autoencoder_steps=10_000,
    text_steps=4000,
    image_steps=4000,
    image_scenes=65_536,
    clip_scenes=32_768,
    decoded_clips=16_384,
    stage_one_steps=1500,
    stage_two_new_steps=500,
    stage_two_image_steps=6000,
    stage_two_clip_steps=4500,
    image_batch=1024,
    clip_batch=192,
    learning_rate=1e-3,
    ema_decay=0.999,
    encode_batch=256,
    workers=8,
)

SCALES = {"small": SMALL, "base": BASE}
