"""Role: where the entity words are in a frame (§3.1: "we apply GroundingDINO to each frame").

H,W pixels · B frames of one forward · Q queries · S tokens of the prompt · W words
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from video_alchemist.pretrained.weights import load_whole

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels
SAME_OBJECT = 0.5  # IoU from which two boxes of a word show the same thing


@dataclass(frozen=True)
class Detection:
    """score: in [0, 1]; where to draw the line is the caller's matter."""

    box: Box
    score: float


class Detector(Protocol):
    def __call__(self, frames: Sequence[np.ndarray], words: Sequence[Sequence[str]]) -> list[list[list[Detection]]]:
        """Frames (H, W, 3) uint8 of any sizes and the words to find in each => per frame and word, best first, at most
        two: the best and the runner-up, which is another object. (Two men make the word "man" ambiguous.)"""
        ...


@dataclass(frozen=True)
class Reading:
    """How Grounding DINO is asked and its answer read. As it stands, in the way that finds most.

    joined: all words as they are in one prompt "a . b.", cut where the model's tokens end; else without marks, in as
    many prompts as are necessary. runs: a word's tokens are all runs of them, also inside other words ("man" in "old
    man"); else its own only. clamped: boxes end at the frame's edges.
    """

    joined: bool = False
    runs: bool = False
    clamped: bool = True


@dataclass(frozen=True)
class Prompt:
    """What one forward asks of one frame. tokens: of each word, its positions in the prompt."""

    frame: int
    text: str
    words: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]


class GroundingDinoDetector:
    """transformers' GroundingDinoForObjectDetection with its processor.

    A word's score is read from the logits of its own tokens. (The processor's own reading of phrases merges neighbours
    and breaks long ones up.)
    """

    def __init__(self, model: Any, processor: Any, device: str = "cpu", batch: int = 6) -> None:
        """batch: frames a forward."""
        if not processor.tokenizer.is_fast:
            raise ValueError(
                f"{type(processor.tokenizer).__name__} does not know the characters of its tokens; expected a fast "
                "tokenizer, as AutoTokenizer gives it"
            )
        self.model = model.to(device).eval()
        self.tokenizer = processor.tokenizer
        self.image_processor = processor.image_processor
        self.device = device
        self.batch = batch

    @classmethod
    def from_pretrained(
        cls, name: str, device: str = "cpu", dtype: torch.dtype = torch.float32, **options: Any
    ) -> GroundingDinoDetector:
        """name: a folder or a hub id ("IDEA-Research/grounding-dino-tiny"). options: `revision` and the like."""
        from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

        model = load_whole(GroundingDinoForObjectDetection, name, dtype=dtype, **options)
        return cls(model, GroundingDinoProcessor.from_pretrained(name, **options), device)

    @torch.inference_mode()
    def __call__(
        self, frames: Sequence[np.ndarray], words: Sequence[Sequence[str]], reading: Reading = Reading()
    ) -> list[list[list[Detection]]]:
        if len(frames) != len(words):
            raise ValueError(f"{len(frames)} frames and {len(words)} lists of words; expected one list a frame")
        asked: dict[tuple[int, ...], list[Prompt]] = defaultdict(list)
        for i, frame in enumerate(frames):
            asked[frame.shape].extend(self._prompts(i, words[i], reading))
        found: dict[tuple[int, str], list[Detection]] = {}
        for prompts in asked.values():
            for first in range(0, len(prompts), self.batch):
                part = prompts[first : first + self.batch]
                for prompt, scores, boxes in zip(part, *self._forward(frames, part, reading.clamped), strict=True):
                    for word, candidates in zip(prompt.words, best_two(scores, boxes), strict=True):
                        found[prompt.frame, word] = candidates
        known = str.lower if reading.joined else plain
        return [[list(found.get((i, known(word)), [])) for word in row] for i, row in enumerate(words)]

    def _prompts(self, frame: int, words: Sequence[str], reading: Reading = Reading()) -> Iterator[Prompt]:
        """ "word. word. word.", as often as the model's number of tokens makes necessary; each word once."""
        if reading.joined:
            if words:
                yield self._prompt(frame, list(dict.fromkeys(map(str.lower, words))), " . ", reading.runs)
            return
        room = self.model.config.max_text_len - self.tokenizer.num_special_tokens_to_add()
        chunk: list[str] = []
        used = 0
        for word in dict.fromkeys(map(plain, words)):
            length = len(self.tokenizer(f"{word}.", add_special_tokens=False)["input_ids"])
            if chunk and used + length > room:
                yield self._prompt(frame, chunk, runs=reading.runs)
                chunk, used = [], 0
            chunk.append(word)
            used += length
        if chunk:
            yield self._prompt(frame, chunk, runs=reading.runs)

    def _prompt(self, frame: int, words: Sequence[str], comma: str = ". ", runs: bool = False) -> Prompt:
        text = comma.join(words) + "."
        asked = self.tokenizer(
            text, truncation=True, max_length=self.model.config.max_text_len, return_offsets_mapping=True
        )
        tokens, start = [], 0
        for word in words:
            end = start + len(word)
            if runs:
                tokens.append(_runs(self.tokenizer(word, add_special_tokens=False)["input_ids"], asked["input_ids"]))
            else:
                offsets = enumerate(asked["offset_mapping"])
                tokens.append(tuple(k for k, (left, right) in offsets if max(start, left) < min(end, right)))
            start = end + len(comma)
        return Prompt(frame, text, tuple(words), tuple(tokens))

    def _forward(
        self, frames: Sequence[np.ndarray], prompts: Sequence[Prompt], clamped: bool
    ) -> tuple[list[Tensor], np.ndarray]:
        """Frames of one shape => per prompt the words' scores (Q, W); all boxes (B, Q, 4) in pixels."""
        height, width = frames[prompts[0].frame].shape[:2]
        pixels = self.image_processor(
            images=[frames[prompt.frame] for prompt in prompts], input_data_format="channels_last", return_tensors="pt"
        )["pixel_values"]
        text = self.tokenizer(
            [prompt.text for prompt in prompts],
            padding=True,
            truncation=True,
            max_length=self.model.config.max_text_len,
            return_token_type_ids=True,
            return_tensors="pt",
        )
        output = self.model(
            pixel_values=pixels.to(self.device, self.model.dtype),
            input_ids=text["input_ids"].to(self.device),
            token_type_ids=text["token_type_ids"].to(self.device),
            attention_mask=text["attention_mask"].to(self.device),
        )
        probabilities = output.logits.float().sigmoid()                                # (B, Q, S)
        scores = [span_scores(row, prompt.tokens) for row, prompt in zip(probabilities, prompts, strict=True)]
        centre, size = output.pred_boxes.float().split(2, dim=-1)                      # (B, Q, 2) in [0, 1]
        corners = torch.cat([centre - size / 2, centre + size / 2], dim=-1)
        corners = corners.clamp(0, 1) if clamped else corners
        return scores, (corners * corners.new_tensor([width, height, width, height])).cpu().numpy()


