"""Common English nouns: what they name (subject, object, background), compounds, plurals, and which are verbs too.

Read from `lexicon/nouns.txt` (derived from WordNet) and `lexicon/own.txt` (by hand, wins). Classes follow Fig. 7:
subjects are humans and animals, objects "can be visually separated", backgrounds fill "most of the image area".
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent / "lexicon"
# "place" is a background to what happens in it and an object to what happens beside it: a house, a bridge.
CLASSES = ("subject", "object", "background", "place", "abstract")
# Nouns that describe the noun after them.
QUALITIES = frozenset(
    "beige black blond blonde blue bronze brown cartoon colored coloured cream dark gold golden gray green grey light "
    "orange pale pink plastic purple red silver tan violet white yellow".split()
)
MAX_WORDS = 4  # of a compound


@dataclass(frozen=True)
class Lexicon:
    """classes: singular noun or compound, lower case -> one of CLASSES. The rest are sets of such nouns.

    collective: one word for several ("family"). uncounted: plural and singular look alike ("sheep").
    edible: animals that are food where no article stands before them ("eating chicken").
    measures: "a cup of tea" is one thing. opaque: compounds that are not a kind of their last word ("hot dog").
    """

    classes: dict[str, str] = field(default_factory=dict)
    plurals: dict[str, str] = field(default_factory=dict)
    verb: set[str] = field(default_factory=set)
    chiefly_verb: set[str] = field(default_factory=set)
    past: set[str] = field(default_factory=set)
    opaque: set[str] = field(default_factory=set)
    collective: set[str] = field(default_factory=set)
    uncounted: set[str] = field(default_factory=set)
    edible: set[str] = field(default_factory=set)
    measures: set[str] = field(default_factory=set)
    games: set[str] = field(default_factory=set)
    media: set[str] = field(default_factory=set)

    def singular(self, noun: str) -> str:
        """The form that the lexicon knows of a noun or compound; the noun itself, lower case, where it knows none."""
        noun = _plain(noun)
        first, _, last = noun.rpartition(" ")
        forms = [f"{first} {one}".strip() for one in self._singulars(last)]
        forms = forms + [noun] if last in self.plurals else [noun] + forms
        if " of " in noun:  # bowls of soup
            head, of, rest = noun.partition(" of ")
            forms += [f"{one}{of}{rest}" for one in self._singulars(head)]
        return next((form for form in forms if form in self.classes), noun)

    def is_plural(self, noun: str) -> bool:
        """Whether a noun's form names several. Unknown nouns are judged by their ending."""
        noun = _plain(noun)
        if noun in self.classes:  # "teens" and "glasses" have entries of their own
            return noun in self.plurals or any(one in self.classes for one in self._singulars(noun))
        last = noun.rpartition(" ")[2]
        if last in self.plurals or any(one in self.classes for one in self._singulars(last)):
            return last not in self.classes or last in self.plurals
        return last not in self.classes and bool(re.search(r"[^aiousé'’]s$", last))

    def _singulars(self, word: str) -> Iterator[str]:
        """What `word` may be the plural of."""
        if word in self.plurals:
            yield self.plurals[word]
        for ending, singular in (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("s", ""), ("es", "")):
            if word.endswith(ending) and len(word) > len(ending) + 1 and not word.endswith("ss"):
                if ending != "es" or re.search("(s|x|z|ch|sh|o)es$", word):
                    yield word.removesuffix(ending) + singular


def _plain(noun: str) -> str:
    return noun.lower().replace("’", "'")


@functools.cache
def load_lexicon() -> Lexicon:
    """The nouns that ship; read once."""
    lexicon = Lexicon()
    for name in ("nouns.txt", "own.txt"):
        _read(FOLDER / name, lexicon)
    return lexicon


def _read(path: Path, lexicon: Lexicon) -> None:
    """A file of "[section]" headings, each followed by nouns between commas; "#" starts a comment."""
    section = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("["):
            section = line.strip("[]")
            continue
        words = [word for word in (part.strip() for part in line.split(",")) if word]
        if section in CLASSES:
            lexicon.classes.update(dict.fromkeys(words, section))
        elif section == "plural":
            lexicon.plurals.update((many, one) for many, _, one in (word.partition("=") for word in words))
        elif section == "none":
            for word in words:
                lexicon.classes.pop(word, None)
        elif words:
            getattr(lexicon, section.replace(" ", "_")).update(words)
