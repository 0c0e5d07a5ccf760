"""Three ways to entity words: a constrained language model, a server, a grammar."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.captions import caption as caption_of
from video_alchemist.emojiworld.scenes import BACKGROUNDS, sample_scene
from video_alchemist.pretrained.answer_grammar import DONE, Grammar, Vocabulary, ngrams
from video_alchemist.pretrained.entity_extractor import (
    EndpointExtractor,
    LanguageModelExtractor,
    LexiconExtractor,
    NoAnswer,
    answer_schema,
)
from video_alchemist.pretrained.noun_phrases import find_entities
from video_alchemist.pretrained.nouns import CLASSES, FOLDER, load_lexicon

KINDS = ["subject", "object", "background"]
CAPTIONS = [
    "A woman in a mask shows a green-capped bottle to the camera.",
    'A café owner\'s dog says "¡hola!" 😀 \\ and {waits}',
    "🦜🦜",
    "",
    "Two men",
]
TEXTS = CAPTIONS + [json.dumps(dict.fromkeys(KINDS, ["dog", "man"]))] * 3


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """As GPT-2, Llama 3 and Qwen have it: every byte is a token, letters stand for bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


def sentence_piece_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 2 and Mistral have it: "▁" for a space, unknown characters as bytes."""
    pieces = ["</s>", "<unk>", *(f"<0x{b:02X}>" for b in range(256))]
    pieces += sorted({char.replace(" ", "▁") for text in TEXTS for char in text if char.isascii()})
    pieces += ["▁d", "og", "▁[", '":', '",', "▁{", "man", "é", "Ġ"]
    model = models.BPE(
        vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], unk_token="<unk>", byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


TOKENIZERS = {"byte level": byte_level_tokenizer, "sentence piece": sentence_piece_tokenizer}


def random_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Knows nothing: whatever is right in its answers, the constraint did."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 3,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8192,
        initializer_range=1.0,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_random_model_answers_validly(kind: str, seed: int) -> None:
    """Guards against any hole in the constraint: invalid JSON, words not in the caption, rows of a batch mixed up."""
    tokenizer = TOKENIZERS[kind]()
    answers = LanguageModelExtractor(random_model(tokenizer, seed), tokenizer)(CAPTIONS)
    assert len(answers) == len(CAPTIONS)
    for caption, answer in zip(CAPTIONS, answers, strict=True):
        assert isinstance(answer, dict) and list(answer) == KINDS
        assert all(word in ngrams(caption) and word in caption for words in answer.values() for word in words)
    assert answers[2] == answers[3] == dict.fromkeys(KINDS, [])


def test_answers_do_not_depend_on_the_batch() -> None:
    """Guards against padding that a row can see."""
    tokenizer = byte_level_tokenizer()
    extractor = LanguageModelExtractor(random_model(tokenizer, 2), tokenizer)
    assert extractor(CAPTIONS[:2]) == [extractor([caption])[0] for caption in CAPTIONS[:2]]
    assert extractor([]) == []


def test_a_model_is_read_from_a_folder(tmp_path: Path) -> None:
    """Guards against an extractor that only tests can construct."""
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    model = random_model(tokenizer, 3)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    answer = LanguageModelExtractor.from_pretrained(str(tmp_path))(CAPTIONS[:1])
    assert answer == LanguageModelExtractor(model, tokenizer)(CAPTIONS[:1])


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_right_answer_can_be_written(kind: str) -> None:
    """Guards against a constraint so narrow that a good model could not say what it wants, in its own tokens."""
    tokenizer = TOKENIZERS[kind]()
    vocabulary = Vocabulary(tokenizer)
    given = {"subject": ["café owner", "dog", "dog"], "object": [], "background": ["hola"]}
    grammar = Grammar(CAPTIONS[1], vocabulary.fits)
    state = grammar.start
    for token in tokenizer(json.dumps(given, ensure_ascii=False), add_special_tokens=False)["input_ids"]:
        state = vocabulary.following(grammar, state)[token]
    assert state == DONE


def test_every_path_through_the_grammar_is_an_answer_of_bounded_length() -> None:
    """Guards against dead ends, and against a limit on new tokens that cuts an answer off."""
    for seed in range(200):
        draw = random.Random(seed)
        caption = CAPTIONS[seed % len(CAPTIONS)]
        grammar = Grammar(caption)
        state, written = grammar.start, b""
        while state != DONE:
            byte, state = draw.choice(sorted(grammar.edges(state).items(), key=lambda edge: edge[0]))
            written += bytes([byte])
        assert list(json.loads(written)) == KINDS and len(written) <= grammar.max_bytes


def test_ngrams_are_what_an_entity_word_may_be() -> None:
    """Guards against words across punctuation, parts of hyphened words, and articles or numbers (Fig. 7, rule 1)."""
    found = ngrams("Two men's hats, a green-capped bottle")
    assert {"men", "men's", "men's hats", "hats", "green-capped bottle", "bottle"} == {*found} - {"green-capped"}


def test_a_tokenizer_that_cannot_spell_json_is_refused() -> None:
    """Guards against a generation that ends in the middle because no token may follow."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"</s>": 0, "dog": 1}, unk_token="</s>")), eos_token="</s>"
    )
    with pytest.raises(ValueError, match="no token for"):
        Vocabulary(tokenizer)


