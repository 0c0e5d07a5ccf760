"""The rules of App. A.2, each with a caption it keeps and one it rejects, and how good the offline extractor is."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from video_alchemist.curation.entity_words import (
    CODES,
    KIND_OF,
    RECLASSIFIED,
    TRANSIENT,
    EntityError,
    entities_of,
    locate,
    occurrence,
    parse,
)
from video_alchemist.model.binding import find_word
from video_alchemist.pretrained.entity_extractor import LexiconExtractor, NoAnswer
from video_alchemist.records import Entity

ANNOTATED = [json.loads(line) for line in (Path(__file__).parent / "captions_annotated.jsonl").read_text().splitlines()]


def answer(subject: str = "", object: str = "", background: str = "") -> dict[str, list[str]]:
    """Words between commas, as an extractor would answer."""
    given = {"subject": subject, "object": object, "background": background}
    return {kind: [word for word in words.split(", ") if word] for kind, words in given.items()}


def rejected(caption: str, given: object) -> str:
    """The code of a rejection."""
    with pytest.raises(EntityError) as caught:
        entities_of(caption, given)
    assert caught.value.code in CODES and caught.value.detail
    return caught.value.code


def words_of(caption: str, given: object) -> list[tuple[str, str]]:
    """Word and kind of what is kept."""
    return [(entity.word, entity.kind) for entity in entities_of(caption, given)]


MAN = "A man pets a dog on a beach"
VALID = {"subject": ["man", "dog"], "object": [], "background": ["beach"]}


@pytest.mark.parametrize(
    "given",
    [
        VALID,
        json.dumps(VALID),
        str(VALID),  # Fig. 7's own notation: Python's quotes
        f"Here you are:\n```json\n{json.dumps(VALID)}\n```",
    ],
)
def test_rule_1_keeps_every_notation_of_a_valid_dictionary(given: object) -> None:
    """Guards against losing samples to quotes or to a model's chatter around its answer."""
    assert words_of(MAN, given) == [("man", "subject"), ("dog", "subject"), ("beach", "background")]


@pytest.mark.parametrize(
    "given",
    [
        "",
        "man, dog",
        "{'subject': ['man', 'dog'",
        "[" * 5000 + "{}",
        {"subject": ["man"], "object": []},
        VALID | {"action": []},
        VALID | {"object": "leash"},
        VALID | {"object": [1]},
        "{'subject': __import__('os').getcwd(), 'object': [], 'background': []}",
        None,
    ],
)
def test_rule_1_rejects_what_is_no_valid_dictionary(given: object) -> None:
    """Guards against a half answer, a wrong key or a non-word that reaches training, and against running the answer."""
    assert rejected(MAN, given) == "entity_answer_invalid"


def test_rule_2_keeps_exact_places() -> None:
    """Guards against spans that are off by one, or that point into another word."""
    caption = "Dogma for my dog: a hot dog, a DOG and another dog."
    found = entities_of(caption, answer("dog, dog"))
    assert [entity.span for entity in found] == [(13, 16), (47, 50)]
    assert all(caption[slice(*entity.span)] == entity.word for entity in found)
    assert [occurrence(caption, entity) for entity in found] == [0, 3]


@pytest.mark.parametrize(
    ("caption", "given"),
    [
        (MAN, answer("man, cat")),
        (MAN, answer("Man")),  # rule 2 of Fig. 7: no character is modified
        (MAN, answer("man", "dog on beach")),
        ("A man reads about dogma", answer("man, dog")),
        ("A man eats a hot dog", answer("man, dog")),
        ("A man eats a hot-dog", answer("man, dog")),
        ("A girl hugs a teddy bear", answer("girl, bear")),
        ("A police officer waves", answer("police")),
        ("A dog-walker waves", answer("dog")),
        (MAN, {"subject": ["man", ""], "object": [], "background": []}),
        (MAN, {"subject": [" man"], "object": [], "background": []}),
    ],
)
def test_rule_2_rejects_what_is_not_in_the_caption(caption: str, given: object) -> None:
    """Guards against words made up, changed, or cut out of longer words and of names of other things."""
    assert rejected(caption, given) == "entity_not_in_caption"


@pytest.mark.parametrize(
    ("caption", "word"),
    [
        ("A police officer waves", "officer"),
        ("A golden retriever runs", "retriever"),
        ("A man in turban waits", "man"),
        ('A "dog" barks', "dog"),
        ("A dog's toy, a cat", "dog"),
        ("一个女人在海滩上", "女人"),
    ],
)
def test_rule_2_keeps_words_that_stand_alone(caption: str, word: str) -> None:
    """Guards against rejecting the head of a compound, a possessive, or a language without spaces."""
    start = caption.index(word)
    assert locate(caption, [(word, "subject")]) == (Entity(word, "subject", (start, start + len(word))),)


def test_one_place_is_one_entity() -> None:
    """Guards against two entities on the same characters, which would bind one picture to half of another's word."""
    caption = "A police officer with a cup of tea meets a man"
    given = answer("man, police officer, officer, man", "cup of tea, tea, cup")
    assert words_of(caption, given) == [("police officer", "subject"), ("cup of tea", "object"), ("man", "subject")]


