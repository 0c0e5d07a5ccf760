"""Entity words of an English caption by a small grammar over a lexicon (Fig. 7, offline): no model, no torch.

Words are looked up (longest compound first), words that may be verbs are judged by their neighbours, runs of nouns
become compounds ("park bench"), and a phrase takes the class of its last noun, places also by their preposition:
"in front of a house" shows an object, "in a house" a background. What comes out is the noun with the nouns it is
compounded with, without article, number, colour or quality ("the entity word is a noun without any quantifier").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from video_alchemist.pretrained.nouns import MAX_WORDS, QUALITIES, Lexicon

TOKEN = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*['’]?|[^\w\s]|_")
POSSESSIVE = re.compile(r"(?<=\w)['’]s$|(?<=s)['’]$")
QUOTED = re.compile(r"[\"“«][^\"“”«»]*[\"”»]|(?<!\w)['‘](?=\S)[^'’\n]*(?:(?<=\w)['’]\w[^'’\n]*)*(?<=\S)['’](?!\w)")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


SINGLE = _set("a an another one each every either neither")
DEFINITE = _set("the this that these those his her its their our my your same")
NUMBERS = _set("two three four five six seven eight nine ten eleven twelve")
DETERMINERS = SINGLE | DEFINITE | NUMBERS | _set("some any no both all several many few")
NEW = _set("a an another other second third two three four five six several some many")
BE = _set("is are was were be been being am 's isn't aren't wasn't weren't")
MODAL = _set("can will would could should may might must do does did can't cannot don't doesn't didn't won't to let")
PRONOUNS = _set("he she it they we you i who which that there what somebody someone everyone everybody nobody")
CONJUNCTIONS = _set("and or then but while as when , ; & + . ! ? :")
IN = _set("in inside into within at on onto through throughout across along around over under down up from by near off")
PLACE_PREPOSITIONS = _set("in inside into within at on onto through throughout across along around down up from out to")
PREPOSITIONS = IN | _set("of with without to toward towards for about against behind beside above below past out")
PARTICLES = _set("away out up down off back")
AFTER_VERB = PARTICLES | _set("at to into onto across through around past toward towards along")
NOT_DOING = _set(
    "ceiling clothing duckling dumpling dwelling earring evening icing king lightning morning pudding railing ring "
    "sibling sling spring string swing thing viking wedding wing housing frosting bedding flooring"
)
CONTESTS = _set("races shows games matches sports fights tournaments contests awards classes")  # "horse races"
COOKED = _set("baked boiled cooked fried grilled raw roast roasted sliced smoked steamed")
GROUND = _set("background foreground distance")  # "in the background" names no place
TRANSPARENT = _set(
    "group crowd lot lots number couple variety series kind type sort team flock herd pack school swarm row line set "
    "army handful collection dozens hundreds thousands family cloud crew gang litter colony pride pod stream band "
    "range mix mixture bit part rest majority sea layer pinch dash splash"
)


@dataclass(frozen=True)
class Token:
    """A word, a compound that the lexicon knows, or a sign. noun: its singular in the lexicon, "" where it has none."""

    start: int
    end: int
    text: str
    noun: str = ""
    kind: str = ""
    plural: bool = False

    @property
    def word(self) -> str:
        return self.text.lower().replace("’", "'")


@dataclass(frozen=True)
class Phrase:
    """A noun phrase that names something visible. determiner: the word that introduces it, or ""."""

    start: int
    end: int
    text: str
    kind: str
    determiner: str = ""


def find_entities(caption: str, lexicon: Lexicon) -> list[Phrase]:
    """The entities of a caption in order, each thing once: "a dog ... the dog" is one, "a dog ... another dog" two."""
    tokens = without_verbs(tokenize(caption, lexicon), lexicon)
    found: list[Phrase] = []
    seen: set[str] = set()
    for phrase in _measured(caption, tokens, list(_phrases(caption, tokens, lexicon)), lexicon):
        word = phrase.text.lower()
        if word not in seen or phrase.determiner in NEW:
            found.append(phrase)
        seen.add(word)
    return found


def tokenize(caption: str, lexicon: Lexicon) -> list[Token]:
    """Words and signs of a caption, quotations left out, compounds joined (the longest that the lexicon knows)."""
    words = _words(caption)
    tokens: list[Token] = []
    i = 0
    while i < len(words):
        before = words[i - 1].word if i else ""
        lengths = (n for n in range(MAX_WORDS, 1, -1) if _is_compound(caption, words[i : i + n], n, before, lexicon))
        length = next(lengths, 1)
        text = caption[words[i].start : words[i + length - 1].end]
        plain = _plain(text) if length > 1 or lexicon.singular(text) not in lexicon.classes else text
        noun = lexicon.singular(plain)
        kind = lexicon.classes.get(noun, "")
        token = Token(words[i].start, words[i + length - 1].end, text)
        if kind:
            token = replace(token, noun=noun, kind=kind, plural=lexicon.is_plural(plain))
        tokens.append(token)
        i += length
    return tokens


def _words(caption: str) -> list[Token]:
    """Words, "'s" and signs outside of quotations."""
    hidden = QUOTED.sub(lambda match: '"' + " " * (len(match[0]) - 2) + '"', caption)
    words: list[Token] = []
    for match in TOKEN.finditer(hidden):
        start, end = match.span()
        possessive = POSSESSIVE.search(match[0])
        stem_end = start + possessive.start() if possessive else end
        if not possessive and match[0][-1] in "'’" and len(match[0]) > 1:
            stem_end = end - 1
        words.append(Token(start, stem_end, caption[start:stem_end]))
        if stem_end < end:
            words.append(Token(stem_end, end, caption[stem_end:end]))
    return words


def _is_compound(caption: str, words: list[Token], length: int, before: str, lexicon: Lexicon) -> bool:
    """Whether these words, one space or hyphen apart, are one entry of the lexicon. "A chicken runs" is no run."""
    if len(words) < length or any(caption[a.end : b.start] not in (" ", "-") for a, b in pairwise(words)):
        return False
    text = _plain(caption[words[0].start : words[-1].end])
    return lexicon.singular(text) in lexicon.classes and not (before in SINGLE and lexicon.is_plural(text))


def _plain(text: str) -> str:
    """ "hot-dog" as "hot dog"."""
    return re.sub(r"[-\s]+", " ", text)


def _phrases(caption: str, tokens: list[Token], lexicon: Lexicon) -> Iterator[Phrase]:
    """Runs of nouns, as compounds with the class of their last noun."""
    i = 0
    while i < len(tokens):
        if not tokens[i].noun:
            i += 1
            continue
        first, last = i, i
        while last + 1 < len(tokens) and _joins(caption, tokens[last], tokens[last + 1]):
            last += 1
        i = last + 1
        while first < last and tokens[first].word in QUALITIES:
            first += 1
        phrase = _classified(caption, tokens, first, last, lexicon)
        if phrase:
            yield phrase


def _joins(caption: str, one: Token, two: Token) -> bool:
    """Whether a noun modifies the noun after it."""
    names = two.text[0].isupper() and not one.text[0].isupper() and not two.text.isupper()  # "his dog Max"
    if caption[one.end : two.start] != " " or not two.noun or one.plural or names:
        return False
    gives = one.kind == "subject" and two.kind in ("object", "background", "place") and two.plural  # the girl flowers
    return not gives


def _classified(caption: str, tokens: list[Token], first: int, last: int, lexicon: Lexicon) -> Phrase | None:
    """The phrase of tokens first..last, or None where it names nothing that one can see."""
    head, determiner, preposition = tokens[last], *_before(tokens, first)
    text = caption[tokens[first].start : head.end]
    after = [token.word for token in tokens[last + 1 : last + 3]] + ["", ""]
    kind = head.kind
    is_bare = first == last and not determiner and not head.plural
    if head.noun in lexicon.media and (after[0] in ("of", "with") or after[0].startswith(("show", "depict", "featur"))):
        return None
    if head.word in TRANSPARENT and after[0] == "of":
        return None
    if head.noun == "camera" and (determiner == "the" or preposition in ("on", "off")):
        return None
    if head.word in GROUND and determiner in ("the", "") or (is_bare and head.word in QUALITIES):
        return None
    if head.noun in lexicon.games and is_bare or _is_name(tokens, first, last):
        return None
    if kind == "subject" and first < last and tokens[first].word == "toy":
        kind = "object"
    is_acting = after[0] in BE or after[0] in lexicon.verb
    is_cooked = first > 0 and tokens[first - 1].word in COOKED
    if head.noun in lexicon.edible and (is_cooked or is_bare and not is_acting and preposition != "of" and head.start):
        kind = "object"
    if kind == "place":
        kind = "background" if preposition in PLACE_PREPOSITIONS else "object"
    if kind == "abstract" and head.noun in lexicon.measures and after[0] == "of":
        kind = "measure"
    return None if kind == "abstract" else Phrase(tokens[first].start, head.end, text, kind, determiner)


def _before(tokens: list[Token], first: int) -> tuple[str, str]:
    """The determiner and the preposition that govern a phrase, looking back over adjectives."""
    determiner = ""
    for i in range(first - 1, max(first - 6, -1), -1):
        word = tokens[i].word
        if word in DETERMINERS and not determiner:
            determiner = word if tokens[i + 1].word not in ("other", "second", "third") else "another"
        elif word in PREPOSITIONS:
            before = tokens[i - 1].word if i else ""
            return determiner, "out" if before == "out" else "" if before in ("next", "close") else word
        elif word in CONJUNCTIONS or word in BE or word in PRONOUNS or tokens[i].noun and word not in QUALITIES:
            return determiner or ("the" if word in ("'s", "'") else ""), ""
        elif word in ("'s", "'"):
            return determiner or "the", ""
    return determiner, ""


def _is_name(tokens: list[Token], first: int, last: int) -> bool:
    """Whether a phrase is part of a proper name, such as "Tom Baker": capitals beside capitals within a sentence."""
    inside = [token.text[0].isupper() and not token.text.isupper() for token in tokens[first : last + 1]]
    if first == 0 or tokens[first - 1].word in ".!?:" or not all(inside) or " " in tokens[first].text:
        return False
    lower = sum(token.text.islower() for token in tokens if token.text.isalpha())
    neighbours = tokens[max(first - 1, 0) : first] + tokens[last + 1 : last + 2]
    beside_name = any(token.text[0].isupper() and token.word not in DETERMINERS for token in neighbours)
    is_named = len(inside) > 1 or bool(tokens[first - 1].noun) or beside_name
    return is_named and lower > len(tokens) / 3


def _measured(caption: str, tokens: list[Token], phrases: list[Phrase], lexicon: Lexicon) -> list[Phrase]:
    """Joins "a cup" and "tea" of "a cup of tea"; of "a pair of dogs" leaves "dogs", of "a piece of art" nothing."""
    result: list[Phrase] = []
    for phrase in phrases:
        before = result[-1] if result else None
        joint = caption[before.end : phrase.start].lower() if before else ""
        if before and joint == " of " and lexicon.singular(before.text).split(" ")[-1] in lexicon.measures:
            result.pop()
            if phrase.kind != "subject":
                phrase = replace(before, end=phrase.end, text=caption[before.start : phrase.end], kind="object")
        result.append(phrase)
    return [phrase for phrase in result if phrase.kind != "measure"]


def without_verbs(tokens: list[Token], lexicon: Lexicon) -> list[Token]:
    """The tokens, left to right, where nouns that are verbs here are nouns no more."""
    read: list[Token] = []
    for token in tokens:
        is_noun = bool(token.noun) and _is_noun(read, token, tokens[len(read) + 1 : len(read) + 3], lexicon)
        read.append(token if is_noun else replace(token, noun="", kind="", plural=False))
    return read


def _is_noun(read: list[Token], token: Token, following: list[Token], lexicon: Lexicon) -> bool:
    """Whether a token that may be a noun is one, judged by its neighbours. read: all before it."""
    word, before = token.word, read[-1].word if read else ""
    after = following[0] if following else Token(0, 0, "")
    describes = word in QUALITIES and after.noun and " " not in after.noun and after.word not in lexicon.chiefly_verb
    is_function_word = word in PREPOSITIONS | MODAL and before not in DETERMINERS and after.word != "of"
    if describes or is_function_word:
        return False
    is_doing = word.endswith("ing") and " " not in word and word not in NOT_DOING
    if is_doing and token.kind == "abstract" and after.noun:  # "a burning house"
        return False
    if " " in token.noun or (before in DETERMINERS and before != "that"):
        return True
    starts_phrase = after.word in DETERMINERS or after.word in PRONOUNS or bool(after.noun)
    if is_doing:
        is_after = before in BE or before in CONJUNCTIONS or bool(read and read[-1].noun) or before.endswith("ly")
        return not (is_after or ((before in PREPOSITIONS or not read) and starts_phrase))
    return not _is_verb(read, token, after.word, starts_phrase, lexicon)


def _is_verb(read: list[Token], token: Token, after: str, starts_phrase: bool, lexicon: Lexicon) -> bool:
    """For a word without a determiner right before it, and not in -ing."""
    word, before = token.word, read[-1].word if read else ""
    third_person = word.endswith("s") and not word.endswith("ss") and (token.plural or token.noun == word)
    chiefly = token.noun in lexicon.chiefly_verb
    past = word in lexicon.past
    if read and read[-1].noun and before not in QUALITIES:
        return _is_verb_after_noun(read, token, after, third_person, lexicon)
    if not (chiefly or past or token.noun in lexicon.verb):
        return False
    if before in PRONOUNS:
        return third_person or past or before != "that"
    if before == "to" or before in MODAL:
        return not token.plural and (len(read) < 2 or read[-2].word not in ("next", "close", "up", "according"))
    if before.endswith("ly") or before in ("not", "also", "slowly", "often"):
        return third_person or chiefly
    if before in CONJUNCTIONS or not read:
        if past:
            return starts_phrase
        if third_person:
            return after in DETERMINERS | PRONOUNS | PARTICLES or (chiefly and (starts_phrase or after in AFTER_VERB))
        return chiefly and after in DETERMINERS
    return False


def _is_verb_after_noun(read: list[Token], token: Token, after: str, third_person: bool, lexicon: Lexicon) -> bool:
    """ "A dog barks", "the plane lands", "children play"; but "wine glasses", "a tennis ball"."""
    previous = read[-1]
    head, determiner = _governing(read, len(read) - 1)
    chiefly = token.noun in lexicon.chiefly_verb
    may_be_verb = chiefly or token.noun in lexicon.verb
    if token.word in lexicon.past:
        return previous.kind == "subject" or previous.plural
    if third_person:
        sits = token.kind == "abstract" and may_be_verb and token.word not in CONTESTS
        return not head.plural and (determiner in SINGLE or head.kind == "subject" or chiefly or sits)
    is_action = token.kind == "abstract" or (chiefly and after in DETERMINERS)
    walks = previous.kind == "subject" and is_action and determiner not in SINGLE  # the cow and her calf walk
    return may_be_verb and (previous.plural or walks)


def _governing(read: list[Token], end: int) -> tuple[Token, str]:
    """Head and determiner of the phrase that ends here: of "a stack of books" the stack, which spins, not the books."""
    start = _run_start(read, end)
    determiner, preposition = _before(read, start)
    if preposition == "of" and start >= 2 and read[start - 1].word == "of" and read[start - 2].noun:
        return _governing(read, start - 2)
    return read[end], determiner


def _run_start(tokens: list[Token], i: int) -> int:
    """The first token of the run of nouns that ends at i."""
    while i and tokens[i - 1].noun and tokens[i - 1].end + 1 == tokens[i].start and not tokens[i - 1].plural:
        i -= 1
    return i
