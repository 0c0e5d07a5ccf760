"""The judges and what is measured with them: known answers for the measures, one tiny evaluation from end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTModel,
)

from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.recipes import judges as judging
from video_alchemist.emojiworld.recipes.encoded import CLIP_SEED
from video_alchemist.emojiworld.recipes.judges import Judges, MotionJudge, contrast, degrade, halves, match, restage
from video_alchemist.emojiworld.recipes.scale import Scale
from video_alchemist.emojiworld.recipes.scores import evaluate, interval, table
from video_alchemist.emojiworld.recipes.studies import (
    ACTION_PAIRS,
    NUM_CANDIDATES,
    NUM_SAME_KIND,
    binding,
    candidates,
    identity,
    locate,
    other_places,
    ranks,
    retrieval,
    text,
)
from video_alchemist.emojiworld.recipes.world import clip_times, make_batch, sample_scenes
from video_alchemist.emojiworld.scenes import SOLO_ACTIONS
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.sampling.pipeline import AlchemistPipeline

TINY = Scale(name="small", num_frames=5, reference_size=32)


@pytest.fixture(scope="module")
def judges() -> Judges:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=64, patch_size=8
    )
    appearance = ViTModel(config, add_pooling_layer=False).eval()
    return Judges(appearance, MotionJudge((8, 8, 8), num_frames=5, num_actions=len(SOLO_ACTIONS)).eval())


def test_match_finds_a_picture_wherever_it_is_and_reads_its_subject_alone() -> None:
    """Guards against scores that depend on place, or on a picture's empty patches."""
    axes = torch.eye(4)
    frames = torch.stack([axes[[0, 1]], axes[[1, 0]], axes[[2, 2]]])  # (3, P=2, d)
    pictures = axes[torch.tensor([[0, 3], [2, 1]])]  # (2, L=2, d)
    weights = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    assert match(frames, pictures, weights).tolist() == [[1.0, 0.5], [1.0, 0.5], [0.0, 0.5]]


def test_contrast_holds_a_frames_other_pictures_not_against_it() -> None:
    """Guards against punishing a frame of two actors for finding both."""
    owner = torch.tensor([0, 0, 1])
    logits = torch.tensor([[50.0, 50.0, 0.0], [0.0, 0.0, 50.0]])
    assert contrast(logits, owner) < 1e-6
    assert contrast(logits.flip(0), owner) > 10


def test_ranks_count_ties_against_the_truth() -> None:
    """Guards against a constant score that looks perfect."""
    assert ranks(torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 1.0], [1.0, 0.0, 2.0]])).tolist() == [1, 3, 2]


def test_degrade_keeps_range_and_each_clips_own_measure() -> None:
    """Guards against one degradation a batch, and against values no frame can have."""
    video = torch.rand(2, 3, 2, 16, 16).repeat_interleave(2, 0)[:2] * 2 - 1
    changed = degrade(video, torch.Generator().manual_seed(0))
    assert changed.shape == video.shape and changed.abs().max() <= 1
    assert not torch.allclose(changed[0], changed[1])


def test_restaging_keeps_the_look_and_changes_the_pose() -> None:
    """Guards against candidates that are the reference itself, and against another identity."""
    actor = sample_scenes(0, 0, 1, num_actors=1)[0].actors[0]
    [scene] = restage([actor], 1, 0)
    posed = scene.actors[0]
    look = ("identity", "colour", "hue", "saturation")
    assert [getattr(posed, name) for name in look] == [getattr(actor, name) for name in look]
    assert (posed.tilt, posed.mirrored, posed.bend) != (actor.tilt, actor.mirrored, actor.bend)


@pytest.mark.parametrize("split", ["train", "test_artist"])
def test_candidates_are_of_one_split_half_of_them_alike_none_twice(split: str) -> None:
    """Guards against an easy test, and against one with two right answers."""
    identities = load_assets().identities
    actor = sample_scenes(3, 0, 1, split, num_actors=1)[0].actors[0]  # type: ignore[arg-type]
    chosen = candidates(actor, split, np.random.default_rng(0))  # type: ignore[arg-type]
    kinds = [identities[one.identity].broader for one in chosen]
    assert chosen[0] is actor and len({one.identity for one in chosen}) == NUM_CANDIDATES
    assert {identities[one.identity].split for one in chosen} == {split}
    assert 2 <= kinds.count(kinds[0]) <= NUM_SAME_KIND


def test_other_places_differ_in_place_alone() -> None:
    """Guards against candidates given away by their light or camera."""
    scene = sample_scenes(0, 0, 1)[0]
    places = other_places(scene, np.random.default_rng(0))
    assert len({place.background for place in places}) == NUM_CANDIDATES
    assert {replace(place, background=scene.background) for place in places} == {scene}


def test_interval_is_the_mean_with_its_spread() -> None:
    """Guards against an interval that misses its mean, and against scores that change from run to run."""
    values = torch.tensor([0.0, 1.0] * 50)
    spread = interval(values)
    assert spread == interval(values) and spread["mean"] == 0.5
    assert 0.38 < spread["low"] < 0.42 and 0.58 < spread["high"] < 0.62


def test_a_picture_is_found_in_the_frame_that_shows_it(judges: Judges) -> None:
    """Guards against galleries and videos that are compared crosswise: the picture itself must win, even untrained."""
    pictures = torch.cat([torch.rand(3, 4, 3, 64, 64), torch.ones(3, 4, 1, 64, 64)], dim=2)
    videos = (pictures[:, 0, :3, None].expand(-1, -1, 5, -1, -1) * 255).round().byte()
    assert retrieval(judges, pictures)(videos)["rank"].tolist() == [1, 1, 1]


