"""The recipes that make the shipped weights, end to end on a tiny scale, and their pieces."""

import itertools
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from video_alchemist import AlchemistPipeline
from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.captions import caption
from video_alchemist.emojiworld.files import example, numbered_scene
from video_alchemist.emojiworld.recipes import (
    ablation,
    autoencoder,
    bundle,
    image_encoder,
    judges,
    studies,
    text_encoder,
    transformer,
)
from video_alchemist.emojiworld.recipes.command import held_out_conditions, parse_time
from video_alchemist.emojiworld.recipes.encoded import CLIP_SEED, EncodedWorld, Encoders
from video_alchemist.emojiworld.recipes.fit import fit
from video_alchemist.emojiworld.recipes.scale import SMALL
from video_alchemist.emojiworld.recipes.world import (
    clip_times,
    make_batch,
    random_times,
    render_references,
    sample_scenes,
)
from video_alchemist.emojiworld.scenes import ACTIONS
from video_alchemist.model.condition import place_references
from video_alchemist.sampling.pipeline import SHIPPED

TINY = replace(
    SMALL,
    size=(32, 32),
    num_frames=9,
    autoencoder={"block_out_channels": (16, 32, 64), "decoder_block_out_channels": (32, 64)},
    text_encoder={"d_model": 16, "d_kv": 8, "num_heads": 2, "num_layers": 1, "d_ff": 16, "vocab_size": 600},
    image_encoder={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 16},
    transformer={"hidden_size": 16, "depth": 1, "num_heads": 1, "patch_size": (1, 1, 1), "place_grid": (2, 2)},
    reference_size=32,
    autoencoder_steps=1,
    text_steps=1,
    image_steps=1,
    image_scenes=8,
    clip_scenes=4,
    stage_one_steps=1,
    stage_two_new_steps=1,
    stage_two_image_steps=1,
    stage_two_clip_steps=1,
    image_batch=4,
    clip_batch=2,
    encode_batch=4,
    num_steps=2,
)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(autoencoder, "VARIANCE_CLIPS", 16)
    monkeypatch.setattr(text_encoder, "TOKENIZER_CAPTIONS", 500)
    autoencoder.train(TINY, work, "cpu", None)
    text_encoder.train(TINY, work, "cpu", None)
    image_encoder.train(TINY, work, "cpu", None)
    transformer.train(TINY, work, "cpu", None)
    monkeypatch.undo()
    return work


def test_decoded_clips_keep_their_actions(work):
    """A judge taught with one clip's motion and another's action learns nothing: scenes and latents share numbers."""
    decoded = load_file(judges.precompute_decoded(TINY, work, "cpu"))["video"]
    scenes = sample_scenes(CLIP_SEED, 0, len(decoded))
    assert decoded.shape == (TINY.clip_scenes, 3, TINY.num_frames, judges.MOTION_SIZE, judges.MOTION_SIZE)
    z0 = EncodedWorld(work / "encoded" / "clips", 1, 0, references=False).tensors["z0"]
    again = make_batch(scenes, clip_times(TINY.num_frames), TINY.size).video
    torch.testing.assert_close(Encoders(TINY, work, "cpu").autoencoder.encode(again), z0.float(), atol=0.02, rtol=0.02)
    few = next(step for step in range(2) if any(len(scene.actors) == 1 + step for scene in scenes))
    video, actions = judges.decoded_batch(few, 3, decoded, scenes)
    assert len(video) == len(actions) and video.abs().max() <= 1


def test_some_pictures_of_people_show_their_faces_alone():
    """Without face crops in training, `--face` gives the model a picture of a kind it has never seen."""
    known = load_assets().identities
    scenes = [s for s in sample_scenes(5, 0, 30) if any(known[a.identity].face_box is not None for a in s.actors)]
    whole = render_references(scenes, load_assets(), (32, 32), 32, "cpu").pictures
    faces, valid, *_ = render_references(scenes, load_assets(), (32, 32), 32, "cpu", face_share=1.0)
    changed = (whole != faces).flatten(3).any(dim=3)
    assert changed.any() and not (changed & ~valid).any()
    assert (faces[changed][:, 3] == 1).float().mean() > 0.8  # what stands around a face belongs to its picture
    assert whole[valid][:, 3].mean() < 0.9


