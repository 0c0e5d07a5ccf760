"""The recipes of curation's small networks: end to end on a tiny scale, and the pieces that go wrong in silence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, T5Config, T5EncoderModel

from video_alchemist.curation.profile import emojiworld
from video_alchemist.curation.roles import Roles
from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.recipes import (
    autoencoder,
    bundle,
    clip_filter,
    curation_scores,
    detector,
    face_detector,
    scale,
    segmenter,
    vocabulary,
)
from video_alchemist.emojiworld.recipes.curation_scale import BASE, SMALL
from video_alchemist.emojiworld.recipes.lossy import compress
from video_alchemist.emojiworld.scenes import sample_scene
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.pretrained.detector import GroundingDinoDetector
from video_alchemist.sampling.pipeline import SHIPPED

TINY = replace(
    SMALL,
    backbone={"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    detector={"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 8, "ffn": 16, "heads": 4},
    detector_size=64,
    vocabulary_batch=8,
    vocabulary_steps=1,
    detector_batch=4,
    detector_steps=1,
    segmenter={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 16},
    segmenter_size=64,
    segmenter_width=16,
    segmenter_batch=4,
    segmenter_steps=1,
    face_detector={"channels": (8, 8, 8), "width": 8},
    face_size=64,
    face_batch=4,
    face_steps=1,
    clip_filter={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    filter_clips=32,
    filter_batch=2,
    filter_steps=1,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    work = tmp_path_factory.mktemp("curation")
    for recipe in (face_detector, segmenter, clip_filter, detector):
        recipe.train(TINY, work, "cpu", None)
    return work


def test_the_shipped_copies_fill_their_roles_and_are_measured(trained, tmp_path, monkeypatch):
    """Guards against folders that an adaptor cannot read, and weights that stay in half precision on a CPU."""
    monkeypatch.setattr(curation_scores, "SHOT_FRAMES", 12)  # what a window of the shot detector holds
    folder = bundle.write_curation(trained, tmp_path / "curation")
    roles = Roles(emojiworld(folder), "cpu")
    frames = [np.zeros((64, 64, 3), np.uint8), np.full((36, 64, 3), 200, np.uint8)]
    assert len(roles.detector(frames, [["fox", "slice of pizza"], ["robot"]])[0]) == 2
    assert roles.segmenter(frames[:1], [np.array([[2, 2, 40, 40]])])[0][0].shape == (1, 64, 64)
    assert len(roles.face_detector(frames)) == 2
    for network in (roles.detector.model, roles.segmenter.model, roles.face_detector, roles.clip_filter.model):
        assert next(network.parameters()).dtype == torch.float32
    scores = curation_scores.measure(folder, "cpu", num_clips=2)
    assert {"detection_recall", "mask_iou", "face_recall", "undesirable_f1", "shot_f1"} - scores.keys() <= {
        "mask_iou",  # nothing found, nothing to segment
        "face_recall",  # nobody has a face
    }
    assert all(0 <= value <= 1 for value in scores.values())


def test_words_are_read_by_the_tokens_that_they_are_trained_by():
    """Guards against a recipe and an adaptor that disagree about a prompt, or a phrase's end unknown to the network."""
    tokenizer = vocabulary.build_tokenizer()
    assert tokenizer("a. b?")["input_ids"][0::2] == [101, 1012, 1029] and tokenizer.pad_token_id == 0
    words = ["fox", "slice of pizza", "t-shirt"]
    _, tokens = detector.token_targets(tokenizer, [[(word, (i,)) for i, word in enumerate(words)]])
    model = detector.build(TINY, tokenizer)
    prompt = GroundingDinoDetector(model, detector.processor(tokenizer, 64))._prompt(0, words)
    assert prompt.text == detector.prompt(words)[0]
    assert [tuple(row.nonzero()[:, 0].tolist()) for row in tokens[0]] == list(prompt.tokens)
    assert tokenizer.unk_token_id not in tokenizer("Zebra-like gentleman")["input_ids"]


