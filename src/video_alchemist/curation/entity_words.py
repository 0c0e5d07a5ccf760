"""The rules of App. A.2: from a raw answer to entities with exact places in the caption, or the reason to reject.

1 not a valid dictionary · 2 not in the caption · 3 reclassified by a table · 4 no subject · 5 a subject in the plural
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from video_alchemist.pretrained.entity_extractor import NoAnswer
from video_alchemist.pretrained.noun_phrases import tokenize
from video_alchemist.pretrained.nouns import Lexicon, load_lexicon
from video_alchemist.records import Entity, Kind

KINDS: tuple[Kind, ...] = ("subject", "object", "background")
TRANSIENT = frozenset({"entity_no_answer"})
CODES = TRANSIENT | {"entity_answer_invalid", "entity_not_in_caption", "entity_no_subject", "entity_plural_subject"}

# Rule 3: whatever the answer says, these are (App. A.2: "“cloud” is not a visually separable object"). Singulars; only
# words that mean the same in every caption belong here (no "chicken", no "house").
RECLASSIFIED: dict[Kind, str] = {
    "background": "cloud sky horizon fog mist haze smoke steam snow ice sand mud dirt soil grass ground floor wall "
    "ceiling background backdrop scenery landscape cityscape skyline sea ocean beach shore coast river lake pond "
    "stream waterfall field meadow forest woods jungle desert mountain hill valley canyon island road street highway "
    "sidewalk pavement path room bedroom kitchen bathroom classroom hallway corridor garden park yard backyard "
    "playground city town village",
    "subject": "man woman person human boy girl child kid baby toddler teenager lady gentleman guy people dog puppy "
    "cat kitten horse cow sheep goat pig bird eagle owl parrot penguin bear panda lion tiger elephant giraffe monkey "
    "rabbit fox wolf deer squirrel shark whale dolphin snake frog turtle bee butterfly spider",
    "object": "car truck van taxi bus motorcycle motorbike bicycle bike train airplane plane helicopter boat ship "
    "table chair sofa couch desk bottle cup plate bowl knife hat shirt jacket coat dress shoe phone laptop camera "
    "microphone guitar piano ball umbrella backpack book tree flower",
}
KIND_OF = {word: kind for kind, words in RECLASSIFIED.items() for word in words.split()}

# A letter of a script that separates words; Thai, Japanese and Chinese do not.
LETTER = re.compile("[^\\W\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]")
MAX_ANSWER = 20_000  # characters; the longest sensible answer is far shorter
BEFORE_ONE = re.compile(
    r"(?:\b(?:an?|one|another|the|this|that|his|her|its|their|our|my|your|each|every)|['’]s)\s+(?:[\w-]+\s+){0,3}$",
    re.I,
)
BEFORE_MANY = re.compile(
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\d+|dozens?|hundreds|thousands|both|several|many|"
    r"few|multiple|various|numerous|these|those|all|some|(?:groups?|pairs?|couple|flocks?|herds?|schools?|packs?|lots?|"
    r"number|swarms?|crowds?|bunch) of)\s+(?:[\w-]+\s+){0,2}$",
    re.I,
)


class EntityError(ValueError):
    """Why a caption's entities cannot be used. code: one of CODES."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


def entities_of(caption: str, answer: Any) -> tuple[Entity, ...]:
    """The entities of a caption in order, by an extractor's raw answer; EntityError where a rule rejects (App. A.2)."""
    found = locate(caption, parse(answer))
    subjects = [entity for entity in found if entity.kind == "subject"]
    if not subjects:
        raise EntityError("entity_no_subject", f"none of {[entity.word for entity in found]} is a human or an animal")
    lexicon = load_lexicon()
    for entity in subjects:
        if names_several(caption, entity, lexicon):
            raise EntityError("entity_plural_subject", f"{entity.word!r} names several")
    return found


def parse(answer: Any) -> list[tuple[str, Kind]]:
    """Rule 1: (word, kind) of every entry of a valid dictionary, given as such, as JSON or in Python's notation."""
    if isinstance(answer, NoAnswer):
        raise EntityError("entity_no_answer", answer.reason)
    given = _dictionary(answer) if isinstance(answer, str) else answer
    shown = repr(answer) if len(repr(answer)) < 200 else repr(answer)[:200] + "..."
    if not isinstance(given, dict) or set(given) != set(KINDS):
        raise EntityError("entity_answer_invalid", f"{shown}; expected a dictionary of {', '.join(KINDS)}")
    words = [(word, kind) for kind in KINDS if isinstance(given[kind], list) for word in given[kind]]
    if not all(isinstance(given[kind], list) for kind in KINDS) or not all(isinstance(word, str) for word, _ in words):
        raise EntityError("entity_answer_invalid", f"{shown}; expected lists of words")
    return words


