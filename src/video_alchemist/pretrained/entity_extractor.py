"""Role: caption -> which of its words name subjects, objects and the background (§3.1, App. A.2, Fig. 7).

Three ways: a language model here (constrained, so that its answers are always valid), any server that speaks OpenAI's
protocol (vLLM, Ollama, ...), and an offline grammar that needs neither model nor torch. All give raw answers, which
`curation.entity_words` checks by the paper's rules.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from video_alchemist.pretrained.answer_grammar import KINDS, MAX_ITEMS, Constraint, Vocabulary, ngrams
from video_alchemist.pretrained.noun_phrases import find_entities
from video_alchemist.pretrained.nouns import load_lexicon

if TYPE_CHECKING:
    import torch

# Fig. 7's task, three definitions and two rules, in our words.
PROMPT = """\
You read the caption of a video and sort the words that name what can be seen in it into three lists.

"subject": people and animals, invented ones too.
"object": everything else that takes up a part of the picture and could be cut out of it, such as clothes, tools, \
food, furniture, plants and vehicles.
"background": the place or surface that fills most of the picture, such as a room, a landscape or the sky.

Two rules hold for every entry:
1. It is a noun, or a noun with the words that describe it, and begins with no article, number or other word of amount.
2. It is copied from the caption character by character: same case, same form, nothing added and nothing left out.

Leave out what is not seen: actions, feelings, sounds, times. A list may be empty. Write the JSON object, nothing else.

Caption: An old fisherman with a white beard pulls a tangled net into his boat.
Answer: {"subject": ["fisherman"], "object": ["white beard", "tangled net", "boat"], "background": []}
Caption: On a snowy street, a woman hands a paper cup to another woman as two dogs run past.
Answer: {"subject": ["woman", "woman", "dogs"], "object": ["paper cup"], "background": ["snowy street"]}
Caption: Dark clouds drift over the hills.
Answer: {"subject": [], "object": [], "background": ["clouds", "hills"]}

