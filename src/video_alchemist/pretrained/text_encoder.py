"""Role: text -> tokens (§3.2: text embeddings c, which also give the word tokens c_n).

B batch · S text tokens · D_text channels
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextEncoding:
    """Padded to the longest text. `offsets`: the characters of each token; (0, 0) for specials and padding."""

    tokens: Tensor  # (B, S, D_text) float
    mask: Tensor  # (B, S) bool, True = a token
    offsets: list[list[tuple[int, int]]]


class TextEncoder(Protocol):
    def __call__(self, texts: Sequence[str]) -> TextEncoding: ...


class T5TextEncoder:
    """transformers' T5EncoderModel with a fast tokenizer (it alone knows which characters a token comes from)."""

    def __init__(self, model: Any, tokenizer: Any, max_length: int) -> None:
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} does not know the characters of its tokens; expected a fast tokenizer, "
                "as AutoTokenizer gives it"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> TextEncoding:
        inputs = self.tokenizer(
            list(texts),
            padding="longest",
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=True,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        for text, encoding in zip(texts, inputs.encodings, strict=True):
            if encoding.overflowing:
                shown = text if len(text) < 60 else text[:57] + "..."
                warnings.warn(f"the text encoder reads {self.max_length} tokens; cut: {shown!r}", stacklevel=2)
        device = self.model.device
        mask = inputs["attention_mask"].to(device)
        tokens = self.model(input_ids=inputs["input_ids"].to(device), attention_mask=mask).last_hidden_state
        offsets = [[(int(start), int(end)) for start, end in row] for row in inputs["offset_mapping"]]
        return TextEncoding(tokens, mask.bool().to(tokens.device), offsets)