def _dictionary(text: str) -> Any:
    """The one dictionary within a text; None where there is none."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start or len(text) > MAX_ANSWER:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text[start : end + 1])
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def locate(caption: str, words: Iterable[tuple[str, Kind]]) -> tuple[Entity, ...]:
    """Rules 2 and 3: each word at its place. The n-th entry of a word is its n-th mention; further ones are dropped.

    A word does not stand inside a longer one ("dog" in "dogma") nor in a compound of another thing ("hot dog").
    Longer words choose first, and their parts are no further entities.
    """
    lexicon = load_lexicon()
    names = compounds(caption, lexicon)
    taken: list[Entity] = []
    for word, kind in sorted(words, key=lambda entry: -len(entry[0])):
        spans = list(mentions(caption, word, names))
        if not spans:
            where = "stands only within longer words or names" if word and word in caption else "is not there"
            raise EntityError("entity_not_in_caption", f"{word!r} {where}: {caption!r}")
        free = [s for s in spans if all(s[1] <= e.span[0] or e.span[1] <= s[0] for e in taken)]
        if free:
            taken.append(Entity(word, reclassified(word, kind, lexicon), free[0]))
    return tuple(sorted(taken, key=lambda entity: entity.span))


def compounds(caption: str, lexicon: Lexicon) -> list[tuple[int, int, bool]]:
    """Names of several words ("police officer"): start, end, and whether the last is another thing ("hot dog")."""
    tokens = [token for token in tokenize(caption, lexicon) if " " in token.noun and " in " not in token.noun]
    return [(token.start, token.end, token.noun in lexicon.opaque) for token in tokens]


def mentions(caption: str, word: str, names: list[tuple[int, int, bool]]) -> Iterator[tuple[int, int]]:
    """Where exactly this word stands by itself, first to last; as the last word of a name it may."""
    if not word.strip() or word != word.strip():
        return
    for match in re.finditer(re.escape(word), caption):
        start, end = match.span()
        within = [(e, is_opaque) for s, e, is_opaque in names if s <= start and end <= e and end - start < e - s]
        if _is_alone(caption, start, end, "-'’") and all(e == end and not is_opaque for e, is_opaque in within):
            yield start, end


def _is_alone(text: str, start: int, end: int, joints: str = "") -> bool:
    """Whether these characters are no part of a longer word, nor joined to a letter before or, by hyphen, behind."""
    before, after = text[max(start - 2, 0) : start], text[end : end + 2]
    if before and LETTER.match(text[start]):
        if LETTER.match(before[-1]) or (before[-1] in joints and LETTER.match(before)):
            return False
    if after and LETTER.match(text[end - 1]):
        return not (LETTER.match(after) or (joints and after[0] == "-" and LETTER.match(after, 1)))
    return True


def reclassified(word: str, kind: Kind, lexicon: Lexicon) -> Kind:
    """Rule 3: the kind of a word by the table, or as answered. "White clouds" are clouds; a "toy dog" is no dog."""
    noun, head = lexicon.singular(word), lexicon.singular(_head(word).split(" ")[-1])
    if KIND_OF.get(head) == "background" and noun not in lexicon.opaque:
        return "background"
    return KIND_OF.get(noun, kind)


def names_several(caption: str, entity: Entity, lexicon: Lexicon) -> bool:
    """Rule 5: whether a subject is a plural, a collective ("a group of people") or counted ("two sheep")."""
    word = entity.word
    if re.search(r",|&|\b(and|or)\b", word):
        return True
    head = _head(word).lower()
    last = head.split(" ")[-1]
    if last in lexicon.collective or lexicon.singular(last) in lexicon.collective:
        return True
    before, after = caption[: entity.span[0]], caption[entity.span[1] :]
    if lexicon.is_plural(head):
        is_name = word[0].isupper() and bool(before.strip()) and not re.search(r"[.!?:]\s*$|\bthe\s+$", before, re.I)
        return not (is_name and lexicon.singular(head) not in lexicon.classes)
    if last in lexicon.uncounted:
        counted = BEFORE_MANY.search(before) or re.match(r"\s+(?:are|were|have)\b", after)
        return bool(counted or not BEFORE_ONE.search(before))
    return False


def _head(word: str) -> str:
    """What a phrase is about: "woman" of "woman in a red coat", "pack" of "pack of wolves"."""
    return re.split(r" (?:of|in|with|on|at|from|wearing|holding|who|that) ", word)[0]


def occurrence(caption: str, entity: Entity) -> int:
    """How many times the word stands in the caption before this place, counted as `Reference.occurrence` is."""
    parts = [re.sub("['’]", "['’]", re.escape(part)) for part in re.split(r"[\s-]+", entity.word)]
    places = (match.span() for match in re.finditer(r"[\s-]+".join(parts), caption, re.IGNORECASE))
    return sum(_is_alone(caption, *place) for place in places if place[0] < entity.span[0])
