"""Reading what users give as a reference, and bringing it to the image encoder's square."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from video_alchemist.dataset.picture import compose, fit_square, paste_on, read_picture
from video_alchemist.records import Reference

RED = np.full((4, 6, 3), (255, 0, 0), dtype=np.uint8)
LEFT_HALF = np.repeat([[1, 1, 1, 0, 0, 0]], 4, axis=0)


def test_file_pil_and_array_are_the_same(tmp_path: Path) -> None:
    """Guards against one way in that swaps channels or axes."""
    array = np.random.default_rng(0).integers(0, 256, (4, 6, 4), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "dog.png")
    given = [array, Image.fromarray(array), tmp_path / "dog.png", str(tmp_path / "dog.png")]
    pictures = [read_picture(Reference("dog", image)) for image in given]
    assert all(torch.equal(picture, pictures[0]) for picture in pictures)
    assert pictures[0].shape == (4, 4, 6)
    assert torch.equal(pictures[0][:, 1, 2], torch.from_numpy(array[1, 2]).float() / 255)


def test_mask_overrides_alpha(tmp_path: Path) -> None:
    """Guards against masks of value 1 read as nearly transparent, and against masks that are ignored."""
    Image.fromarray((LEFT_HALF * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    for mask in (LEFT_HALF, LEFT_HALF.astype(bool), tmp_path / "mask.png", Image.fromarray(LEFT_HALF.astype(np.uint8))):
        alpha = read_picture(Reference("dog", RED, mask=mask))[3]
        assert torch.equal(alpha, torch.from_numpy(LEFT_HALF).float())
    assert (read_picture(Reference("dog", RED))[3] == 1).all()


def test_cut_out_as_mask() -> None:
    """Guards against a transparent cut-out given as mask being read by its brightness."""
    cut_out = np.zeros((4, 6, 4), dtype=np.uint8)
    cut_out[..., 3] = LEFT_HALF * 255
    alpha = read_picture(Reference("dog", RED, mask=Image.fromarray(cut_out)))[3]
    assert torch.equal(alpha, torch.from_numpy(LEFT_HALF).float())


def test_exif_orientation(tmp_path: Path) -> None:
    """Guards against a phone's portrait lying on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be turned clockwise
    Image.fromarray(RED).save(tmp_path / "phone.jpg", exif=exif)
    assert read_picture(Reference("dog", tmp_path / "phone.jpg")).shape == (4, 6, 4)


def test_unreadable_pictures_are_named(tmp_path: Path) -> None:
    """Guards against Pillow's bare errors, which name neither the reference nor what to do."""
    Image.fromarray(RED).save(tmp_path / "dog.png")
    with pytest.raises(ValueError, match=r"reference 'dog'.*no such picture.*did you mean '.*dog\.png'\?"):
        read_picture(Reference("dog", tmp_path / "dgo.png"))
    (tmp_path / "notes.png").write_text("a text renamed to .png")
    with pytest.raises(ValueError, match=r"notes\.png' is not an image"):
        read_picture(Reference("dog", tmp_path / "notes.png"))
    (tmp_path / "half.png").write_bytes((tmp_path / "dog.png").read_bytes()[:50])
    with pytest.raises(ValueError, match=r"half\.png' is not an image"):
        read_picture(Reference("dog", tmp_path / "half.png"))
    with pytest.raises(ValueError, match="is not a file"):
        read_picture(Reference("dog", tmp_path))


def test_wrong_arrays_and_masks_are_named() -> None:
    """Guards against float arrays cut to 0 and 1, empty masks, and masks silently resized."""
    with pytest.raises(ValueError, match=r"array \(4, 6, 3\) of float64; expected an array \(H, W, 3 or 4\) of uint8"):
        read_picture(Reference("dog", RED / 255))
    with pytest.raises(ValueError, match="a list; expected a path"):
        read_picture(Reference("dog", [1, 2]))
    with pytest.raises(ValueError, match="mask is empty"):
        read_picture(Reference("dog", RED, mask=np.zeros((4, 6))))
    with pytest.raises(ValueError, match="fully transparent"):
        read_picture(Reference("dog", np.zeros((4, 6, 4), dtype=np.uint8)))
    with pytest.raises(ValueError, match="mask is 3x2, but its picture is 6x4"):
        read_picture(Reference("dog", RED, mask=np.ones((2, 3))))


def test_compose_crops_pads_and_fills() -> None:
    """Guards against segments that keep their place and size in the frame, which leaks both to the model."""
    rgba = torch.zeros(4, 20, 30)
    rgba[0], rgba[3, 5:15, 20:24] = 1, 1  # a red bar of 10 x 4 px far from the centre
    out = compose(rgba, 10)
    assert out.shape == (3, 10, 10)
    assert torch.allclose(out[:, 5, 5], torch.tensor([1.0, 0.0, 0.0]))
    assert torch.allclose(out[1].mean(), torch.tensor(0.6))  # white on both sides of the bar
    assert torch.allclose(compose(rgba, 10, background=(0, 0, 1))[:, 0, 0], torch.tensor([0.0, 0.0, 1.0]))


def test_resizing_keeps_edges_clean() -> None:
    """Guards against the colours under the mask bleeding into the segment's edge."""
    rgba = torch.zeros(4, 17, 17)
    rgba[1] = 1  # green everywhere, hidden
    rgba[:, 3:14, 3:14] = torch.tensor([1.0, 0.0, 0.0, 1.0]).view(4, 1, 1)
    rgba[3, 3, 3:9] = 0
    square = fit_square(rgba, 8)
    assert float(square[1].max()) < 1e-3


def test_paste_on_another_picture() -> None:
    """Guards against swapped layers: opaque shows the segment, transparent the ground, half-way the mean."""
    rgba = torch.tensor([1.0, 1.0, 1.0, 0.0]).view(4, 1, 1).repeat(1, 1, 3)
    rgba[3, 0] = torch.tensor([1.0, 0.5, 0.0])
    assert paste_on(rgba, torch.zeros(3, 1, 3))[0, 0].tolist() == [1.0, 0.5, 0.0]
    assert paste_on(rgba.expand(5, -1, -1, -1), torch.zeros(5, 3, 1, 3)).shape == (5, 3, 1, 3)
