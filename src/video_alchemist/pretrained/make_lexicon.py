"""Derive `lexicon/nouns.txt` from WordNet: which common English nouns are subjects, objects or backgrounds.

A noun takes the class of its first bodily sense, by hypernyms; nouns that name nothing one can see are kept as
"abstract", since they still shape noun phrases ("birthday cake", "car race"). What WordNet gets wrong for captions is
put right by hand in `lexicon/own.txt`, which is read after it. Run:

    python -m video_alchemist.pretrained.make_lexicon /usr/share/wordnet /usr/share/dict/american-english-small \
        /usr/share/dict/american-english

(Debian: wordnet-base, wamerican-small, wamerican.) The word lists only say which words are common enough to keep.
"""

from __future__ import annotations

import argparse
import functools
import textwrap
from collections import defaultdict
from pathlib import Path

from video_alchemist.pretrained.nouns import FOLDER, QUALITIES

# WordNet's own files of senses (lexnames(5WN)): animal, artifact, food, object, person, plant.
BODILY = {5: "subject", 18: "subject", 6: "object", 13: "object", 17: "object", 20: "object"}
# Hypernyms as word.sense, the more special class first.
ROOTS = {
    "place": "building.1 bridge.1 house.1 dwelling.1 establishment.4",
    "background": "room.1 road.1 body_of_water.1 land.4 geological_formation.1 geographical_area.1 tract.1 sky.1 "
    "floor.1 stadium.1 airfield.1 workplace.1 natural_elevation.1",
}
# Compounds that begin with these are descriptions more often than names ("blue flag", "little brother").
DESCRIBING = QUALITIES | set(
    "american bad big cold common dead dirty dry female free fresh full general good great happy heavy higher hot "
    "human large light little local long low main male married modern natural new old open outer personal poor "
    "private public real rich royal short single small special strange strong sweet tall thin true upper warm wet "
    "wild wrong young".split()
)
SOMEONE = set("agent animal artist being creature expert family genus guy lady man order people person woman".split())
SENSES_SEEN = 4  # a noun's further senses are rare
SHARE = 0.15  # of all uses that a later sense needs to count


class WordNet:
    """The nouns of a `dict` folder: senses, hypernyms and how often each sense was tagged."""

    def __init__(self, folder: Path) -> None:
        self.synsets: dict[str, tuple[int, list[str], list[str]]] = {}
        self.names: set[str] = set()  # synsets of one thing alone: Mecca, Bill Gates
        for line in _rows(folder / "data.noun"):
            fields = line.split(" | ")[0].split()
            count = int(fields[3], 16)
            pointers = fields[5 + 2 * count :]
            words = [fields[4 + 2 * i].lower() for i in range(count)]
            relations = [(pointers[4 * i], pointers[4 * i + 1]) for i in range(int(fields[4 + 2 * count]))]
            above = [parent for relation, parent in relations if relation == "@"]
            self.synsets[fields[0]] = (int(fields[1]), words, above)
            if any(relation == "@i" for relation, _ in relations):
                self.names.add(fields[0])
        self.senses = {f[0]: f[-int(f[2]) :] for f in map(str.split, _rows(folder / "index.noun"))}
        self.verbs = {line.split()[0] for line in _rows(folder / "index.verb")}
        self.plurals = dict(line.split()[:2] for line in _rows(folder / "noun.exc"))
        self.uses: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
        for key, sense, times in map(str.split, _rows(folder / "cntlist.rev")):
            lemma, rest = key.split("%")
            self.uses[lemma, {"1": "noun", "2": "verb"}.get(rest[0], "other")][int(sense)] = int(times)
        self.roots = {kind: {self.sense(name) for name in names.split()} for kind, names in ROOTS.items()}

    def sense(self, name: str) -> str:
        """The synset of "word.number"."""
        word, _, number = name.rpartition(".")
        return self.senses[word][int(number) - 1]

    def times(self, word: str, part: str) -> int:
        """How often a word was tagged as "noun", "verb" or "other" (adjective, adverb)."""
        return sum(self.uses[word, part].values())

    @functools.cache  # noqa: B019  (one WordNet a run)
    def above(self, synset: str) -> frozenset[str]:
        """A synset and all its hypernyms."""
        return frozenset({synset}).union(*(self.above(parent) for parent in self.synsets[synset][2]))

    def kind_of_sense(self, synset: str) -> str | None:
        """The class of one sense; None where it cannot be seen."""
        if synset in self.names:
            return None
        for kind, roots in self.roots.items():
            if self.above(synset) & roots:
                return kind
        return BODILY.get(self.synsets[synset][0])

    def kind(self, word: str) -> str | None:
        """The class of a word: of its first sense that can be seen, unless that one is rare."""
        total, uses = self.times(word, "noun"), self.uses[word, "noun"]
        for i, synset in enumerate(self.senses[word][:SENSES_SEEN]):
            kind = self.kind_of_sense(synset)
            if kind:
                return kind if i == 0 or uses.get(i + 1, 0) >= SHARE * total else None
        return None


