"""The EmojiWorld asset pack: what it holds, what it holds out, and its recolouring."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from video_alchemist.emojiworld.assets import ASSET_DIR, HUES, load_assets, recolour, tint
from video_alchemist.emojiworld.make_assets import face_box, longest_run, person_names, render, slug

ARTISTS = {"noto", "noto-v1", "fluent-emoji", "fluent-emoji-flat", "twemoji", "emojione", "fxemoji"}


def test_held_out_concepts_are_in_no_training_sprite() -> None:
    """Guards against an "unseen" concept that another artist's sprite, or another skin tone, leaks into training."""
    identities = load_assets().identities
    concepts = {split: {i.concept for i in identities if i.split == split} for split in ("train", "test_concept")}
    assert not concepts["train"] & concepts["test_concept"]
    named = sorted({i.concept for i in identities if i.kind != "scenery"})
    assert concepts["test_concept"] <= set(named[9::10])
    assert {i.split for i in identities if i.artist == "fxemoji"} == {"test_artist"}
    assert all(i.split != "test_artist" for i in identities if i.artist != "fxemoji")


def test_every_identity_has_a_visible_sprite() -> None:
    """Guards against blank tiles and atlases cut with the wrong grid or order."""
    assets = load_assets()
    assert assets.sprites.shape == (len(assets.identities), 4, 64, 64)
    assert assets.sprites.dtype == torch.uint8
    assert ((assets.sprites[:, 3] > 127).float().mean((1, 2)) >= 0.04).all()
    assert [i.index for i in assets.identities] == list(range(len(assets.identities)))


def test_pack_is_rich_enough() -> None:
    """Guards against a name mapping that silently loses most of an artist, a kind or the styles of one concept."""
    identities = load_assets().identities
    per_artist = Counter(i.artist for i in identities)
    assert set(per_artist) == ARTISTS and min(per_artist.values()) > 300
    assert len({i.concept for i in identities if i.kind == "subject"}) > 150
    assert len({i.concept for i in identities if i.kind == "object"}) > 300
    assert len({i.concept for i in identities if i.kind == "scenery"}) > 30
    assert {i.artist for i in identities if i.concept == "fox"} == ARTISTS
    assert sum(path.stat().st_size for path in ASSET_DIR.iterdir()) < 12_000_000


def test_concepts_are_plain_words_with_known_hypernyms() -> None:
    """Guards against slugs, tones or genders in words that captions will use."""
    for identity in load_assets().identities:
        assert identity.concept == identity.concept.lower().strip()
        assert "skin" not in identity.concept and "_" not in identity.concept
        assert identity.broader in {"animal", "creature", "person", "toy", "vehicle", "thing", "plant", "food"}
        assert identity.kind in {"subject", "object", "scenery"}


def test_heads_alone_have_faces_down_to_the_chin() -> None:
    """Guards against boxes guessed from a head's outline, which end above the mouth: no detector could learn both."""
    heads = [i for i in load_assets().identities if i.artist == "fxemoji" and i.face_box and i.concept != "santa"]
    assert len(heads) == 12
    assert all(identity.face_box and identity.face_box[3] >= 0.85 for identity in heads)


def test_faces_have_boxes_inside_the_sprite() -> None:
    """Guards against face boxes that are missing, empty or off the tile."""
    faces = [i for i in load_assets().identities if i.has_face]
    assert {"man", "woman", "firefighter"} <= {i.concept for i in faces}
    for identity in load_assets().identities:
        assert (identity.face_box is not None) == identity.has_face
        if identity.face_box:
            x0, y0, x1, y1 = identity.face_box
            assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1


def test_attribution_names_every_artist_and_the_changes() -> None:
    """Guards against shipping CC BY and Apache work without the notice it asks for."""
    text = (ASSET_DIR / "ATTRIBUTION.md").read_text()
    assert all(f"| {artist} |" in text for artist in ARTISTS)
    assert "Changes made" in text and "CC BY 4.0" in text


@pytest.mark.parametrize("name", ["red", "green", "blue"])
def test_tint_makes_any_sprite_that_colour_and_keeps_alpha(name: str) -> None:
    """Guards against "a blue fox" that stays orange, a black bear that stays black, or cut-out holes being filled."""
    assets = load_assets()
    chosen = [next(i.index for i in assets.identities if i.concept == c) for c in ("fox", "gorilla", "ghost")]
    sprites = assets.sprites[chosen].float() / 255
    tinted = tint(sprites, torch.tensor([HUES[name]]).expand(3, 3), 0.85)
    assert torch.equal(tinted[:, 3], sprites[:, 3])
    weight = sprites[:, 3:]
    mean = (tinted[:, :3] * weight).sum((2, 3)) / weight.sum((2, 3))  # (3,3)
    assert (mean.argmax(1) == ["red", "green", "blue"].index(name)).all()


def test_recolour_identity_and_greyscale() -> None:
    """Guards against a wrong colour matrix: no change must be no change, and no saturation must be grey."""
    sprites = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    zero, one = torch.zeros(2), torch.ones(2)
    torch.testing.assert_close(recolour(sprites, zero, one, one), sprites, atol=1e-4, rtol=0)
    torch.testing.assert_close(recolour(sprites, one * 2 * math.pi, one, one), sprites, atol=1e-4, rtol=0)
    grey = recolour(sprites, one, zero, one)
    assert (grey[:, 0] - grey[:, 2]).abs().max() < 0.01
    assert torch.equal(grey[:, 3], sprites[:, 3])


def test_builder_parts() -> None:
    """Guards against missed names (tone before or after hair) and faces that include the hands."""
    assert slug("Mrs. Claus") == "mrs-claus"
    names = person_names("woman", "bald", "dark")
    assert "woman-dark-skin-tone-bald" in names and "woman-bald-dark" in names
    assert longest_run(np.array([0, 9, 1, 8, 9, 7, 0, 9])) == (3, 6)
    skin = np.zeros((64, 64), bool)
    skin[8:40, 16:48] = True
    skin[50:54, 0:6] = True  # a hand
    assert face_box(np.full((64, 64, 4), 255, np.uint8), skin) == (0.25, 0.125, 0.75, 0.625)


def test_render_centres_icons_that_are_not_square() -> None:
    """Guards against stretched or shifted sprites."""
    pytest.importorskip("resvg_py")
    tile = render('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 1"><path d="M0 0h2v1h-2z"/></svg>')
    assert tile.shape == (64, 64, 4) and (tile[..., 3] > 0).mean() == 0.5 and tile[32, 0, 3] == 255