def test_rule_3_reclassifies_by_the_table() -> None:
    """Guards against the paper's own example, and against a toy that the table makes an animal."""
    caption = "White clouds pass a man, a car and a girl with a toy dog and a teddy bear"
    given = answer("man, car", "White clouds, girl, toy dog, teddy bear")
    assert dict(words_of(caption, given)) == {
        "White clouds": "background",
        "man": "subject",
        "car": "object",
        "girl": "subject",
        "toy dog": "object",
        "teddy bear": "object",
    }
    assert rejected("A cloud over a car", answer("car", "cloud")) == "entity_no_subject"
    assert len(KIND_OF) == sum(len(words.split()) for words in RECLASSIFIED.values()), "a word stands in two rows"


def test_rule_4_wants_a_subject() -> None:
    """Guards against videos that only the camera moves."""
    assert words_of("A dog by a lake", answer("dog", "", "lake"))
    assert rejected("A view of a lake", answer("", "", "lake")) == "entity_no_subject"
    assert rejected("A view of a lake", answer()) == "entity_no_subject"


@pytest.mark.parametrize(
    ("caption", "subject"),
    [
        ("A walrus and a princess", "walrus"),
        ("A walrus and a princess", "princess"),
        ("A boss shouts", "boss"),
        ("A woman with two dogs", "woman with two dogs"),
        ("Here James runs", "James"),
        ("A sheep is grazing", "sheep"),
        ("The fish swims", "fish"),
        ("A deer's ears", "deer"),
        ("A police officer", "police officer"),
        ("A family dog", "family dog"),
        ("An octopus in a tank", "octopus"),
    ],
)
def test_rule_5_keeps_one(caption: str, subject: str) -> None:
    """Guards against taking any final s for a plural."""
    assert words_of(caption, {"subject": [subject], "object": [], "background": []})


@pytest.mark.parametrize(
    ("caption", "subject"),
    [
        ("Several dogs run", "dogs"),  # the paper's example
        ("A group of people talk", "people"),
        ("A group of people talk", "group of people"),  # the paper's example
        ("A pack of wolves runs", "pack of wolves"),
        ("Two men and a woman", "men"),
        ("The children's toys", "children"),
        ("Police officers arrive", "Police officers"),
        ("A family eats", "family"),
        ("The crowd cheers", "crowd"),
        ("A couple of tourists", "couple"),
        ("A man and a woman kiss", "man and a woman"),
        ("Two sheep graze", "sheep"),
        ("Sheep graze on a hill", "Sheep"),
        ("The fish are swimming", "fish"),
        ("A school of fish", "fish"),
        ("Kayakers and vloggers", "vloggers"),
        ("The Simpsons dance", "Simpsons"),
    ],
)
def test_rule_5_rejects_several(caption: str, subject: str) -> None:
    """Guards against one word that the detector would find many boxes for."""
    given = {"subject": [subject], "object": [], "background": []}
    assert rejected(caption, given) == "entity_plural_subject"


def test_plural_objects_are_kept() -> None:
    """Guards against a rule 5 that also rejects "shoes": the paper speaks of subjects only."""
    caption = "A woman ties her shoes under some trees"
    assert len(entities_of(caption, answer("woman", "shoes, trees"))) == 3


def test_an_extractor_that_was_not_there_is_transient() -> None:
    """Guards against rejecting a clip for good because a server was down."""
    assert rejected(MAN, NoAnswer("timed out")) == "entity_no_answer"
    assert {"entity_no_answer"} == TRANSIENT <= CODES


def located(caption: str) -> set[tuple[str, int, int]]:
    """What the offline extractor finds in a caption, before rules 4 and 5."""
    (given,) = LexiconExtractor()([caption])
    return {(entity.kind, *entity.span) for entity in locate(caption, parse(given))}


# Measured: dev 0.981 and 0.990; held out 0.980 and 0.976. One author wrote captions, annotations and lexicon, so "held
# out" means: the grammar was changed after looking at dev and at other captions, never at mistakes on this half, of
# which only the two numbers were read (the grammar's first run: 0.942 and 0.926).
@pytest.mark.parametrize(("split", "precision", "recall"), [("dev", 0.97, 0.98), ("test", 0.97, 0.96)])
def test_lexicon_on_captions_annotated_by_hand(split: str, precision: float, recall: float) -> None:
    """Guards against a change of lexicon or grammar that costs more than it brings: exact span and kind."""
    counts: Counter[str] = Counter()
    for row in (row for row in ANNOTATED if row["split"] == split):
        truth = {(kind, start, end) for _, kind, start, end in row["entities"]}
        found = located(row["caption"])
        counts += Counter(right=len(truth & found), found=len(found), true=len(truth))
    assert counts["right"] / counts["found"] >= precision, counts
    assert counts["right"] / counts["true"] >= recall, counts


def test_annotations_are_exact() -> None:
    """Guards against a slip in the annotated file itself."""
    assert [row["id"] for row in ANNOTATED] == list(range(1, 201))
    for row in ANNOTATED:
        assert row["split"] == ("dev" if row["id"] % 2 else "test")
        for word, kind, start, end in row["entities"]:
            assert row["caption"][start:end] == word and kind in ("subject", "object", "background")


def test_occurrence_agrees_with_binding() -> None:
    """Guards against curation and model counting mentions differently: a picture bound to another mention."""
    extra = "A hot dog, a dog, a Dog and the ice-cream, an ice cream, a man's dog"
    for caption in [row["caption"] for row in ANNOTATED[::8]] + [extra]:
        (given,) = LexiconExtractor()([caption])
        for entity in locate(caption, parse(given)):
            assert find_word(caption, entity.word, occurrence(caption, entity)) == entity.span
