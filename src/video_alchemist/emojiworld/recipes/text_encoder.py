"""The shipped text encoder: T5's class with a tokenizer of its own, trained to fill masked words of captions."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.captions import caption
from video_alchemist.emojiworld.recipes.fit import fit, rng_of
from video_alchemist.emojiworld.recipes.scale import Scale
from video_alchemist.emojiworld.recipes.world import sample_scenes

MASK_SHARE = 0.2
BATCH = 64
TOKENIZER_CAPTIONS = 8000
SPECIALS = ["<pad>", "</s>", "<unk>", "<mask>"]


def world_captions(seed: int, start: int, count: int) -> list[str]:
    assets = load_assets()
    return [caption(scene, assets)[0] for scene in sample_scenes(seed, start, count)]


def build_tokenizer(vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """A lower-casing byte-pair tokenizer: common words are one token, and bytes spell all others."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    concepts = sorted({identity.concept for identity in load_assets().identities})
    tokenizer.train_from_iterator(
        world_captions(4, 0, TOKENIZER_CAPTIONS) + concepts * 10,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=SPECIALS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=max_length,
    )


def train(scale: Scale, work: Path, device: str, time_limit: float | None) -> Path:
    """Trains from where it stands; returns the folder of encoder and tokenizer."""
    out = work / "text_encoder"
    if (out / "config.json").exists():
        return out
    folder = work / "tokenizer"
    if not folder.exists():
        build_tokenizer(scale.text_encoder["vocab_size"], scale.max_text_length).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(**{**scale.text_encoder, "vocab_size": len(tokenizer)}, feed_forward_proj="gated-gelu")
    encoder, head = T5EncoderModel(config), nn.Linear(config.d_model, config.vocab_size)
    modules = nn.ModuleList([encoder, head]).to(device)

    def loss(step: int) -> Tensor:
        inputs = tokenizer(world_captions(5, step * BATCH, BATCH), return_tensors="pt", padding=True, truncation=True)
        ids, attention = inputs["input_ids"], inputs["attention_mask"]
        masked = (torch.rand(ids.shape, generator=rng_of(1, step)) < MASK_SHARE) & (ids >= len(SPECIALS))
        hidden = encoder(
            ids.masked_fill(masked, tokenizer.mask_token_id).to(device), attention_mask=attention.to(device)
        ).last_hidden_state
        # Unmasked words are predicted too, lightly: a word's embedding must keep saying which word it is.
        logits, known = head(hidden[masked.to(device)]), head(hidden[((ids >= len(SPECIALS)) & ~masked).to(device)])
        own = F.cross_entropy(known, ids[(ids >= len(SPECIALS)) & ~masked].to(device))
        return F.cross_entropy(logits, ids[masked].to(device)) + 0.2 * own

    if fit("text_encoder", modules, loss, scale.text_steps, 2e-3, work, time_limit):
        encoder.save_pretrained(out)
    return out
