"""The authors' folders and lists: byte for byte."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from video_alchemist.benchmark.layout import tags_json, word_tags, write_layout
from video_alchemist.benchmark.prepare import prepare_shards


@pytest.fixture(scope="module")
def out(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("layout")
    write_layout(tiny_data, folder)
    return folder


def test_lists_are_theirs_byte_for_byte(out):
    """Other teams' tools split lines and evaluate each as a Python dictionary: no newline ends the file."""
    one, pair = (f"msrvtt_personalization_data/{name}/" for name in ("one", "pair"))
    many = f"['{one}dog.frame1.png', '{one}dog.frame2.png', '{one}dog.frame3.png']"
    two = f"{{'dog': ['{pair}dog.frame1.png', '{pair}dog.frame3.png']}}"
    face = f"'{one}dog.face.frame3.png'"
    expected = {
        "subject_mode_videos.txt": "one\npair",
        "subject_mode_prompts.txt": "A dog on the beach\nA robot and a dog",
        "subject_mode_word_tag_single_subject_image.txt":
            f"{{'dog': ['{one}dog.frame2.png']}}\n{{'dog': ['{pair}dog.frame3.png']}}",
        "subject_mode_word_tag_multi_subject_images.txt": f"{{'dog': {many}}}\n{two}",
        "subject_mode_word_tag_multi_subject_images_with_background.txt":
            f"{{'dog': {many}, 'beach': ['{one}background.jpg']}}\n{two}",
        "face_mode_videos.txt": "one",
        "face_mode_prompts.txt": "A dog on the beach",
        "face_mode_word_tag_single_face_crop.txt": f"{{'dog': [{face}]}}",
        "face_mode_word_tag_multi_face_crops.txt": f"{{'dog': ['{one}dog.face.frame1.png', {face}]}}",
    }  # fmt: skip
    assert {path.name: path.read_bytes().decode() for path in out.glob("*.txt")} == expected


def test_sample_folders(out, tiny_data):
    """Every file of the released script's folders, under its name, with the sample's pixels."""
    folder = out / "msrvtt_personalization_data" / "one"
    assert {path.name for path in folder.iterdir()} == {
        "video.mp4", "frame1.jpg", "frame2.jpg", "frame3.jpg", "summary_text.txt", "word_tags.json", "background.jpg",
        "dog.frame1.png", "dog.frame2.png", "dog.frame3.png", "dog.face.frame1.png", "dog.face.frame3.png",
    }  # fmt: skip
    assert (folder / "video.mp4").read_bytes() == tiny_data.member("one", "video")
    assert (folder / "summary_text.txt").read_bytes() == b"A dog on the beach"
    picture = np.asarray(Image.open(folder / "dog.frame2.png"))
    assert np.array_equal(picture, tiny_data["one"].targets[0].pictures[1])
    face = np.asarray(Image.open(folder / "dog.face.frame1.png"))
    assert face.shape == (8, 12, 4) and face[..., 3].min() == 0 and face[..., 3].max() == 255  # masked, too
    assert not (out / "msrvtt_personalization_data" / "pair" / "background.jpg").exists()


def test_word_tags(out, tiny_data):
    """Indented by 4 with lists on one line, other scripts' characters escaped, as json.dumps does."""
    tags = {"subject": ["man"], "object": ["blue cap", "caffè"], "background": [], "subject_with_face": ["man"]}
    assert tags_json(tags) == (
        '{\n    "subject": ["man"],\n    "object": ["blue cap", "caff\\u00e8"],\n    "background": [],\n'
        '    "subject_with_face": ["man"]\n}'
    )
    assert json.loads(tags_json(tags)) == tags
    assert word_tags(tiny_data.record("trio-plain")) == {
        "subject": ["dog", "cat"], "object": ["robot"], "background": ["beach"], "subject_with_face": ["dog", "cat"],
    }  # fmt: skip
    assert word_tags({"word_tags": tags}) == tags


def test_what_the_lists_cannot_hold(tiny, tiny_data, out, tmp_path):
    """A prompt of two lines would shift all that follow; a folder that is there is not deleted."""
    clip = tiny.clip("a", "A blue/red hat\non a dog", {"dog": "subject", "blue/red hat": "object"})
    tiny.write_shards(tmp_path / "shards", [clip])
    data = prepare_shards(tmp_path / "shards", tmp_path)
    with pytest.raises(ValueError, match="the prompt of a has several lines"):
        write_layout(data, tmp_path / "out")
    assert (tmp_path / "out/msrvtt_personalization_data/a/blue_red_hat.frame1.png").is_file()
    with pytest.raises(ValueError, match="exists; expected a new folder"):
        write_layout(tiny_data, out)
