"""The frozen networks without their weights, from configurations alone: how large they are before anyone loads them.

Make them under torch.device("meta") or model.memory.dry, or they allocate what they outline.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from video_alchemist.pretrained.weights import read_json

BUNDLE = Path(__file__).parents[1] / "emojiworld" / "bundle"  # what "emojiworld" names
FOLDERS = {
    "autoencoder": ("autoencoder", "vae"), "text_encoder": ("text_encoder",), "image_encoder": ("image_encoder",)
}  # fmt: skip

# Configurations as published, of the networks that presets name by hub id: counting them needs no network.
_WAN: dict[str, dict[str, Any]] = {
    "autoencoder": {"_class_name": "AutoencoderKLWan"},
    "text_encoder": {
        "model_type": "umt5", "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
        "feed_forward_proj": "gated-gelu", "vocab_size": 256384,
    },
}  # fmt: skip
KNOWN: dict[str, dict[str, dict[str, Any]]] = {
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": _WAN,
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": _WAN,
    "THUDM/CogVideoX-5b": {
        "autoencoder": {"_class_name": "AutoencoderKLCogVideoX", "latent_channels": 16, "scaling_factor": 0.7}
    },
    "google/t5-v1_1-large": {
        "text_encoder": {
            "model_type": "t5", "d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_layers": 24, "num_heads": 16,
            "feed_forward_proj": "gated-gelu", "vocab_size": 32128,
        }
    },
    "facebook/dinov2-large": {
        "image_encoder": {
            "model_type": "dinov2", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
            "patch_size": 14, "image_size": 518,
        }
    },
    "openai/clip-vit-large-patch14": {
        "image_encoder": {
            "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
            "num_attention_heads": 16, "patch_size": 14, "image_size": 224, "projection_dim": 768,
        }
    },
}  # fmt: skip


def outline(source: str, part: str) -> nn.Module:
    """The autoencoder, text_encoder or image_encoder of a folder or hub id, with whatever values memory holds."""
    return build(KNOWN[source][part] if part in KNOWN.get(source, {}) else read_config(source, *FOLDERS[part]))


def build(config: Mapping[str, Any]) -> nn.Module:
    """A network of the classes that fill our roles, from its config.json."""
    import diffusers
    import transformers
    from transformers.initialization import no_init_weights

    if "_class_name" in config:
        kind = getattr(diffusers, config["_class_name"])
        return kind.from_config(dict(config))
    classes: dict[str, tuple[Any, Any]] = {
        "t5": (transformers.T5Config, transformers.T5EncoderModel),
        "umt5": (transformers.UMT5Config, transformers.UMT5EncoderModel),
        "dinov2": (transformers.Dinov2Config, transformers.Dinov2Model),
        "clip": (transformers.CLIPConfig, transformers.CLIPVisionModel),
        "clip_vision_model": (transformers.CLIPVisionConfig, transformers.CLIPVisionModel),
    }
    kind = config.get("model_type")
    if kind not in classes:
        raise ValueError(f"a network of model_type {kind!r}; expected one of {', '.join(classes)}")
    config_class, model_class = classes[kind]
    options = config_class.from_dict(dict(config))
    with no_init_weights():  # some draw until they like what they drew, which is not known without data
        network = model_class(options.vision_config if kind == "clip" else options)
    network.tie_weights()
    return network


def read_config(source: str, *folders: str, name: str = "config.json") -> dict[str, Any]:
    """A network's config.json (or another name): in a subfolder, in the folder itself, or of a hub id; no weights."""
    places = [*(f"{folder}/{name}" for folder in folders), name]
    folder = BUNDLE if source == "emojiworld" else Path(source)
    if folder.is_dir():
        for place in places:
            if (folder / place).is_file():
                return read_json(folder / place)
        raise ValueError(f"{source!r} holds none of {', '.join(places)}; expected the folder of a pipeline or network")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    for place in places:
        try:
            return read_json(Path(hf_hub_download(source, place)))
        except LocalEntryNotFoundError as error:  # a kind of EntryNotFoundError: the hub itself was not reached
            raise ValueError(f"the hub cannot be reached for {source}/{place}; expected it, or a folder") from error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, HFValidationError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"{source!r} is no folder, and the hub does not give it: {reason}") from error
    raise ValueError(f"{source!r} holds none of {', '.join(places)}; expected a pipeline or network")
