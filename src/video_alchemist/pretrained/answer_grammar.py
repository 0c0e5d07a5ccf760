"""Constrained decoding of entity words: the language model can only write a valid answer about this caption.

The answers to one caption are a regular language: the dictionary of Fig. 7 whose items are runs of words of the
caption. So the first two reject rules of App. A.2 (not a dictionary; not a sub-string) cannot be broken, nor can the
prompt's rule against quantifiers. A small automaton over bytes walks that language, a trie over the vocabulary turns
it into the tokens that may follow; the trie is built once for all captions.

State: a tuple; `Grammar.edges(state)` gives byte -> next state.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from video_alchemist.pretrained.noun_phrases import DETERMINERS

KINDS = ("subject", "object", "background")
MAX_WORDS, MAX_ITEMS = 6, 8  # words of an item, items of a kind
WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
UNFIT = DETERMINERS | frozenset("and or of in on at to with is are".split())  # an item neither starts nor ends so

State = tuple[Any, ...]
DONE: State = ("done",)


def ngrams(caption: str) -> list[str]:
    """What an entity word may be: runs of the caption's words, one space apart; "man" too where it says "man's"."""
    words = list(WORD.finditer(caption))
    found: dict[str, None] = {}
    for i, first in enumerate(words):
        for j in range(i, min(i + MAX_WORDS, len(words))):
            if j > i and caption[words[j - 1].end() : words[j].start()] != " ":
                break
            text = caption[first.start() : words[j].end()]
            if first[0].lower() in UNFIT or words[j][0].lower() in UNFIT:
                continue
            found[text] = None
            found[re.sub("['’]s$", "", text)] = None
    return list(found)


class Grammar:
    """The answers to one caption. fits: whether the tokenizer can spell a text; others are left out."""

    def __init__(self, caption: str, fits: Any = lambda text: True) -> None:
        self.root: dict[int, Any] = {}
        texts = [text.encode() + b'"' for text in ngrams(caption) if fits(text)]
        for text in texts:
            node = self.root
            for byte in text:
                node = node.setdefault(byte, {})
        skeleton = sum(len(kind) + 8 for kind in KINDS)
        self.max_bytes = skeleton + len(KINDS) * MAX_ITEMS * (max(map(len, texts), default=0) + 3)
        self.start = _literal(f'{{"{KINDS[0]}": ['.encode(), ("list", 0))

    def edges(self, state: State) -> dict[int, State]:
        """The bytes that may follow, each with the state it leads to."""
        if state[0] == "literal":
            return {state[1][0]: _literal(state[1][1:], state[2])}
        if state[0] == "word":
            _, node, kind, count = state
            return {b: ("word", n, kind, count) if n else ("after", kind, count) for b, n in node.items()}
        if state[0] == "list" or state[0] == "after":
            kind, count = state[1], state[2] if state[0] == "after" else 0
            edges = {ord("]"): self._closed(kind)}
            if self.root and count < MAX_ITEMS:
                word = ("word", self.root, kind, count + 1)
                edges |= {ord(","): _literal(b' "', word)} if count else {ord('"'): word}
            return edges
        return {}

    @staticmethod
    def _closed(kind: int) -> State:
        if kind + 1 == len(KINDS):
            return _literal(b"}", DONE)
        return _literal(f', "{KINDS[kind + 1]}": ['.encode(), ("list", kind + 1))


def _literal(rest: bytes, following: State) -> State:
    return ("literal", rest, following) if rest else following


class Vocabulary:
    """The bytes of every token of a tokenizer (byte-level, or SentencePiece-like), and a trie over them."""

    def __init__(self, tokenizer: Any) -> None:
        names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        special = set(tokenizer.all_special_ids)
        spaces = Counter(name[0] for name in names if name)  # a SentencePiece vocabulary may hold a Maltese "Ġ" too
        spell = _byte_level if spaces["Ġ"] > spaces["▁"] else _sentence_piece
        self.bytes = [b"" if not name or i in special else spell(name) for i, name in enumerate(names)]
        self.trie: dict[int, Any] = {}
        for token, text in enumerate(self.bytes):
            node = self.trie
            for byte in text:
                node = node.setdefault(byte, {})
            if text:
                node.setdefault(-1, []).append(token)
        self.alone = {text for text in self.bytes if len(text) == 1 or len(text.decode(errors="ignore")) == 1}
        missing = sorted({char for char in '{}[]", :' + "".join(KINDS) if not self.fits(char)})
        if missing:
            raise ValueError(f"the tokenizer has no token for {''.join(missing)!r}; expected one that can spell JSON")

    def fits(self, text: str) -> bool:
        """Whether every character has a token, or each of its bytes."""
        return all(c.encode() in self.alone or all(bytes([b]) in self.alone for b in c.encode()) for c in text)

    def following(self, grammar: Grammar, state: State) -> dict[int, State]:
        """The tokens that may follow, each with the state it leads to."""
        found: dict[int, State] = {}
        stack = [(self.trie, state)]
        while stack:
            node, here = stack.pop()
            found |= dict.fromkeys(node.get(-1, ()), here)
            stack += [(node[byte], there) for byte, there in grammar.edges(here).items() if byte in node]
        return found


@functools.cache
def _byte_of_letter() -> dict[str, int]:
    """Byte-level tokenizers write byte b as a letter: itself where it prints, else the next free one from 256 on."""
    printing = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [b for b in range(256) if b not in printing]
    return {chr(b): b for b in printing} | {chr(256 + i): b for i, b in enumerate(hidden)}


def _byte_level(name: str) -> bytes:
    letters = _byte_of_letter()
    return bytes(letters[c] for c in name) if all(c in letters for c in name) else b""


def _sentence_piece(name: str) -> bytes:
    raw = re.fullmatch(r"<0x([0-9A-F]{2})>", name)
    return bytes([int(raw[1], 16)]) if raw else name.replace("▁", " ").encode()


class Constraint:
    """What `generate(prefix_allowed_tokens_fn=...)` asks: the tokens that may follow in a row of the batch."""

    def __init__(self, vocabulary: Vocabulary, captions: Sequence[str], prompt_length: int, ends: list[int]) -> None:
        self.vocabulary, self.prompt_length, self.ends = vocabulary, prompt_length, ends
        self.grammars = [Grammar(caption, vocabulary.fits) for caption in captions]
        self.states = [grammar.start for grammar in self.grammars]
        self.following = [vocabulary.following(g, s) for g, s in zip(self.grammars, self.states, strict=True)]
        self.read = [0] * len(captions)

    @property
    def max_new_tokens(self) -> int:
        """Enough for the longest answer, were every byte a token."""
        return max(grammar.max_bytes for grammar in self.grammars) + 1

    def __call__(self, row: int, tokens: Any) -> list[int]:
        written = tokens[self.prompt_length :].tolist()
        for token in written[self.read[row] :]:
            if self.states[row] == DONE:
                break
            self.states[row] = self.following[row][token]
            self.following[row] = self.vocabulary.following(self.grammars[row], self.states[row])
        self.read[row] = len(written)
        return self.ends if self.states[row] == DONE else list(self.following[row])

    def text(self, tokens: Sequence[int]) -> str:
        """An answer as text, from its tokens up to the end."""
        return b"".join(self.vocabulary.bytes[token] for token in tokens if token not in self.ends).decode()