def test_recipes_make_a_bundle_that_generates(work, tmp_path):
    """`make weights` in small: all stages, the bundle, and a video from it, with a reference."""
    folder = bundle.write(TINY, work, tmp_path / "bundle")
    pipeline = AlchemistPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    clip = example(numbered_scene(load_assets(), 1, 3, "train"), load_assets(), "3", 3, 32)
    video = pipeline(clip.caption, clip.references[:1], seed=0).frames[0]
    assert video.shape == (9, 32, 32, 3) and video.dtype == np.uint8
    assert pipeline.transformer.config.personalization


def test_ablation_trains_the_same_backbone_with_and_without_words(work, tmp_path, monkeypatch):
    """Variants that differ in anything but the word tokens would say nothing of them."""
    folder = bundle.write(TINY, work, tmp_path / "bundle")
    monkeypatch.setitem(ablation.SHIPPED, "emojiworld", folder)
    monkeypatch.setattr(ablation.Judges, "load", lambda *_: None)
    monkeypatch.setattr(studies, "binding", lambda *_: studies.Study("binding", [], dict, 0.5))
    shown = []

    def score(pipeline, study, scale, num_steps, sheets):
        shown.append(pipeline.transformer.config)
        return {"generated": {"accuracy": {"mean": 0.5 + 0.1 * len(shown)}}}

    monkeypatch.setattr(ablation.scores, "score", score)
    result = ablation.run(TINY, work, "cpu", None, 4)
    assert [config["word_binding"] for config in shown] == [True, False]
    assert all(config["personalization"] for config in shown)
    assert [row["mean"] for row in result.values()] == [0.6, 0.7]

    shipped = AlchemistPipeline.from_pretrained(folder, torch_dtype=torch.float32).transformer
    torch.nn.init.normal_(shipped.final_layer.linear.weight)
    plain = ablation.without_words(shipped)
    z, t = torch.randn(2, TINY.latent_channels, 3, 4, 4), torch.tensor([0.3, 0.9])
    images, words = torch.randn(2, 2, 4, 16), (2, 2, 64)
    blank = shipped(z, t, None, None, *shipped.bind(images, torch.zeros(words)))
    torch.testing.assert_close(plain(z, t, None, None, *plain.bind(images)), blank)
    told = shipped(z, t, None, None, *shipped.bind(images, torch.randn(words)))
    assert not torch.allclose(told, blank)


def test_encoded_world_is_a_function_of_the_step(work):
    """Resuming a run needs no state only if a step's batch never depends on the steps before."""
    source, again = (EncodedWorld(work / "encoded" / "pictures", 4, seed=0, references=True) for _ in range(2))
    source.batch(0)
    first, second = source.batch(5), again.batch(5)
    assert torch.equal(first.z0, second.z0) and torch.equal(first.word_index, second.word_index)
    assert not torch.equal(first.z0, source.batch(6).z0)
    assert first.image_mask.any(dim=1).all() and first.image_mask.shape[1] <= 6
    assert (first.word_index[first.image_mask][:, 0] >= 0).all()


def test_a_world_encoded_by_an_earlier_version_is_named(work, tmp_path):
    """Guards against a bare KeyError from a working folder of before."""
    shard = load_file(work / "encoded" / "pictures" / "00000.safetensors")
    save_file({name: tensor for name, tensor in shard.items() if name != "origin"}, tmp_path / "00000.safetensors")
    with pytest.raises(ValueError, match=f"{tmp_path} was encoded by an earlier version; delete it"):
        EncodedWorld(tmp_path, 4, seed=0, references=True).batch(0)