def test_questions_know_whom_a_word_names():
    """Guards against absent words taught as present, and a word for two taught as naming one."""
    assets = vocabulary.detector_assets()
    for number in range(40):
        rng = np.random.default_rng(number)
        scene = detector.twin(sample_scene(rng, assets, num_actors=2), rng)
        known = [assets.identities[actor.identity] for actor in scene.actors]
        for word, actors in detector.ask(scene, rng):
            named = tuple(i for i, one in enumerate(known) if word in (one.concept, one.broader))
            assert actors == named or (word not in vocabulary.concepts() and len(actors) >= 1)


def test_twins_are_two_of_a_kind():
    assets, rng = vocabulary.detector_assets(), np.random.default_rng(1)
    pairs = [detector.twin(sample_scene(rng, assets, num_actors=2), rng).actors for _ in range(20)]
    same = [assets.identities[a.identity].concept == assets.identities[b.identity].concept for a, b in pairs]
    different = [a.identity != b.identity for a, b in pairs]
    assert sum(same) > 10 and all(different)


def test_held_out_drawings_stay_out_of_the_detectors_lessons():
    """Guards against a test of what was trained on."""
    for known, identity in zip(vocabulary.detector_assets().identities, load_assets().identities, strict=True):
        if identity.split == "test_artist" or (identity.split, identity.artist) == ("test_concept", "twemoji"):
            assert known.split != "train"


def test_matching_gives_each_actor_its_cheapest_query_once():
    cost = torch.tensor([[[1.0, 5.0], [0.5, 0.6], [9.0, 2.0]], [[3.0, torch.inf], [4.0, torch.inf], [5.0, torch.inf]]])
    assert detector.match(cost).tolist() == [[-1, 0, 1], [0, -1, -1]]


def test_generalised_iou_of_known_boxes():
    box = torch.tensor([0.5, 0.5, 0.2, 0.2])
    beside = torch.tensor([0.7, 0.5, 0.2, 0.2])
    apart = torch.tensor([0.9, 0.5, 0.2, 0.2])
    found = [float(detector.generalised_iou(box, other)) for other in (box, beside, apart)]
    assert found == pytest.approx([1, 0, -1 / 3], abs=1e-4)


def test_places_speak_for_what_they_are_the_middle_of():
    """Guards against maps listed in another order than the network's."""
    places = detector.map_places(64, 96)
    assert places.shape == (12 * 8 + 6 * 4 + 3 * 2, 2)
    boxes = torch.tensor([[[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]]])
    targets = detector.Targets(boxes, torch.ones(1, 2, 3), torch.tensor([[True, False]]))
    owner = detector.place_owner(torch.zeros(1, len(places), 4), places, targets)[0]
    assert set(owner[places[:, 0] > 0.5].tolist()) == {-1}
    assert (owner == 0).sum() > 10


def test_logits_begin_small():
    """Guards against a first loss in the thousands, from which the detector takes long to come back."""
    tokenizer = vocabulary.build_tokenizer()
    torch.manual_seed(0)
    inputs, targets, _ = detector.question_batch(tokenizer, 1, 0, TINY, "cpu")
    assert detector.detector_loss(detector.build(TINY, tokenizer), inputs, targets) < 100


def test_a_clip_in_which_all_wait_is_still():
    """Guards against a filter that is taught to tell apart what looks the same."""
    scene = sample_scene(np.random.default_rng(0), load_assets(), num_actors=1)
    waiting = replace(scene.actors[0], action="waits")
    resting = replace(scene, actors=(waiting,), camera=(0.0, 0.0, 0.0))
    assert clip_filter.labels(resting) == [0, 1, 0, 0]
    assert clip_filter.labels(replace(resting, camera=(0.2, 0.0, 0.1))) == [1, 0, 0, 0]
    moving = replace(resting, actors=(replace(waiting, action="jumps"),))
    assert clip_filter.labels(moving) == [0, 0, 0, 0]
    assert clip_filter.labels(replace(moving, undesirable="screen_recording")) == [0, 0, 0, 1]


