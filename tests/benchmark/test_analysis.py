"""What the metrics share: boxes that are accepted, words that count, and no network asked twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from video_alchemist.benchmark.analysis import Analysis, Video, face_box, fits, on_white, pixel_box
from video_alchemist.benchmark.metrics import METRICS, ROLES
from video_alchemist.benchmark.models import ROLES as MODEL_ROLES
from video_alchemist.benchmark.protocol import Protocol, official, paper
from video_alchemist.benchmark.samples import Sample, Target
from video_alchemist.pretrained.detector import Detection, Reading
from video_alchemist.pretrained.face_detector import Face

F, H, W = 5, 40, 60
FRAMES = np.random.default_rng(0).integers(0, 255, (F, H, W, 3), np.uint8)
PICTURE = np.dstack([FRAMES[0], np.full((H, W), 255, np.uint8)])


def target(word: str, kind: Any = "subject", num_pictures: int = 1, faces: Sequence[np.ndarray] = ()) -> Target:
    pictures = tuple([PICTURE] * num_pictures)
    return Target(word, kind, (0, 1), pictures, tuple(range(num_pictures)), tuple(faces))


def sample(*targets: Target) -> Sample:
    return Sample("clip", "prompt", targets, tuple(FRAMES[:3]), FRAMES[0], "beach", None, 8.0, F, (W, H))


MAN = target("man", faces=[FRAMES[1, :8, :8]])
SAMPLE = sample(MAN, target("old man"), target("hat", "object"), target("ghost", "object", 0))


class Roles:
    """Stands in for all networks, and counts the pictures that each is shown."""

    def __init__(self, box: tuple[float, ...] = (10.6, 5.2, 30.8, 25.4), score: float = 0.8) -> None:
        self.box, self.score = box, score
        self.seen: Counter[str] = Counter()
        self.readings: list[Reading] = []
        self.most = 0
        self.image_text = SimpleNamespace(images=self.embed("image_text"), texts=lambda texts: np.ones((1, 4)))
        self.subject_encoder = self.embed("subject_encoder")
        self.face_embedder = self.embed("face_embedder")

    def quality(self, embeddings: np.ndarray) -> np.ndarray:
        self.seen["quality"] += len(embeddings)
        return embeddings[:, 0]

    def embed(self, role: str) -> Any:
        def embedded(pictures: Sequence[np.ndarray]) -> np.ndarray:
            self.seen[role] += len(pictures)
            return np.array([[one.mean(), one[..., 0].mean(), one[0, 0, 1], 9] for one in pictures], np.float32)

        return embedded

    def detector(self, frames: Sequence[np.ndarray], words: Any, reading: Reading | None = None) -> Any:
        self.seen["detector"] += len(frames)
        self.readings.append(reading or Reading())
        found = [Detection(self.box, self.score), Detection((0.0, 0.0, 5.0, 5.0), 0.1)]  # type: ignore[arg-type]
        return [[found if word != "hat" else [] for word in row] for row in words]

    def segmenter(self, frames: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> Any:
        self.seen["segmenter"] += len(frames)
        self.most = max(self.most, len(frames))
        answers = []
        for frame, rows in zip(frames, boxes, strict=True):
            masks = np.broadcast_to(frame[..., 0] % 2 == 0, (len(rows), *frame.shape[:2]))
            answers.append((masks, np.array([0.95, 0.85][: len(rows)], np.float32)))
        return answers

    def face_detector(self, frames: Sequence[np.ndarray]) -> Any:
        self.seen["face_detector"] += len(frames)
        self.faces_of = frames[-1]
        faces = [((4.0, 10.4, 12.0, 20.0), 0.9), ((30.0, 1.0, 44.0, 15.0), 0.5), ((0.0, 0.0, 9.0, 9.0), 0.2)]
        return [[Face(box, score) for box, score in faces]] * len(frames)

    def optical_flow(self, first: np.ndarray, second: np.ndarray, padded: bool = False) -> np.ndarray:
        self.seen["optical_flow"] += len(first)
        return np.zeros((*first.shape[:3], 2), np.float32)


def analysis(roles: Any, protocol: Protocol, **options: Any) -> Analysis:
    return Analysis(Video(FRAMES, 8.0), options.pop("sample", SAMPLE), roles, protocol, **options)


def test_boxes_at_the_borders() -> None:
    """Guards against clamped boxes and another tolerance, in a frame of 120 x 100: the released code's cases, and its
    rule (the mask inside the box fills it in one dimension, and lacks 0 to 3 pixels in the other) on many boxes."""
    assert fits((70, 10, 122, 60), (100, 120), 3)
    assert not fits((70, 10, 124, 60), (100, 120), 3)
    assert not fits((-1, 5, 50, 60), (100, 120), 3)
    assert not fits((70, 10, 121, 101), (100, 120), 3)
    assert fits((70, 10, 120, 103), (100, 120), 3) and not fits((70, 10, 120, 104), (100, 120), 3)
    assert not fits((5, 5, 5, 9), (100, 120), 3) and not fits((120, 5, 122, 9), (100, 120), 3)
    mask = np.zeros((100, 120))
    for x0, y0, width, height in np.random.default_rng(0).integers([-4, -4, 8, 8], [113, 93, 130, 110], (2000, 4)):
        inside = mask[y0 : y0 + height, x0 : x0 + width].shape
        lacking = (height - inside[0], width - inside[1])
        expected = 0 in lacking and 0 <= max(lacking) <= 3
        assert fits((x0, y0, x0 + width, y0 + height), (100, 120), 3) == expected


def test_fractions_of_boxes() -> None:
    """Guards against -0.9 made -1, by which a box at the edge would be lost."""
    assert pixel_box((-0.9, 5.9, 30.5, 40.9), official(1)) == (0, 5, 30, 40)
    assert pixel_box((0.2, 5.9, 30.6, 40.9), paper()) == (0, 6, 31, 41)


@pytest.mark.parametrize(("height", "face", "expected"), [(400, (100, 200), (83, 203)), (288, (0, 288), (0, 287))])
def test_face_boxes(height: int, face: tuple[int, int], expected: tuple[int, int]) -> None:
    """Guards against another arithmetic of hair and chin: the released code's cases."""
    box = face_box((7.4, face[0] + 0.4, 50.6, face[1] - 0.4), (height, 90), official(1))
    assert box == (7, expected[0], 51, expected[1])


