"""What the contact sheets draw is where it was found, in the colour of its word."""

import base64
import io
import re

import numpy as np
from PIL import Image

from video_alchemist.curation.report_sheets import (
    HUES,
    Kept,
    coloured_caption,
    hue,
    kept_card,
    mask_png,
    reject_card,
    search_text,
    small_jpeg,
)
from video_alchemist.curation.report_svg import join


def jpeg(width, height):
    stream = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(stream, "JPEG")
    return stream.getvalue()


def opened(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def record(**changes):
    return {
        "id": "v-0-2000",
        "caption": "A fox & a <cup>",
        "entities": [
            {"word": "fox", "kind": "subject", "span": [2, 5], "occurrence": 0},
            {"word": "<cup>", "kind": "object", "span": [10, 15], "occurrence": 0},
        ],
        "references": [
            {
                "entity": 1, "frame": 1, "box": [1200.5, 10, 1800, 20], "detection_score": 0.5, "mask_score": 0.75,
                "mask": {"size": [1080, 1920], "counts": [1080 * 1920]},
                "face": [1201, 11, 1300, 19], "face_score": 1.0,
            }
        ],
        "fps": 24.0, "num_frames": 48, "size": [1920, 1080], "provenance": {"license": "CC0"},
    } | changes  # fmt: skip


def test_mask_picture_is_thin_inside_full_at_the_outline_and_clear_outside():
    """Guards against a mask that hides what it covers."""
    mask = np.zeros((40, 80), bool)
    mask[10:30, 20:60] = True
    picture = np.asarray(opened(mask_png(mask, "#ff6b3d")).convert("RGBA"))
    assert picture.shape == (160, 320, 4)
    assert picture[5, 5, 3] == 0
    assert picture[80, 160].tolist() == [0xFF, 0x6B, 0x3D, 70]
    assert (picture[..., 3] == 255).any(axis=0)[85:235].all()


def test_entity_words_take_the_colour_of_their_row():
    """Guards against colours by order in the caption, where masks go by the order of the entities."""
    entities = [{"word": "cup", "kind": "object", "span": [8, 11]}, {"word": "fox", "kind": "subject", "span": [2, 5]}]
    assert join(coloured_caption("A fox & cup", entities)) == (
        'A <mark class="e1" title="subject">fox</mark> &amp; <mark class="e0" title="object">cup</mark>'
    )
    nested = [{"word": "hot dog", "kind": "object", "span": [2, 9]}, {"word": "dog", "kind": "subject", "span": [6, 9]}]
    assert re.sub("<.*?>", "", join(coloured_caption("a hot dog", nested))) == "a hot dog"


def test_card_draws_a_box_in_its_frame_only():
    """Guards against pixels written as "1,200.5", and against what was found in one frame drawn in all."""
    card = kept_card(Kept(record(), (jpeg(1920, 1080),) * 3, None))
    first, second, third = card.split("<svg")[1:]
    assert "rect" not in first and "rect" not in third
    assert '<rect x="1200.5" y="10" width="599.5" height="10" class="box e1"></rect>' in second
    assert 'class="face e1"' in second
    assert "fox 0/3" in card and "&lt;cup&gt; 1/3 · box 0.50 · mask 0.75 · face 1.00" in card
    assert "2.0 s · 1920×1080 · 24 fps · CC0" in card
    assert "no background" in card and "<cup>" not in card


def test_colours_suffice_for_any_number_of_entities():
    """Guards against an index past the last colour."""
    assert [hue(row) for row in (0, len(HUES) - 1, len(HUES))] == ["e0", "e7", "e0"]


def test_pictures_are_shrunk_not_grown():
    """Guards against a page of hundreds of MB, and against blurred little pictures."""
    assert opened(small_jpeg(jpeg(1920, 1080))).size == (320, 180)
    small = jpeg(64, 64)
    assert base64.b64decode(small_jpeg(small).partition(",")[2]) == small


def test_search_text_is_words_that_a_space_precedes():
    """Guards against "man" that finds "woman", and against words that punctuation hides."""
    assert search_text("clip_07-0", "A Fox’s “Cup”, 狐狸!") == " clip 07 0 a fox s cup 狐狸 "


def test_reject_card_shows_text_as_text():
    """Guards against details and captions that run as script; a line without a picture says so."""
    line = {"id": "v", "path": 'a "b".mp4', "step": "probe", "code": "too_short", "detail": "<i>", "transient": False}
    card = reject_card(line)
    assert "no picture" in card and "&lt;i&gt;" in card and 'title="a &quot;b&quot;.mp4"' in card
    assert "“&lt;b&gt;”" in reject_card(line | {"caption": "<b>", "thumbnail": "AAAA"})
