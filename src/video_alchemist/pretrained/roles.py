"""The frozen networks that training and sampling go through, each as the role it plays (App. B.1)."""

from __future__ import annotations

from typing import Any, NamedTuple

from video_alchemist.pretrained.autoencoder import Autoencoder, CogVideoXAutoencoder, LTXAutoencoder, WanAutoencoder
from video_alchemist.pretrained.image_encoder import ImageEncoder
from video_alchemist.pretrained.text_encoder import TextEncoder

AUTOENCODERS = {
    "AutoencoderKLCogVideoX": CogVideoXAutoencoder,
    "AutoencoderKLWan": WanAutoencoder,
    "AutoencoderKLLTXVideo": LTXAutoencoder,
}


class Roles(NamedTuple):
    autoencoder: Autoencoder
    text_encoder: TextEncoder
    image_encoder: ImageEncoder


def autoencoder_role(model: Any) -> Autoencoder:
    """The adaptor of a diffusers autoencoder, by its class."""
    for kind in type(model).__mro__:
        if kind.__name__ in AUTOENCODERS:
            return AUTOENCODERS[kind.__name__](model)
    raise ValueError(f"autoencoder {type(model).__name__}; expected one of {', '.join(AUTOENCODERS)}")
