"""A pipeline of the real classes with tiny random weights, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import Dinov2Config, Dinov2Model, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.sampling.pipeline import AlchemistPipeline

WORDS = "<pad> </s> <unk> A a dog robot cat jumps sits beside on the beach and".split()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=16
    )


def tiny_pipeline(**transformer: object) -> AlchemistPipeline:
    torch.manual_seed(0)
    sizes = {"in_channels": 4, "hidden_size": 32, "depth": 2, "num_heads": 2, "text_dim": 16, "image_dim": 24}
    dit = AlchemistTransformer(**{**sizes, "word_length": 2, **transformer})  # type: ignore[arg-type]
    for parameter in dit.parameters():  # nothing is left at zero, or conditions would not matter
        torch.nn.init.normal_(parameter, std=0.2)
    pipeline = AlchemistPipeline(
        transformer=dit.eval(),
        autoencoder=AutoencoderKLCogVideoX(
            block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2, latent_channels=4
        ).eval(),
        text_encoder=T5EncoderModel(
            T5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, num_heads=2, num_layers=1, d_ff=16)
        ).eval(),
        tokenizer=tiny_tokenizer(),
        image_encoder=Dinov2Model(
            Dinov2Config(image_size=16, patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=2)
        ).eval(),
        size=(32, 16),
        num_frames=5,
        fps=12.0,
        num_steps={"32x16": 2, "128x64": 5},
        text_scale=2.0,
        image_scale=1.0,
        reference_size=16,
        max_text_length=12,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def pipeline() -> AlchemistPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="session")
def pipeline_folder(pipeline: AlchemistPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Path]:
    """dog, robot, cat and beach: noise, each its own."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    paths = {}
    for seed, name in enumerate(("dog", "robot", "cat", "beach")):
        noise = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        paths[name] = folder / f"{name}.png"
        Image.fromarray(noise).save(paths[name])
    return paths
