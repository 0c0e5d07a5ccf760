"""The shipped text encoder: T5's class with a tokenizer of its own, trained to fill masked words of captions and to say
at every entity's word what that entity does and whether it is named first, second or third.

A T5 of billions of words knows from them who does what. Filling masked words of our captions does not teach it: of two
entities, a linear probe of the word's token told the action of a third, and the order of two thirds. Binding (§3.2)
hands on just these tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.captions import BACKGROUND, caption
from video_alchemist.emojiworld.recipes.encoded import WORD_LENGTH
from video_alchemist.emojiworld.recipes.fit import fit, rng_of
from video_alchemist.emojiworld.recipes.scale import Scale
from video_alchemist.emojiworld.recipes.world import sample_scenes
from video_alchemist.emojiworld.scenes import ACTIONS, MAX_ACTORS, Scene
from video_alchemist.model.binding import token_index

MASK_SHARE = 0.2
BATCH = 64
TOKENIZER_CAPTIONS = 8000
UNTOLD = -100  # cross-entropy's own number for what it must not count
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


def roles_told(scenes: Sequence[Scene], offsets: Sequence[Sequence[tuple[int, int]]]) -> tuple[Tensor, Tensor]:
    """Two of (B, S): at the tokens of an actor's word, of its scene's caption, its action's number in ACTIONS and its
    own among the caption's actors; else UNTOLD.

    offsets: the characters of each token of the captions (TextEncoding.offsets).
    """
    actions = torch.full((len(scenes), len(offsets[0])), UNTOLD)
    orders = actions.clone()
    for row, scene in enumerate(scenes):
        _, entities, actors = caption(scene, load_assets())
        named = [(entity, actor) for entity, actor in zip(entities, actors, strict=True) if actor != BACKGROUND]
        for order, (entity, actor) in enumerate(named):
            tokens = [index for index in token_index(offsets[row], entity.span, WORD_LENGTH) if index >= 0]
            actions[row, tokens] = ACTIONS.index(scene.actors[actor].action)
            orders[row, tokens] = order
    return actions, orders


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
    action_head, order_head = nn.Linear(config.d_model, len(ACTIONS)), nn.Linear(config.d_model, MAX_ACTORS)
    modules = nn.ModuleList([encoder, head, action_head, order_head]).to(device)

    def loss(step: int) -> Tensor:
        scenes = sample_scenes(5, step * BATCH, BATCH)
        texts = [caption(scene, load_assets())[0] for scene in scenes]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, return_offsets_mapping=True)
        actions, orders = roles_told(scenes, inputs["offset_mapping"].tolist())
        ids, attention = inputs["input_ids"], inputs["attention_mask"]
        masked = (torch.rand(ids.shape, generator=rng_of(1, step)) < MASK_SHARE) & (ids >= len(SPECIALS))
        hidden = encoder(
            ids.masked_fill(masked, tokenizer.mask_token_id).to(device), attention_mask=attention.to(device)
        ).last_hidden_state
        # Unmasked words are predicted too, lightly: a word's embedding must keep saying which word it is.
        logits, known = head(hidden[masked.to(device)]), head(hidden[((ids >= len(SPECIALS)) & ~masked).to(device)])
        own = F.cross_entropy(known, ids[(ids >= len(SPECIALS)) & ~masked].to(device))
        roles = torch.stack(
            [
                F.cross_entropy(head_of(hidden).flatten(0, 1), told.flatten().to(device), ignore_index=UNTOLD)
                for head_of, told in ((action_head, actions), (order_head, orders))
            ]
        )
        return F.cross_entropy(logits, ids[masked].to(device)) + 0.2 * own + roles.sum()

    if fit("text_encoder", modules, loss, scale.text_steps, 2e-3, work, time_limit):
        encoder.save_pretrained(out)
    return out