def plain(word: str) -> str:
    """A word as the prompt has it: lower case, and without the marks that part phrases."""
    return " ".join(word.lower().replace(".", " ").replace("?", " ").split())


def _runs(part: Sequence[int], whole: Sequence[int]) -> tuple[int, ...]:
    """Positions of all runs of the tokens `part` in the tokens `whole`."""
    starts = [k for k in range(len(whole)) if part and list(whole[k : k + len(part)]) == list(part)]
    return tuple(sorted({k + i for k in starts for i in range(len(part))}))


def span_scores(probabilities: Tensor, tokens: Sequence[Sequence[int]]) -> Tensor:
    """(Q, S) in [0, 1] and the tokens of each word => (Q, W): the mean of a word's best token and of all its tokens."""
    scores = probabilities.new_zeros(len(probabilities), len(tokens))
    for i, positions in enumerate(tokens):
        if positions:
            own = probabilities[:, list(positions)]
            scores[:, i] = (own.amax(dim=1) + own.mean(dim=1)) / 2
    return scores.cpu()


def best_two(scores: Tensor, boxes: np.ndarray) -> list[list[Detection]]:
    """(Q, W) and (Q, 4) => per word, its best box and the next best that shows something else.

    A box belongs to the word that it fits best: else "boy" would be found wherever a "man" is."""
    owners = scores.argmax(dim=1).numpy()
    found: list[list[Detection]] = []
    for word, column in enumerate(scores.numpy().T):
        kept: list[int] = []
        for query in np.argsort(-column, kind="stable"):
            if owners[query] != word or column[query] <= 0:
                continue
            if not kept or iou(boxes[query], boxes[kept[0]]) < SAME_OBJECT:
                kept.append(int(query))
            if len(kept) == 2:
                break
        found.append([Detection(_box(boxes[query]), float(column[query])) for query in kept])
    return found


def iou(first: np.ndarray, second: np.ndarray) -> float:
    """Overlap of two boxes, in [0, 1]."""
    shared = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    both = float(np.prod(shared.clip(min=0)))
    areas = float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2]))
    return both / max(areas - both, 1e-9)


def _box(values: np.ndarray) -> Box:
    x0, y0, x1, y1 = map(float, values)
    return x0, y0, x1, y1