def _rows(path: Path) -> list[str]:
    """Lines of a WordNet file without its licence, which is indented."""
    return [line for line in path.read_text().splitlines() if not line.startswith("  ")]


def single_words(net: WordNet, common: set[str], known: set[str]) -> dict[str, str]:
    """Class of every noun of one word that is common, or known and visible in its first sense."""
    kinds: dict[str, str] = {}
    for word in sorted(net.senses.keys() & known):
        if not word.isalpha() or len(word) < 3:
            continue
        kind, noun = net.kind(word), net.times(word, "noun")
        rather_other = net.times(word, "other") > noun or (net.times(word, "verb") >= 10 and noun <= 2)
        if rather_other or any(net.times(one, "noun") >= noun for one in _singulars(word) if one in net.senses):
            continue
        if word in common:
            kinds[word] = kind or "abstract"
        elif kind and net.kind_of_sense(net.senses[word][0]) == kind:
            kinds[word] = kind
    return kinds


def _singulars(word: str) -> list[str]:
    """What a word may be the plural of."""
    return [word.removesuffix(end) + new for end, new in (("ies", "y"), ("es", ""), ("s", "")) if word.endswith(end)]


def compounds(net: WordNet, kinds: dict[str, str], common: set[str]) -> tuple[dict[str, str], set[str]]:
    """Compounds that the grammar would not put together alike, and those whose last word means something else."""
    found: dict[str, str] = {}
    opaque: set[str] = set()
    for name, senses in net.senses.items():
        parts = name.split("_")
        kind = net.kind_of_sense(senses[0])
        is_plant = net.synsets[senses[0]][0] == 20  # thousands that nobody names in a caption
        is_described = parts[0] in DESCRIBING or (parts[-1] in SOMEONE and parts[0] not in kinds)
        if not 2 <= len(parts) <= 3 or not kind or is_plant or len(senses) > 2 or is_described:
            continue
        if not all(part in common and part.isalpha() for part in parts) or parts[0] in ("a", "the"):
            continue
        head = kinds.get(parts[-1])
        is_opaque = head != kind and "of" not in parts
        if is_opaque or parts[0] not in kinds or (kinds[parts[0]] == "subject" and kind != "subject"):
            found[" ".join(parts)] = kind
        if is_opaque and head in ("subject", "object"):
            opaque.add(" ".join(parts))
    return found, opaque


def sections(net: WordNet, common: set[str], known: set[str]) -> dict[str, list[str]]:
    """Everything that `nouns.txt` holds, by section."""
    kinds = single_words(net, common, known)
    named, opaque = compounds(net, kinds, common)
    result: dict[str, list[str]] = defaultdict(list)
    for word, kind in sorted((kinds | named).items()):
        result[kind].append(word)
    verbs = sorted(word for word in net.verbs & net.senses.keys() & common if net.times(word, "verb"))
    result["verb"] = verbs
    result["chiefly verb"] = [word for word in verbs if net.times(word, "verb") > net.times(word, "noun")]
    result["opaque"] = sorted(opaque)
    result["plural"] = sorted(f"{many}={one}" for many, one in net.plurals.items() if one in kinds and many in known)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wordnet", type=Path, help="folder of data.noun, index.noun, ...")
    parser.add_argument("common", type=Path, help="word list: nouns kept whatever they mean")
    parser.add_argument("known", type=Path, help="word list: further nouns kept where they can be seen")
    arguments = parser.parse_args()
    common = set(arguments.common.read_text().split())
    known = common | set(arguments.known.read_text().split())
    text = ["# Made by make_lexicon.py from WordNet 3.0; see ATTRIBUTION.md. Corrections belong into own.txt."]
    for section, words in sections(WordNet(arguments.wordnet), common, known).items():
        joined = ", ".join(word.replace(" ", "_") for word in words)  # no line may end within a compound
        lines = textwrap.wrap(joined, 118, break_on_hyphens=False)
        text += ["", f"[{section}]", *(line.replace("_", " ") for line in lines)]
    (FOLDER / "nouns.txt").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
