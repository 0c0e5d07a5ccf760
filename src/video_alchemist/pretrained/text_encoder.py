"""Role: text -> tokens (§3.2: text embeddings c, which also give the word tokens c_n).

B batch · S text tokens · D_text channels
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor


@dataclass(frozen=True)
class TextEncoding:
    """Padded to one length. `offsets`: the characters of each token; (0, 0) for specials and padding."""

    tokens: Tensor  # (B, S, D_text) float
    mask: Tensor  # (B, S) bool, True = attended to
    offsets: list[list[tuple[int, int]]]


class TextEncoder(Protocol):
    def __call__(self, texts: Sequence[str]) -> TextEncoding: ...


class T5TextEncoder:
    """transformers' T5EncoderModel or UMT5EncoderModel with a fast tokenizer (it alone knows which characters a token
    comes from)."""

    def __init__(self, model: Any, tokenizer: Any, max_length: int, pad_to_max: bool = False) -> None:
        """pad_to_max is how Wan 2.1 was trained: zeros after the text up to max_length, and all of it attended to."""
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} does not know the characters of its tokens; expected a fast tokenizer, "
                "as AutoTokenizer gives it"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.pad_to_max = pad_to_max

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
        device = get_module_execution_device(self.model)  # where its hooks bring it, when it is offloaded
        mask = inputs["attention_mask"].to(device)
        tokens = self.model(input_ids=inputs["input_ids"].to(device), attention_mask=mask).last_hidden_state
        mask = mask.bool().to(tokens.device)
        offsets = [[(int(start), int(end)) for start, end in row] for row in inputs["offset_mapping"]]
        if self.pad_to_max:
            missing = self.max_length - tokens.shape[1]
            tokens = F.pad(tokens.masked_fill(~mask[..., None], 0), (0, 0, 0, missing))  # (B, max_length, D_text)
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
            offsets = [row + [(0, 0)] * missing for row in offsets]
        return TextEncoding(tokens, mask, offsets)