def test_locate_tells_left_from_right(judges: Judges) -> None:
    """Guards against swapped halves, with which every binding score would be its opposite."""
    pictures = torch.rand(2, 4, 64, 64).round()
    pictures[:, 3] = 1
    rgb = (pictures[:, :3] * 255).byte()
    judges.appearance.embeddings.position_embeddings.data.zero_()
    frame = torch.cat([rgb[1, ..., :32], rgb[0, ..., 32:]], dim=-1)
    videos = torch.stack([frame, torch.cat([rgb[0, ..., :32], rgb[1, ..., 32:]], dim=-1)])[:, :, None]
    assert locate(judges, videos.expand(-1, -1, 5, -1, -1), pictures.expand(2, -1, -1, -1, -1)).tolist() == [
        [1, 0],
        [0, 1],
    ]
    assert torch.equal(halves(videos)[:, 0], videos[..., :32])


def test_binding_asks_for_two_broad_words_and_both_pictures(judges: Judges) -> None:
    """Guards against prompts that give the answer away, or bind a picture to the other's word."""
    study = binding(judges, TINY, "train", 3)
    identities = load_assets().identities
    for sample in study.samples:
        one, two = sample.scene.actors
        assert {(one.action, two.action), (two.action, one.action)} & set(ACTION_PAIRS)
        assert [r.word for r in sample.references] == [identities[a.identity].broader for a in (one, two)]
        assert one.word != two.word and all(word in sample.prompt for word in (one.word, two.word))
    assert set(study.measure(torch.zeros(3, 3, 5, 64, 64, dtype=torch.uint8))) == {"accuracy"}


def test_the_same_scenes_are_asked_with_and_without_pictures(judges: Judges) -> None:
    """Guards against comparing 0, 1 and 3 pictures on different subjects, and against leaks between splits."""
    none, three = (identity(judges, TINY, "test_concept", n, 2) for n in (0, 3))
    assert [sample.prompt for sample in none.samples] == [sample.prompt for sample in three.samples]
    assert [len(sample.references) for sample in (*none.samples, *three.samples)] == [0, 0, 3, 3]
    used = [load_assets().identities[sample.scene.actors[0].identity].split for sample in three.samples]
    assert used == ["test_concept"] * 2


def test_text_asks_for_every_action(judges: Judges) -> None:
    """Guards against an accuracy that rests on a few easy actions, or asks for one that the prompt leaves out."""
    study = text(judges, TINY, 8 * len(SOLO_ACTIONS))
    assert all(action in sample.prompt for action, sample in zip(SOLO_ACTIONS * 8, study.samples, strict=True))


def test_judges_learn_and_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a recipe that stops before it saved, or saves what cannot be loaded."""
    monkeypatch.setitem(judging.STEPS, "small", {"appearance": 1, "motion": 2})
    monkeypatch.setattr(judging, "BATCHES", {"cpu": 8})
    # What `precompute_decoded` would leave, for which an autoencoder would have to be trained.
    clips = make_batch(sample_scenes(CLIP_SEED, 0, 4), clip_times(TINY.num_frames), (64, 64)).video
    (tmp_path / "encoded").mkdir()
    save_file({"video": ((clips + 1) * 127.5).byte().contiguous()}, tmp_path / "encoded" / "decoded.safetensors")
    judging.train(TINY, tmp_path, "cpu", None)
    loaded = Judges.load(tmp_path)
    video = make_batch(sample_scenes(0, 0, 2), clip_times(5), (64, 64)).video
    assert loaded.motion(video).shape == (2, len(SOLO_ACTIONS))


def tiny_pipeline() -> AlchemistPipeline:
    """Untrained networks of the shipped classes."""
    torch.manual_seed(0)
    words = {"<pad>": 0, "<unk>": 1, "a": 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    image = Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=32, patch_size=16)
    transformer = AlchemistTransformer(
        hidden_size=12, depth=1, num_heads=1, text_dim=8, image_dim=8, in_channels=4, personalization=True
    )
    pipeline = AlchemistPipeline(
        transformer,
        AutoencoderKLCogVideoX(
            latent_channels=4, block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2
        ),
        T5EncoderModel(T5Config(vocab_size=3, d_model=8, d_kv=4, num_heads=1, num_layers=1, d_ff=8)),
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>"),
        Dinov2Model(image),
        size=(64, 64),
        num_frames=5,
        num_steps=1,
        reference_size=32,
        max_text_length=40,
    )
    for network in (pipeline.transformer, pipeline.autoencoder, pipeline.text_encoder, pipeline.image_encoder):
        network.requires_grad_(False).eval()
    return pipeline


def test_evaluation_runs_goes_on_and_fills_the_table(tmp_path: Path, judges: Judges) -> None:
    """Guards against studies that break on a real pipeline, and against measuring again what is measured."""
    judges.appearance.save_pretrained(tmp_path / "appearance")
    judges.motion.save_pretrained(tmp_path / "motion")
    pipe = tiny_pipeline()
    result = evaluate(pipe, TINY, tmp_path, num_samples=2)
    assert len(result["scores"]) == 13 and len(list((tmp_path / "scores").glob("*.png"))) == 13
    assert "identity, held-out concepts, 1 picture" in result["table"] and result["table"] == table(result["scores"])
    for row in result["scores"].values():
        assert all(0 <= row["generated"]["accuracy"][key] <= 1 for key in ("mean", "low", "high"))
    saved = json.loads((tmp_path / "scores.json").read_text())
    del saved["scores"]["text, actions without pictures"]
    (tmp_path / "scores.json").write_text(json.dumps(saved))
    assert evaluate(pipe, TINY, tmp_path, num_samples=2)["scores"] == result["scores"]