def test_papers_face_boxes() -> None:
    """Guards against the released code's chain of roundings in the paper's protocol."""
    assert face_box((0, 100, 50, 200), (400, 90), paper()) == (0, 83, 50, 203)
    assert face_box((0, 0, 50, 288), (288, 90), paper()) == (0, 0, 50, 288)
    assert face_box((0, 100, 50, 250), (400, 90), paper())[3] == 254  # chained: 255
    assert face_box((0, 100, 50, 250), (400, 90), official(1))[3] == 255


def test_sightings() -> None:
    """Guards against words below either score taken for found, masks of the whole frame, and a background that is not
    white; "ghost", without pictures, is not looked for."""
    roles = Roles()
    seen = analysis(roles, official(F))
    assert seen.words == ("man", "old man", "hat")
    assert seen.sightings["old man"] == [None] * F  # its mask's score is 0.85
    assert seen.sightings["hat"] == [None] * F
    for frame, one in zip(FRAMES, seen.sightings["man"], strict=True):
        assert one is not None
        assert one.box == (10, 5, 30, 25) and (one.detection_score, one.mask_score) == (0.8, pytest.approx(0.95))
        inside = frame[5:25, 10:30]
        is_even = inside[..., 0] % 2 == 0
        np.testing.assert_array_equal(one.mask, is_even)
        cut = one.cut_out(frame)
        assert (cut[~is_even] == 255).all()
        np.testing.assert_array_equal(cut[is_even], inside[is_even])
    weak = analysis(Roles(score=0.4), official(F))
    assert weak.sightings["man"] == [None] * F and weak.subject_embeddings["man"] == [None] * F
    paper_seen = analysis(Roles(), paper()).sightings["man"][0]
    assert paper_seen is not None and paper_seen.box == (11, 5, 31, 25)


def test_a_box_over_the_edge() -> None:
    """Guards against a cut-out that is larger than what the frame has of it."""
    one = analysis(Roles(box=(50.0, 5.0, 62.9, 25.0)), official(F)).sightings["man"][0]
    assert one is not None and one.box == (50, 5, 62, 25) and one.mask.shape == (20, 10)
    assert one.cut_out(FRAMES[0]).shape == (20, 10, 3)
    assert analysis(Roles(box=(50.0, 5.0, 64.0, 25.0)), official(F)).sightings["man"][0] is None


def test_cut_outs_on_white() -> None:
    """Guards against references whose surroundings are seen, and against half a mask taken for none."""
    picture = np.full((1, 3, 4), 40, np.uint8)
    picture[0, :, 3] = 0, 1, 255
    assert on_white(picture)[0, :, 0].tolist() == [255, 40, 40]


