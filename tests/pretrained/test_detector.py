"""The detector's role, played by Grounding DINO's class with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    SwinConfig,
)
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

from video_alchemist.pretrained.detector import Detection, GroundingDinoDetector, Reading, best_two, iou, span_scores

NOISE = np.random.default_rng(0)
WIDE, TALL = (NOISE.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((32, 48), (48, 32)))


def tiny_tokenizer() -> BertTokenizer:
    """Marks have BERT's own numbers: the network knows them by these."""
    vocabulary = {f"[unused{i}]": i for i in range(1030)}
    for token, number in {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}.items():
        vocabulary.pop(f"[unused{number}]")
        vocabulary[token] = number
    for i, token in enumerate("hot dog red robot man boy woman ##s ##land".split()):
        vocabulary.pop(f"[unused{i + 200}]")
        vocabulary[token] = i + 200
    return BertTokenizer(vocab=vocabulary)


def tiny_model(max_text_len: int = 32) -> GroundingDinoForObjectDetection:
    torch.manual_seed(0)
    swin = SwinConfig(
        image_size=32, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4, out_indices=[2, 3, 4]
    )
    layer = {"encoder_layers": 1, "encoder_ffn_dim": 32, "decoder_layers": 2, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    text = BertConfig(
        vocab_size=1030, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config = GroundingDinoConfig(
        backbone_config=swin, text_config=text, d_model=32, num_queries=12, max_text_len=max_text_len, **layer, **heads
    )
    model = GroundingDinoForObjectDetection(config).eval()
    for name, parameter in model.named_parameters():
        # Left as they are drawn, boxes would all be alike and words would not matter.
        if "bbox_embed" in name or "text_projection" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a hub or a recipe gives."""
    path = tmp_path_factory.mktemp("detector")
    tiny_model().save_pretrained(path)
    sizes = {"shortest_edge": 64, "longest_edge": 96}
    GroundingDinoProcessor(GroundingDinoImageProcessorPil(size=sizes), tiny_tokenizer()).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def detector(folder: str) -> GroundingDinoDetector:
    return GroundingDinoDetector.from_pretrained(folder, device="cpu")


def close(found: list[list[Detection]], expected: list[list[Detection]]) -> None:
    assert [len(row) for row in found] == [len(row) for row in expected]
    for row, wanted in zip(found, expected, strict=True):
        for one, other in zip(row, wanted, strict=True):
            np.testing.assert_allclose([*one.box, one.score], [*other.box, other.score], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_answers_are_read_from_the_right_tokens(folder: str, detector: GroundingDinoDetector) -> None:
    """Guards against "dog" scored by the tokens of "hot dog", against boxes on another scale than the frame's, and
    against pictures prepared otherwise than by the model's own processor."""
    found = detector([WIDE], [["hot dog", "Dogs"]])[0]
    processor = GroundingDinoProcessor.from_pretrained(folder)
    inputs = processor(images=WIDE, text="hot dog. dogs.", return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == [101, 200, 201, 1012, 201, 207, 1012, 102]
    output = tiny_model()(**inputs)
    p = output.logits[0].sigmoid()
    scores = torch.stack([(p[:, cut].amax(1) + p[:, cut].mean(1)) / 2 for cut in (slice(1, 3), slice(4, 6))], dim=1)
    for word, candidates in enumerate(found):
        own = scores[scores.argmax(dim=1) == word, word]
        if not len(own):
            assert candidates == []
            continue
        best = int((scores[:, word] == own.max()).nonzero()[0])
        x, y, w, h = (output.pred_boxes[0, best] * torch.tensor([48, 32, 48, 32])).tolist()
        expected = np.clip([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 0, [48, 32, 48, 32])
        np.testing.assert_allclose(candidates[0].box, expected, atol=1e-3)
        assert candidates[0].score == pytest.approx(float(own.max()), abs=1e-5)
    assert any(found)


def test_company_changes_nothing(detector: GroundingDinoDetector) -> None:
    """Guards against padding that is attended to, and answers handed to another frame or word: frames of two shapes
    with words of their own, a word named twice, and one without letters."""
    words = [["man"], ["robot", "hot dog", "man"], [], ["boy", "??", "Boy"]]
    together = detector([WIDE, TALL, WIDE, WIDE], words)
    assert [len(row) for row in together] == [1, 3, 0, 3]
    close(together[0], detector([WIDE], [["man"]])[0])
    close(together[1], detector([TALL], [["robot", "hot dog", "man"]])[0])
    assert together[3][0] == together[3][2] and together[3][1] == []
    assert together[3][0]


def test_long_lists_are_split_before_they_are_cut(folder: str) -> None:
    """Guards against words beyond the model's number of tokens, which would silently never be found."""
    processor = GroundingDinoProcessor.from_pretrained(folder)
    detector = GroundingDinoDetector(tiny_model(max_text_len=8), processor)
    words = ["man", "hot dog", "robot", "boys", "woman"]
    texts = [prompt.text for prompt in detector._prompts(0, words)]
    assert texts == ["man. hot dog.", "robot. boys.", "woman."]  # 5, 5 and 2 tokens and 2 marks of at most 8
    found = detector([WIDE], [words])[0]
    close(found[4:], detector([WIDE], [["woman"]])[0])
    close(found[2:4], detector([WIDE], [["robot", "boys"]])[0])


def test_the_released_benchmarks_way_to_ask(detector: GroundingDinoDetector) -> None:
    """Guards against a prompt that is cleaned or split where it was to be taken as it is, and against tokens of a word
    inside others that are lost, or counted where nobody asked for it."""
    words = ["Hot dog", "dog", "man?"]
    (prompt,) = detector._prompts(0, words, Reading(joined=True, runs=True))
    assert prompt.text == "hot dog . dog . man?."  # [CLS] hot dog . dog . man ? . [SEP]
    assert prompt.words == ("hot dog", "dog", "man?") and prompt.tokens == ((1, 2), (2, 4), (6, 7))
    (own,) = detector._prompts(0, words, Reading(joined=True))
    assert own.tokens == ((1, 2), (4,), (6, 7))
    (clean,) = detector._prompts(0, words, Reading(runs=True))
    assert clean.text == "hot dog. dog. man." and clean.tokens == ((1, 2), (2, 4), (6,))
    assert list(detector._prompts(0, [], Reading(joined=True))) == []
    found = detector([WIDE], [words], Reading(joined=True))[0]
    assert len(found) == 3 and any(found)


def test_boxes_beyond_the_frame(detector: GroundingDinoDetector) -> None:
    """Guards against boxes that are clamped although they were asked for as the network draws them."""
    kept, cut = detector([WIDE], [["man"]], Reading(clamped=False))[0][0], detector([WIDE], [["man"]])[0][0]
    assert [one.score for one in kept[:1]] == [one.score for one in cut[:1]]
    np.testing.assert_allclose(np.clip(kept[0].box, 0, [48, 32, 48, 32]), cut[0].box, atol=1e-4)
    assert kept[0].box != cut[0].box


def test_span_scores() -> None:
    """Guards against the mean or the maximum alone, and against a word without tokens that scores anything."""
    probabilities = torch.tensor([[0.9, 0.2, 0.6, 0.0]])
    scores = span_scores(probabilities, [(1, 2), (0,), ()])
    torch.testing.assert_close(scores, torch.tensor([[(0.6 + 0.4) / 2, 0.9, 0.0]]))


def test_runner_up_is_another_object() -> None:
    """Guards against the same object boxed twice taken for a second man, and a boy's box given to the man."""
    boxes = np.array([[0, 0, 10, 10], [1, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10.0]])
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.1], [0.5, 0.1], [0.6, 0.7]])
    man, boy = best_two(scores, boxes)
    assert [found.box for found in man] == [(0, 0, 10, 10), (20, 0, 30, 10)]
    assert [found.score for found in man] == pytest.approx([0.9, 0.5])
    assert [found.box for found in boy] == [(40, 0, 50, 10)]
    assert iou(boxes[0], boxes[1]) == pytest.approx(0.9) and iou(boxes[0], boxes[2]) == 0


def test_errors_name_what_is_wrong(folder: str, tmp_path: Path) -> None:
    detector = GroundingDinoDetector.from_pretrained(folder)
    with pytest.raises(ValueError, match="2 frames and 1 lists of words; expected one list a frame"):
        detector([WIDE, WIDE], [["man"]])


def test_a_folder_that_lacks_weights_is_refused(folder: str, without_a_weight: Callable[[str], str]) -> None:
    """Guards against random numbers in place of weights, of which transformers only warns: days of curation lost."""
    with pytest.raises(ValueError, match="holds no GroundingDinoForObjectDetection: it lacks 1 of its weights"):
        GroundingDinoDetector.from_pretrained(without_a_weight(folder))