def test_tokens_are_told_how_their_part_moves(monkeypatch):
    """Guards against motion in other pixels than the network's, of the wrong frames, or that mirroring leaves alone."""
    monkeypatch.setattr(clip_filter, "random_size", lambda generator: (96, 96))
    known = clip_filter.clips(0, 0, 32, "cpu")
    assert known.video.shape == (32, 16, 3, 64, 64) and known.motion.shape == (32, 8, 4, 4, 5)
    still = known.labels[:, 1] == 1  # tiny camera movement, resting foreground
    speeds = known.motion[..., :4].abs().amax(dim=(1, 2, 3, 4))
    assert still.any() and speeds[still].max() < 1 < speeds[~still].median()
    one = clip_filter.Clips(known.video[:1], known.labels[:1], known.motion[:1])
    drawn = [clip_filter.draw(one, 1, step, 1, "cpu").motion for step in range(8)]
    mirrored = [not torch.equal(motion, one.motion) for motion in drawn]
    assert any(mirrored) and not all(mirrored)
    flipped = drawn[mirrored.index(True)]
    assert torch.equal(flipped[..., 0], -one.motion[..., 0].flip(-1)) and torch.equal(
        flipped[..., 4], one.motion[..., 4].flip(-1)
    )


def test_boxes_and_masks_of_the_segmenter_agree():
    """Guards against boxes in other pixels than the masks'."""
    frames, boxes, masks, seen = segmenter.frame_batch(1, 0, 8, 64, "cpu")
    assert frames.shape == (8, 3, 64, 64) and masks.shape[-2:] == (32, 32)
    for box, mask in zip(boxes[seen], masks[seen], strict=True):
        rows, columns = (mask > 0.5).nonzero(as_tuple=True)
        if len(rows) > 20:
            inside = (columns * 2 + 1 > box[0] - 1) & (columns * 2 < box[2] + 1)
            inside &= (rows * 2 + 1 > box[1] - 1) & (rows * 2 < box[3] + 1)
            assert inside.float().mean() > 0.7


def test_faces_are_in_the_frames_own_pixels():
    frames, faces = face_detector.face_batch(2, 0, 8, 64, "cpu")
    found = faces[torch.isfinite(faces).all(dim=-1)]
    assert len(found) and (found[:, 2:] > found[:, :2]).all()
    assert max(frames.shape[-2:]) == 64 and found.max() <= 64


def test_compression_is_mild():
    """Guards against lessons on pictures that no file looks like."""
    flat = torch.full((2, 3, 20, 36), 0.4)
    lossy = compress(flat, torch.Generator().manual_seed(0))
    torch.testing.assert_close(lossy, flat, atol=0.03, rtol=0)
    picture = torch.rand(4, 2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert compress(picture, torch.Generator().manual_seed(0)).shape == picture.shape


def test_scale_base_fits_the_bundle():
    """Guards against networks that a GPU trains and nobody can ship: the bundle is at most 60 MB, in half precision."""
    with torch.device("meta"):
        networks = [
            autoencoder.build(scale.BASE),
            AlchemistTransformer(in_channels=16, text_dim=128, image_dim=192, **scale.BASE.transformer),
            T5EncoderModel(T5Config(**scale.BASE.text_encoder, feed_forward_proj="gated-gelu")),
            Dinov2Model(Dinov2Config(image_size=64, **scale.BASE.image_encoder)),
            detector.build(BASE, vocabulary.build_tokenizer()),
            segmenter.build(BASE),
            clip_filter.build(BASE),
            face_detector.HeatmapFaceDetector(size=BASE.face_size, **BASE.face_detector),
        ]
    weights = sum(parameter.numel() for network in networks for parameter in network.parameters())
    evaluators = sum(path.stat().st_size for path in (SHIPPED["emojiworld"] / "benchmark").rglob("*.safetensors"))
    assert 2 * weights + evaluators < 60e6