Caption: %s
Answer:"""
MAX_CHOICES = 500  # OpenAI's limit for the values of an enum in a schema


@dataclass(frozen=True)
class NoAnswer:
    """The extractor could not be asked; another time it may."""

    reason: str


Answer = str | dict[str, Any] | NoAnswer


class EntityExtractor(Protocol):
    def __call__(self, captions: Sequence[str]) -> list[Answer]:
        """One a caption: {"subject": [...], "object": [...], "background": [...]}, or the text of such an answer.

        The n-th entry of a word is its n-th mention: ["man", "man"] are two men.
        """
        ...


class LexiconExtractor:
    """An English grammar over a lexicon: offline, some thousand captions a second."""

    def __init__(self) -> None:
        self.lexicon = load_lexicon()

    def __call__(self, captions: Sequence[str]) -> list[Answer]:
        return [self._answer(caption) for caption in captions]

    def _answer(self, caption: str) -> dict[str, Any]:
        phrases = find_entities(caption, self.lexicon)
        return {kind: [phrase.text for phrase in phrases if phrase.kind == kind] for kind in KINDS}


class LanguageModelExtractor:
    """transformers' causal language models (the paper's: Mistral 7B), decoded greedily and within the caption."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.vocabulary = Vocabulary(tokenizer)
        end = model.generation_config.eos_token_id
        end = tokenizer.eos_token_id if end is None else end
        if end is None:
            raise ValueError("neither model nor tokenizer names a token that ends a text; expected an eos_token_id")
        self.ends = [end] if isinstance(end, int) else list(end)

    @classmethod
    def from_pretrained(cls, name: str, device: str = "cpu", dtype: str = "auto") -> LanguageModelExtractor:
        """name: a folder or a hub id, such as "mistralai/Mistral-7B-Instruct-v0.2"."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
        return cls(model.to(device).eval(), AutoTokenizer.from_pretrained(name))

    def __call__(self, captions: Sequence[str]) -> list[Answer]:
        if not captions:
            return []
        inputs = self._inputs(captions)
        length = inputs["input_ids"].shape[1]
        constraint = Constraint(self.vocabulary, captions, length, self.ends)
        written = self.model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            max_new_tokens=constraint.max_new_tokens,
            pad_token_id=self.ends[0],
            prefix_allowed_tokens_fn=constraint,
        )
        return [json.loads(constraint.text(row)) for row in written[:, length:].tolist()]

    def _inputs(self, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        """Prompts as tokens, padded on the left: (B, S) ids and mask."""
        import torch

        rows = [self._prompt(caption) for caption in captions]
        width = max(map(len, rows))
        ids = [[self.ends[0]] * (width - len(row)) + row for row in rows]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
        device = self.model.device
        return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}

    def _prompt(self, caption: str) -> list[int]:
        text = PROMPT % caption
        if not self.tokenizer.chat_template:
            return self.tokenizer(text + " ")["input_ids"]
        turn = [{"role": "user", "content": text}]
        chat = self.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        return self.tokenizer(chat, add_special_tokens=False)["input_ids"]


class EndpointExtractor:
    """A server that speaks OpenAI's chat protocol; the captions of a batch are asked at once, it may batch them.

    url: up to the version, such as "http://localhost:8000/v1". A server that is down, busy or slow gives `NoAnswer`
    after `num_tries`; one that refuses the request (unknown model, bad key) is a ValueError.
    """

    RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str = "",
        timeout: float = 60.0,
        num_tries: int = 3,
        pause: float = 1.0,
        num_parallel: int = 8,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url={url!r} is no web address; expected one such as 'http://localhost:8000/v1'")
        if num_tries < 1 or num_parallel < 1:
            raise ValueError(f"num_tries={num_tries}, num_parallel={num_parallel}; expected at least 1 of each")
        self.url = url.rstrip("/") + "/chat/completions"
        self.model, self.timeout, self.num_tries, self.pause = model, timeout, num_tries, pause
        self.num_parallel = num_parallel
        self.headers = {"Content-Type": "application/json"}
        if api_key:
            self.headers["Authorization"] = f"Bearer {api_key}"

    def __call__(self, captions: Sequence[str]) -> list[Answer]:
        if not captions:
            return []
        with ThreadPoolExecutor(min(self.num_parallel, len(captions))) as pool:
            return list(pool.map(self._ask, captions))

    def _ask(self, caption: str) -> Answer:
        """One caption, tried again with doubled pauses."""
        body = json.dumps(self._request(caption)).encode()
        reason = ""
        for attempt in range(self.num_tries):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                request = urllib.request.Request(self.url, body, self.headers, method="POST")
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return json.load(response)["choices"][0]["message"]["content"] or ""
            except urllib.error.HTTPError as error:
                told = error.read(500).decode(errors="replace").strip()
                reason = f"{self.url} answered {error.code}: {told or error.reason}"
                if error.code not in self.RETRIED:
                    raise ValueError(reason) from error
            except OSError as error:  # refused, unreachable, timed out, broken off
                reason = f"{self.url}: {error}"
            except (ValueError, LookupError, TypeError) as error:
                reason = f"{self.url} does not answer in OpenAI's protocol: {error!r}"
        return NoAnswer(reason)

    def _request(self, caption: str) -> dict[str, Any]:
        schema = {"name": "entity_words", "strict": True, "schema": answer_schema(caption)}
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": PROMPT % caption}],
            "temperature": 0,
            "max_tokens": 512,
            "response_format": {"type": "json_schema", "json_schema": schema},
        }


def answer_schema(caption: str) -> dict[str, Any]:
    """JSON schema of the answers to a caption; the words to choose from are listed where they are not too many."""
    choices = ngrams(caption)
    item: dict[str, Any] = {"type": "string"}
    if 0 < len(choices) <= MAX_CHOICES:
        item["enum"] = choices
    words = {"type": "array", "items": item, "maxItems": MAX_ITEMS}
    return {
        "type": "object",
        "properties": dict.fromkeys(KINDS, words),
        "required": list(KINDS),
        "additionalProperties": False,
    }
