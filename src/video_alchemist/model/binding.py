"""Binding of image and word concepts (§3.2): which words of the prompt a reference image belongs to.

B batch · N reference images · L tokens of one image · S text tokens · W word_length · d image token channels
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from video_alchemist.model.place import PlaceEmbedding

IRREGULAR_PLURALS = {
    "man": "men",
    "woman": "women",
    "person": "people",
    "child": "children",
    "mouse": "mice",
    "goose": "geese",
    "foot": "feet",
    "tooth": "teeth",
}
NO_SPACES = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff"  # Thai, Japanese and Chinese do not separate words
EMOJI_STYLE = "\ufe0f"  # invisible, and often left out
JOINING = f"\u0300-\u036f\u200d{EMOJI_STYLE}\U0001f3fb-\U0001f3ff"  # accents and what joins emoji into one


class Binding(nn.Module):
    """Personalization embeddings f_n of image tokens x_n and word tokens c_n (§3.2)."""

    def __init__(
        self, image_dim: int, text_dim: int, word_length: int, max_images: int, word_binding: bool = True,
        image_grid: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        """word_binding=False is Table 3's "no word token": images know their index, but not their word.
        image_grid: (rows, columns) of an embedding of places, for image encoders whose tokens hardly tell theirs."""
        super().__init__()
        self.max_images = max_images
        self.word_binding = word_binding
        self.word_dim = word_length * text_dim
        self.projection = nn.Linear(image_dim + self.word_dim * word_binding, image_dim)
        self.image_index_embedding = nn.Embedding(max_images, image_dim)
        self.place_embedding = PlaceEmbedding(*image_grid, image_dim) if image_grid is not None else None

    def forward(self, image_tokens: Tensor, word_tokens: Tensor | None = None) -> Tensor:
        """(B, N, L, d), (B, N, W * D_text) -> (B, N, L, d)."""
        num_images, num_tokens = image_tokens.shape[1:3]
        if num_images > self.max_images:
            raise ValueError(f"{num_images} reference images; expected at most {self.max_images}")
        x = image_tokens                                                                   # (B, N, L, d)
        if self.word_binding:
            if word_tokens is None or word_tokens.shape[-1] != self.word_dim:
                given = "missing" if word_tokens is None else f"{word_tokens.shape[-1]} channels wide"
                raise ValueError(f"word tokens are {given}; expected word_length * text_dim = {self.word_dim} channels")
            words = repeat(word_tokens, "B N c -> B N L c", L=num_tokens)                  # (B, N, L, W * D_text)
            x = torch.cat([x, words], dim=-1)                                              # (B, N, L, d + W * D_text)
        index = self.image_index_embedding(torch.arange(num_images, device=x.device))      # (N, d)
        x = image_tokens + self.projection(x) + index[:, None]                             # (B, N, L, d)
        side = math.isqrt(num_tokens)
        return x if self.place_embedding is None else self.place_embedding(x, (1, side, side))


def gather_word_tokens(text_tokens: Tensor, word_index: Tensor) -> Tensor:
    """Word tokens c_n, flattened (§3.2): (B, S, D_text), (B, N, W) -> (B, N, W * D_text), zeros where -1."""
    batch, num_images, _ = word_index.shape
    index = rearrange(word_index.clamp(min=0), "B N W -> B (N W) 1")
    words = text_tokens.gather(1, index.expand(-1, -1, text_tokens.shape[-1]))             # (B, N * W, D_text)
    words = words.masked_fill(word_index.view(batch, -1, 1) < 0, 0)
    return rearrange(words, "B (N W) c -> B N (W c)", N=num_images)


def token_index(offsets: Sequence[tuple[int, int]], span: tuple[int, int], word_length: int) -> list[int]:
    """Tokens that overlap the characters of a word, padded (-1) or truncated "to a consistent length" (§3.2)."""
    index = [i for i, (start, end) in enumerate(offsets) if max(start, span[0]) < min(end, span[1])]
    return (index + [-1] * word_length)[:word_length]


def find_word(text: str, word: str, occurrence: int = 0) -> tuple[int, int]:
    """Characters (start, end) of a whole word in a text, any case; else of its plural or singular."""
    if not word.strip():
        raise ValueError("the word of a reference is empty; expected a word of the prompt")
    for form in [word.strip(), *_other_number(word.strip())]:
        spans = [match.span() for match in re.finditer(_pattern(form), text, re.IGNORECASE)]
        if 0 <= occurrence < len(spans):
            return spans[occurrence]
        if spans:
            raise ValueError(
                f"occurrence {occurrence} of {word!r} in {text!r}; expected 0 to {len(spans) - 1}, "
                f"since it stands there {len(spans)} time{'s' * (len(spans) > 1)}"
            )
    nearest = ", ".join(repr(candidate) for candidate in _nearest(text, word))
    raise ValueError(f"{word!r} is not in the prompt {text!r}; nearest words in it: {nearest or 'none'}")


def _pattern(word: str) -> str:
    """A word as a regular expression that matches no part of a longer word or of a joined emoji."""
    word = word.rstrip(EMOJI_STYLE)
    forms = []
    for form in dict.fromkeys(unicodedata.normalize(kind, word) for kind in ("NFC", "NFD")):
        parts = [re.sub("['’]", "['’]", re.escape(part)) for part in re.split(r"[\s-]+", form)]
        forms.append(r"[\s-]+".join(parts))
    alone = f"[^\\W{NO_SPACES}]"  # a letter of a script that separates words
    before = f"(?<!{alone})" if re.match(alone, word) else ""
    after = f"(?!{alone})" if re.search(f"{alone}[{JOINING}]*$", word) else ""
    return f"(?<!\u200d){before}(?:{'|'.join(forms)}){EMOJI_STYLE}?(?![{JOINING}]){after}"


def _plurals(noun: str) -> list[str]:
    """Regular and a few irregular plurals of an English noun, likeliest first."""
    if noun in IRREGULAR_PLURALS:
        return [IRREGULAR_PLURALS[noun]]
    if re.search(r"[^aeiou]y$", noun):
        return [noun[:-1] + "ies"]
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return [noun + "es"]
    if noun.endswith("o"):
        return [noun + "es", noun + "s"]
    if re.search(r"fe?$", noun):
        return [re.sub(r"fe?$", "ves", noun), noun + "s"]
    return [noun + "s"]


def _other_number(word: str) -> Iterator[str]:
    """Plurals and singulars of a word, or of the last word of several ("fire engine", "fire engines")."""
    *first, noun = word.casefold().split()
    stems = [noun[:-1], noun[:-2], noun[:-3] + "y", noun[:-3] + "f", noun[:-3] + "fe"]
    irregular = [singular for singular, plural in IRREGULAR_PLURALS.items() if plural == noun]
    singulars = irregular + [stem for stem in stems if len(stem) > 1 and noun in _plurals(stem)]
    for form in _plurals(noun) + singulars:
        yield " ".join([*first, form])


def _nearest(text: str, word: str) -> list[str]:
    """Up to three phrases of the text, as many words long as `word`, most alike first."""
    words = re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text)
    length = len(word.split())
    phrases = {" ".join(words[i : i + length]).casefold(): i for i in range(max(1, len(words) - length + 1)) if words}
    cutoff = 0.5 if difflib.get_close_matches(word.casefold(), phrases, 1, cutoff=0.5) else 0.0
    return difflib.get_close_matches(word.casefold(), phrases, 3, cutoff=cutoff)