def test_words_that_count() -> None:
    """Guards against objects that count in the paper's protocol, and words left out of the released code's mean."""
    assert analysis(Roles(), official(F)).judged_words == ("man", "old man", "hat")
    assert analysis(Roles(), official(F), conditioned=["man"]).judged_words == ("man", "old man", "hat")
    assert analysis(Roles(), paper()).judged_words == ("man", "old man")
    assert analysis(Roles(), paper(), conditioned=["hat", "man"]).judged_words == ("man", "hat")
    assert [one.word for one in analysis(Roles(), paper()).people] == ["man"]
    lone = sample(target("man", num_pictures=0, faces=[FRAMES[0]]))
    assert [one.word for one in analysis(Roles(), official(F), sample=lone).people] == ["man"]
    assert analysis(Roles(), paper(), conditioned=["hat"]).people == ()
    with pytest.raises(ValueError, match="clip has no target 'mann'.*did you mean 'man'"):
        analysis(Roles(), paper(), conditioned=["mann"])


def test_faces() -> None:
    """Guards against colours that are turned for the embedder, too, and against faces that are not sure enough."""
    roles = Roles()
    one = analysis(roles, official(F))
    assert one.faces == [[(4, 8, 12, 20)]] * F  # int(10 - 1.7), int(20 + 0.03 * 12)
    np.testing.assert_array_equal(roles.faces_of, FRAMES[-1][..., ::-1])
    assert one.face_embeddings[2][0, 0] == pytest.approx(FRAMES[2, 8:20, 4:12].mean())
    assert one.face_embeddings[2][0, 1] == pytest.approx(FRAMES[2, 8:20, 4:12, 0].mean())
    every = analysis(roles, paper())
    assert [len(row) for row in every.faces] == [2] * F
    np.testing.assert_array_equal(roles.faces_of, FRAMES[-1])


def test_how_the_detector_is_asked() -> None:
    """Guards against the released code's prompt in the paper's protocol, or ours in the official one."""
    roles = Roles()
    assert analysis(roles, official(F)).detections[0]["man"][0].score == 0.8
    assert analysis(roles, paper()).detections[0]["hat"] == []
    assert roles.readings == [Reading(joined=True, runs=True, clamped=False), Reading()]
    assert analysis(roles, paper(), sample=sample()).sightings == {}
    assert len(roles.readings) == 2


def test_networks_are_asked_once_for_all_metrics() -> None:
    """Guards against frames that each metric sends through a network anew, and batches beyond what was asked."""
    roles = Roles()
    seen = analysis(roles, official(F), batch=2)
    for metric in (
        "text_similarity", "video_similarity", "subject_similarity", "face_similarity", "missing_share",
        "dynamic_degree", "flow_magnitude", "motion_smoothness", "identity_mixing", "learned_quality",
    ):  # fmt: skip
        assert METRICS[metric](seen)[0].metric == metric
    assert roles.seen == {
        "image_text": F + 3,
        "detector": F,
        "segmenter": F,
        "subject_encoder": F + 3,  # sightings of "man", and a picture of each word
        "face_detector": F,
        "face_embedder": F + 1,
        "optical_flow": F - 1,
        "quality": F,  # upon the embeddings that are there
    }
    assert roles.most == 2


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_ask_only_the_networks_they_name(metric: str) -> None:
    """Guards against a metric whose networks are not loaded before the work, or not named in the result."""
    roles = Roles()
    assert set(ROLES[metric]) <= set(MODEL_ROLES)
    named = SimpleNamespace(**{role: getattr(roles, role) for role in ROLES[metric]})
    rows = METRICS[metric](analysis(named, paper()))
    assert rows[0].metric == metric and rows[0].word == "" and all(row.id == "clip" for row in rows)
    assert set(roles.seen) == set(ROLES[metric])


def test_long_crop() -> None:
    """Guards against frames whose sides are cut off although the whole frame was asked for."""
    shapes: list[Any] = []
    roles = Roles()
    roles.image_text.images = lambda frames: [shapes.append(one.shape) or np.ones(3) for one in frames]
    assert analysis(roles, official(2, crop_type="long")).frame_embeddings.shape == (2, 3)
    assert analysis(roles, official(2)).frame_embeddings.shape == (2, 3)
    assert shapes == [(W, W, 3)] * 2 + [(H, W, 3)] * 2