def test_numbers_of_pictures_do_not_stand_in_for_words(work):
    """With pictures in the order of their words, a transformer without word tokens would learn to bind by number."""
    source, rising = EncodedWorld(work / "encoded" / "pictures", 8, seed=1, references=True), []
    for step in range(20):
        batch = source.batch(step)
        for words, mask in zip(batch.word_index[..., 0], batch.image_mask, strict=True):
            steps = words[mask].diff()
            rising += (steps[steps != 0] > 0).tolist()
    assert len(rising) > 30 and 0.3 < np.mean(rising) < 0.7


def test_image_encoder_starts_able_to_tell_its_pixels():
    """From a random start its tokens were a blur after all the time that two cores have, and so was every video."""
    from transformers import Dinov2Config, Dinov2Model

    encoder = Dinov2Model(Dinov2Config(image_size=16, patch_size=4, hidden_size=48, num_attention_heads=2))
    pixels = torch.nn.Linear(48, 48)
    pictures = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    image_encoder.start_well(encoder, pixels, pictures)
    embedded = encoder.embeddings.patch_embeddings(pictures * 2 - 1)
    shown = rearrange(pixels(embedded), "n (h w) (c p q) -> n c (h p) (w q)", h=4, c=3, p=4)
    torch.testing.assert_close(shown, pictures * 2 - 1, atol=1e-3, rtol=0)
    places = encoder.embeddings.position_embeddings[0, 1:]
    assert torch.cdist(places, places).fill_diagonal_(9).min() > 1


def test_fit_resumes_bit_for_bit(tmp_path, monkeypatch):
    """A slice boundary must not show in the weights."""

    def model_and_loss():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        return model, lambda step: model(torch.randn(4, 3)).square().mean()

    whole, loss = model_and_loss()
    assert fit("tiny", whole, loss, 8, 1e-2, tmp_path / "whole")
    ticks = itertools.count()
    monkeypatch.setattr("video_alchemist.emojiworld.recipes.fit.time.monotonic", lambda: float(next(ticks)))
    sliced, loss = model_and_loss()
    assert not fit("tiny", sliced, loss, 8, 1e-2, tmp_path / "sliced", time_limit=3.5)
    assert not torch.equal(sliced.weight, whole.weight)
    resumed, loss = model_and_loss()
    assert fit("tiny", resumed, loss, 8, 1e-2, tmp_path / "sliced")
    assert torch.equal(resumed.weight, whole.weight)


def test_world_batches_are_a_function_of_seed_and_index():
    scenes = sample_scenes(1, 4, 2)
    assert sample_scenes(1, 5, 1) == scenes[1:]
    batch = make_batch(scenes, clip_times(3), (32, 32), 32)
    assert batch.video.shape == (2, 3, 3, 32, 32) and batch.video.abs().max() <= 1
    assert batch.references.pictures.shape[3:] == (4, 32, 32)
    assert batch.references.valid.any(dim=-1)[:, 0].all()


def test_close_ups_show_an_actor_large_and_nothing_beyond_the_frame():
    """Windows that leave the frame teach black bars; references of an actor that a window cut off teach inventing it;
    and windows that depend on the batch make another world of every batch size."""
    scenes, times = sample_scenes(20, 0, 12), random_times(22, 0, 12)
    usual, close = (make_batch(scenes, times, (64, 64), 32, close_ups=share) for share in (0.0, 1.0))
    corners = close.windows[:, :2] @ torch.tensor([[-1.0, 1.0], [-1.0, 1.0], [1.0, 1.0]])
    assert corners.abs().max() <= 1 + 1e-5
    assert torch.equal(usual.windows, torch.eye(3).expand(12, 3, 3))
    largest = [batch.masks[:, :, 0].float().mean(dim=(-1, -2)).amax(dim=1) for batch in (usual, close)]
    assert largest[1].mean() > 1.5 * largest[0].mean()
    assert largest[1][largest[0] > 0.02].min() > 0.05  # one that flips may be seen edge-on
    gone = close.masks[:, :, 0].flatten(2).sum(dim=2) == 0
    assert not close.references.valid[gone].any()
    some = make_batch(scenes[3:7], times[3:7], (64, 64), 32, close_ups=1.0)
    torch.testing.assert_close(some.video, close.video[3:7])
    shares = make_batch(scenes, times, (64, 64), 32, close_ups=0.5).windows
    assert 0 < (shares[:, 0, 0] < 1).sum() < 12