@contextmanager
def server(reply: Any) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that speaks OpenAI's protocol; reply(request) -> (status, body), or None to hang up."""
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(body | {"path": self.path, "key": self.headers["Authorization"]})
            answer = reply(body)
            if answer is None:
                return
            status, text = answer
            data = text if isinstance(text, bytes) else json.dumps(text).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/v1", requests
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def chat(content: str) -> tuple[int, dict[str, Any]]:
    """A reply as OpenAI's protocol has it."""
    return 200, {"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]}


def test_endpoint_asks_with_a_schema_and_keeps_the_order() -> None:
    """Guards against answers of parallel requests swapped, a path or key that servers do not know, a missing schema."""

    def reply(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        words = body["response_format"]["json_schema"]["schema"]["properties"]["subject"]["items"]["enum"]
        time.sleep(0.02 * (9 - len(words)))
        return chat(json.dumps({"subject": words[:1], "object": [], "background": []}))

    captions = ["dog", "cat sits", "hen sees fox"]
    with server(reply) as (url, requests):
        answers = EndpointExtractor(url, "tiny", api_key="secret")(captions)
        assert EndpointExtractor(url, "tiny")([]) == []
    assert [json.loads(str(answer))["subject"] for answer in answers] == [["dog"], ["cat"], ["hen"]]
    assert {(r["path"], r["key"], r["model"]) for r in requests} == {("/v1/chat/completions", "Bearer secret", "tiny")}
    assert {caption for r in requests for caption in captions if f"Caption: {caption}\n" in r["messages"][0]["content"]}


def test_endpoint_tries_again() -> None:
    """Guards against losing a clip to a server that was busy for a moment."""
    replies = iter([(503, {}), (200, b"no json"), None, chat("{}")])
    with server(lambda body: next(replies)) as (url, requests):
        assert EndpointExtractor(url, "tiny", num_tries=4, pause=0.0)(["dog"]) == ["{}"]
    assert len(requests) == 4


@pytest.mark.parametrize("reply", [(429, {}), (500, b"oops"), (200, b"<html>"), (200, {"choices": []}), (200, [])])
def test_endpoint_that_fails_gives_no_answer(reply: tuple[int, Any]) -> None:
    """Guards against an exception for the whole batch, or a permanent reject, where asking again may help."""
    with server(lambda body: reply) as (url, requests):
        (answer,) = EndpointExtractor(url, "tiny", num_tries=2, pause=0.0)(["dog"])
    assert isinstance(answer, NoAnswer) and url in answer.reason
    assert len(requests) == 2


def test_endpoint_that_is_down_or_slow_gives_no_answer() -> None:
    """Guards against a run that hangs on a server, or dies with it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (down,) = EndpointExtractor(f"http://127.0.0.1:{port}/v1", "tiny", num_tries=1)(["dog"])
    with server(lambda body: time.sleep(0.5)) as (url, _):
        (slow,) = EndpointExtractor(url, "tiny", timeout=0.1, num_tries=1)(["dog"])
    assert isinstance(down, NoAnswer) and "refused" in down.reason
    assert isinstance(slow, NoAnswer) and "timed out" in slow.reason


def test_endpoint_that_refuses_is_an_error_of_the_user() -> None:
    """Guards against retrying a wrong model name for ever."""
    with server(lambda body: (404, {"error": "model 'tiny' not found"})) as (url, requests):
        with pytest.raises(ValueError, match="404.*not found"):
            EndpointExtractor(url, "tiny", pause=0.0)(["dog"])
    assert len(requests) == 1
    with pytest.raises(ValueError, match="web address"):
        EndpointExtractor("localhost:8000", "tiny")


def test_schema_of_a_long_caption_lists_no_words() -> None:
    """Guards against schemas that servers refuse: OpenAI takes at most 500 values."""
    words = answer_schema(" ".join(f"w{i}" for i in range(300)))["properties"]["object"]["items"]
    assert words == {"type": "string"}


def test_lexicon_extractor_knows_emojiworld() -> None:
    """Guards against EmojiWorld clips whose references no word names; a robot called "toy" is the one thing missed."""
    assets, lexicon = load_assets(), load_lexicon()
    wrong = []
    for i in range(500):
        split = ("train", "test_concept", "test_artist")[i % 3]
        text, entities, _ = caption_of(sample_scene(np.random.default_rng((3, i)), assets, split=split), assets)
        found = [(phrase.text, phrase.kind, phrase.start) for phrase in find_entities(text, lexicon)]
        if found != [(entity.word, entity.kind, entity.span[0]) for entity in entities]:
            wrong.append((text, found))
    assert len(wrong) <= 2, wrong


def test_lexicon_extractor_knows_every_word_of_emojiworld() -> None:
    """Guards against a concept, held out or not, or a background that the sample above did not draw."""
    kinds = {i.concept: i.kind for i in load_assets().identities if i.kind != "scenery"}
    kinds |= dict.fromkeys(("animal", "creature", "person"), "subject") | dict.fromkeys(("plant", "food"), "object")
    kinds |= dict.fromkeys(("vehicle", "thing", "toy"), "object")
    (extractor, place) = LexiconExtractor(), {"subject": [], "object": [], "background": ["city"]}
    for word, kind in kinds.items():
        assert extractor([f"A nice {word} spins in a city at night"]) == [place | {kind: [word]}], word
    for name, (where, _) in BACKGROUNDS.items():
        assert extractor([f"A fox waves {where} {name}."]) == [
            {"subject": ["fox"], "object": [], "background": [name]}
        ], name


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A dog jumps and another dog barks", "dog/s dog/s"),
        ("A dog jumps. The dog barks", "dog/s"),
        ("A man stands in front of a house", "man/s house/o"),
        ("A man stands in a house", "man/s house/b"),
        ("A hand draws a hot dog", "hot dog/o"),
        ("A woman eats chicken beside a chicken", "woman/s chicken/o chicken/s"),
        ("A boy plays football", "boy/s"),
        ("A boy kicks a football", "boy/s football/o"),
        ("The girl's bikes", "girl/s bikes/o"),
        ("A man paints a painting of a man", "man/s man/s"),
        ("The wine glasses stand beside the man's glasses", "wine glasses/o man/s glasses/o"),
        ("A pair of boots, a pair of swans", "pair of boots/o swans/s"),
        ('The text "A dog in a car" appears', ""),
        ("A man looks at the camera", "man/s"),
        ("A man holds a camera", "man/s camera/o"),
        ("Tom Baker meets a baker", "Tom Baker/s baker/s"),
        ("A MAN ON A HORSE", "MAN/s HORSE/s"),
        ("a t-shirt and an ice-cream cone", "t-shirt/o ice-cream cone/o"),
        ("", ""),
        ("\n😀 …", ""),
    ],
)
def test_lexicon_extractor_reads_phrases(caption: str, words: str) -> None:
    """Guards against single rules of the grammar lost in a rewrite."""
    found = " ".join(f"{phrase.text}/{phrase.kind[0]}" for phrase in find_entities(caption, load_lexicon()))
    assert found == words


def test_lexicon_extractor_needs_no_torch(tmp_path: Path) -> None:
    """Guards against curation that cannot run where torch is not installed."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'numpy']))\n"
        "from video_alchemist.pretrained.entity_extractor import LexiconExtractor\n"
        "from video_alchemist.curation.entity_words import entities_of\n"
        "print(entities_of('A dog', LexiconExtractor()(['A dog'])[0])[0].span)"
    )
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "(2, 5)"), done.stderr


def test_lexicon_is_small_and_well_formed() -> None:
    """Guards against a package that grows by megabytes, and a comma lost in the hand-written part."""
    assert sum(path.stat().st_size for path in FOLDER.glob("*.txt")) < 300_000
    lexicon = load_lexicon()
    assert set(lexicon.classes.values()) == set(CLASSES)
    long = [noun for noun in lexicon.classes if len(noun.split()) > 4 or noun != noun.strip().lower()]
    assert not long
    assert {"wordnet", "own.txt"} <= set((FOLDER / "ATTRIBUTION.md").read_text().lower().replace("`", " ").split())