def test_words_are_told_the_roles_of_their_own_actors():
    # Labels shifted by one entity would teach the text encoder to bind every action to the wrong word.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(SHIPPED["emojiworld"] / "tokenizer")
    scenes = sample_scenes(6, 0, 40)
    texts = text_encoder.world_captions(6, 0, 40)
    inputs = tokenizer(texts, padding=True, return_offsets_mapping=True)
    actions, orders = text_encoder.roles_told(scenes, inputs["offset_mapping"])
    assert actions.shape == orders.shape == (40, len(inputs["input_ids"][0]))
    for row, scene in enumerate(scenes):
        said = {}
        for place, action, order in zip(inputs["offset_mapping"][row], actions[row], orders[row], strict=True):
            if action != text_encoder.UNTOLD:
                role = (int(order), ACTIONS[action])
                said[role] = said.get(role, "") + texts[row][slice(*place)].strip().lower()
            else:
                assert order == text_encoder.UNTOLD
        named = sorted(scene.actors, key=lambda actor: texts[row].lower().index(actor.word))
        assert said == {(i, actor.action): actor.word.replace(" ", "") for i, actor in enumerate(named)}


def test_the_shipped_words_tell_what_their_entity_does_and_in_which_order_it_is_named():
    # Binding hands on an entity's own tokens (§3.2): an encoder that fills masked words alone told a third of actions,
    # and orders hardly better than chance.
    encoder = Encoders(SMALL, SHIPPED["emojiworld"], "cpu").text
    scenes = sample_scenes(8, 0, 400, num_actors=2)
    encoding = encoder([caption(scene, load_assets())[0] for scene in scenes])
    for told in text_encoder.roles_told(scenes, encoding.offsets):
        tokens, labels = encoding.tokens[told != text_encoder.UNTOLD], told[told != text_encoder.UNTOLD]
        features = torch.cat([tokens - tokens.mean(dim=0), torch.ones(len(tokens), 1)], dim=1)
        seen, unseen = features[: len(features) // 2], features[len(features) // 2 :]
        answers = F.one_hot(labels[: len(seen)], len(ACTIONS)).float()
        probe = torch.linalg.solve(seen.T @ seen + 0.1 * torch.eye(seen.shape[1]), seen.T @ answers)
        assert ((unseen @ probe).argmax(dim=1) == labels[len(seen) :]).float().mean() > 0.9


def test_the_shipped_words_tell_that_who_does_nothing_waits():
    # As the demo's robot: without an action it got tokens that the transformer had never seen, and mixed with the dog.
    encoder = Encoders(SMALL, SHIPPED["emojiworld"], "cpu").text
    encoding = encoder([f"A dog jumps beside a robot{waits} on the beach" for waits in ("", " that waits")])
    silent, spoken = encoding.tokens[0, :6], encoding.tokens[1, :6]  # up to "robot"
    assert (silent - spoken).square().mean() < 0.05 * spoken.var()


def test_tokenizer_knows_the_worlds_words(work):
    """Words in pieces make captions long, and cut off what they end with."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
    text = "An animal jumps beside a dog. Ünïcode 🦊!"
    inputs = tokenizer(text, return_offsets_mapping=True)
    assert tokenizer.unk_token_id not in inputs["input_ids"]
    assert "Ġanimal" in tokenizer.convert_ids_to_tokens(inputs["input_ids"])


def test_times():
    assert [parse_time(text) for text in ("90s", "9m", "1.5h", "30")] == [90, 540, 5400, 30]
    with pytest.raises(ValueError, match="for example 9m"):
        parse_time("nine")


def test_contact_sheets_are_of_held_out_scenes():
    """Guards against sheets that show what was trained on, or pictures that no word of the caption binds."""
    conditions = held_out_conditions()
    assert len(conditions) == 3 and all(condition.references for condition in conditions)
    for condition in conditions:
        assert len(place_references(condition)) == len(condition.references)


def test_recipes_go_on_from_what_ships(tmp_path):
    """Guards against steps that cannot be made from a fresh clone: what ships, trained on."""
    work = tmp_path / "work"
    work.mkdir()
    bundle.unpack(SMALL, work)
    begun, config = transformer.beginning(SMALL, work)
    assert [stage.name for stage in config.stages] == ["II-clips"] and begun.config["personalization"]
    sizes = {"clip_scenes": 2, "clip_batch": 2, "stage_two_clip_steps": 1}
    assert transformer.train(replace(SMALL, **sizes), work, "cpu", None).step == 1
    assert bundle.assemble(SMALL, work).transformer.config["depth"] == SMALL.transformer["depth"]
    with pytest.raises(ValueError, match="has its own autoencoder; expected a folder without networks"):
        bundle.unpack(SMALL, work)
    with pytest.raises(ValueError, match="has another autoencoder than ships"):
        bundle.unpack(TINY, tmp_path / "other")


def test_a_full_disk_leaves_nothing_to_go_on_from(tmp_path, monkeypatch):
    """Guards against half an autoencoder that the next recipe takes for a whole one and no second try replaces."""

    def full(source, target, *_, **__):
        raise shutil.Error([(str(source), str(target), "No space left on device")])

    with monkeypatch.context() as patched:
        patched.setattr(bundle.shutil, "copytree", full)
        with pytest.raises(OSError, match="No space left on device"):
            bundle.unpack(SMALL, tmp_path)
    assert not list(tmp_path.iterdir())
    bundle.unpack(SMALL, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(bundle.PARTS)


def test_clips_teach_where_to_look_now_and_then(work):
    """Guards against ranks of which one teaches and the other waits: all batches of a step do, or none."""
    world = EncodedWorld(work / "encoded" / "clips", 2, 2, references=True, micro_batches=2, localization_every=3)
    assert [world.batch(number).origin is not None for number in range(8)] == [True] * 2 + [False] * 4 + [True] * 2


def test_actors_count_more_than_scenery(work):
    """Guards against weights that lie beside the actors: they are as large as the actors are in the rendered clip."""
    world = EncodedWorld(work / "encoded" / "clips", 4, 2, references=True, subject_weight=3.0)
    shares = world._subjects(torch.arange(4))  # (B, f, h, w)
    clips = make_batch(sample_scenes(CLIP_SEED, 0, 4), clip_times(TINY.num_frames), TINY.size, TINY.reference_size)
    shown = clips.masks.any(dim=1)[:, 1:].float().mean(dim=(1, 2, 3))  # (B,); the first latent is of one frame
    torch.testing.assert_close(shares[:, 1:].mean(dim=(1, 2, 3)), shown, atol=0.03, rtol=0.0)
    assert shares.max() > 0.7 and shares.min() == 0
    weight = world.batch(0).weight
    assert weight.shape == shares.shape
    assert 1 <= weight.min() < 1.5 and 3 < weight.max() <= 4
    assert EncodedWorld(work / "encoded" / "clips", 4, 2, references=True).batch(0).weight is None


def test_emphasised_actions_are_drawn_more_often(work):
    """Guards against chances given to other clips than those that show the action: then none is learned better."""
    folder = work / "encoded" / "clips"
    world = EncodedWorld(folder, 4, 2, references=True, emphasis={"sways": 9.0})
    scenes = sample_scenes(CLIP_SEED, 0, len(world.chances))
    swaying = np.array([any(actor.action == "sways" for actor in scene.actors) for scene in scenes])
    assert 0 < swaying.sum() < len(scenes)
    assert world.chances[swaying].min() > 3 * world.chances[~swaying].max()
    assert world.chances.sum() == pytest.approx(1)
    assert np.ptp(EncodedWorld(folder, 4, 2, references=True).chances) == 0
