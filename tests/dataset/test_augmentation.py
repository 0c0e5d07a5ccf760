"""Table 4's rows: each one's known effect on a known picture, and the ranges they are drawn from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from video_alchemist.dataset import augmentation as aug
from video_alchemist.dataset.augmentation import Augmentation, augment, sample_parameters

HEIGHT, WIDTH = 24, 32


@pytest.fixture
def images() -> Tensor:
    """Smooth random colours, opaque: (2, 4, 24, 32)."""
    small = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    rgb = F.interpolate(small, size=(HEIGHT, WIDTH), mode="bilinear")
    return torch.cat([rgb, torch.ones(2, 1, HEIGHT, WIDTH)], dim=1)


def both(value: float) -> Tensor:
    return torch.tensor([value, value])


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=2e-4)


def parameters(height: int, width: int, config: Augmentation = aug.TABLE_4) -> dict[str, Tensor]:
    return sample_parameters(config, 4000, height, width, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "low", "high", "neutral", "probability"),
    [
        ("downscale", 0.25, 1.0, 1.0, 0.5),  # 112 / 448
        ("blur", 1.0, 8.96, 1.0, 0.3),  # 448 / 50
        ("hue", -0.05, 0.05, 0.0, 0.5),
        ("saturation", -0.05, 0.05, 0.0, 0.5),
        ("brightness", 0.9, 1.1, 1.0, 0.5),
        ("flip", 1.0, 1.0, 0.0, 0.5),
        ("shear_x", -22.4, 22.4, 0.0, 0.3),  # 0.05 w
        ("shear_y", -15.0, 15.0, 0.0, 0.3),  # 0.05 h
        ("rotation", -20.0, 20.0, 0.0, 0.5),
        ("crop", 0.67, 1.0, 1.0, 0.3),
    ],
)
def test_ranges_of_table_4(name: str, low: float, high: float, neutral: float, probability: float) -> None:
    """Guards against a range or probability that is not the documented one, for a 448 x 300 px picture."""
    drawn = parameters(300, 448)[name]
    applied = drawn[drawn != neutral]
    assert len(applied) / len(drawn) == pytest.approx(probability, abs=0.03)
    assert low - 1e-6 <= float(applied.min()) <= low + 0.02 * (high - low)
    assert high - 0.02 * (high - low) <= float(applied.max()) <= high + 1e-6


def test_color_jitter_is_one_row() -> None:
    """Guards against two draws for one row, which would apply it to 75 % of the pictures instead of 50 %."""
    drawn = parameters(300, 448)
    assert torch.equal(drawn["hue"] == 0, drawn["saturation"] == 0)


def test_small_pictures_are_not_enlarged() -> None:
    """Guards against a lower bound above 1, where 112 / max(h, w) of a 64 px picture is 1.75."""
    assert (parameters(64, 64)["downscale"] == 1).all()
    assert float(parameters(64, 64, Augmentation(min_side=32))["downscale"].min()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("scale", [0.3, 0.5, 1.0])
def test_downscale_equals_resizing_twice(images: Tensor, scale: float) -> None:
    """Guards against a wrong filter matrix: torch's antialiased resize down and up again is the same thing."""
    small = (round(HEIGHT * scale), round(WIDTH * scale))
    expected = F.interpolate(images, size=small, mode="bilinear", antialias=True)
    expected = F.interpolate(expected, size=(HEIGHT, WIDTH), mode="bilinear")
    assert close(aug.downscale(images, both(scale)), expected)


def test_downscale_removes_detail() -> None:
    """Guards against aliasing, which turns a checkerboard into bold stripes instead of grey."""
    board = ((torch.arange(HEIGHT)[:, None] + torch.arange(WIDTH)) % 2).float().expand(2, 3, -1, -1)
    images = torch.cat([board, torch.ones(2, 1, HEIGHT, WIDTH)], dim=1)
    assert float(aug.downscale(images, both(0.5))[:, :3].std()) < 0.05


def test_each_picture_has_its_own_parameter(images: Tensor) -> None:
    """Guards against one draw for a whole batch."""
    out = aug.downscale(images, torch.tensor([1.0, 0.25]))
    assert close(out[0], images[0]) and not close(out[1], images[1])


def test_blur_has_opencvs_kernel() -> None:
    """Guards against sigma and kernel size mixed up: OpenCV's 3-tap kernel is about 1/4, 1/2, 1/4."""
    images = torch.zeros(1, 4, 9, 9)
    images[:, 3] = 1
    images[:, 0, 4, 4] = 1
    row = aug.gaussian_blur(images, torch.tensor([3.0]))[0, 0].sum(dim=0)
    assert row[3:6].tolist() == pytest.approx([0.239, 0.522, 0.239], abs=1e-3)
    assert float(row.sum()) == pytest.approx(1)
    assert close(aug.gaussian_blur(images, torch.tensor([1.9])), images)


def test_brightness_multiplies(images: Tensor) -> None:
    """Guards against an added instead of multiplied value, and against brighter alpha."""
    out = aug.brightness(images, both(1.1))
    assert close(out[:, :3], (images[:, :3] * 1.1).clamp(max=1)) and torch.equal(out[:, 3], images[:, 3])


def test_color_jitter_turns_hue_and_scales_saturation(images: Tensor) -> None:
    """Guards against a wrong colour matrix: a third of a turn takes red to green; -1 takes all colour away."""
    red = torch.tensor([1.0, 0.0, 0.0, 1.0]).view(1, 4, 1, 1)
    assert aug.color_jitter(red, torch.tensor([1 / 3]), torch.zeros(1)).flatten().tolist() == pytest.approx(
        [0, 1, 0, 1], abs=1e-5
    )
    grey = aug.color_jitter(images, both(0.0), both(-1.0))
    assert close(grey[:, :3], images[:, :3].mean(dim=1, keepdim=True).expand(-1, 3, -1, -1))
    assert close(aug.color_jitter(images, both(0.0), both(0.0)), images)


def test_flip(images: Tensor) -> None:
    """Guards against a flip of the wrong axis or off by a pixel; twice is the identity."""
    flipped = aug.warp(images, aug.horizontal_flip(both(1.0)))
    assert close(flipped, images.flip(-1))
    assert close(aug.warp(flipped, aug.horizontal_flip(both(1.0))), images)


def test_neutral_geometry_is_the_identity(images: Tensor) -> None:
    """Guards against a half-pixel shift in every augmented picture."""
    matrix = aug.crop(both(1.0), both(0.3), both(0.9), HEIGHT, WIDTH) @ aug.rotation(both(0.0))
    matrix = matrix @ aug.shear_y(both(0.0), WIDTH) @ aug.shear_x(both(0.0), HEIGHT) @ aug.horizontal_flip(both(0.0))
    assert close(aug.warp(images, matrix), images)


def test_shear_moves_corners_by_the_given_pixels() -> None:
    """Guards against shear in fractions instead of pixels."""
    corner = torch.tensor([WIDTH / 2, HEIGHT / 2, 1.0])
    assert (aug.shear_x(both(1.5), HEIGHT)[0] @ corner).tolist() == [WIDTH / 2 + 1.5, HEIGHT / 2, 1]
    assert (aug.shear_y(both(-2.0), WIDTH)[0] @ corner).tolist() == [WIDTH / 2, HEIGHT / 2 - 2, 1]


def test_rotation_by_a_quarter() -> None:
    """Guards against a wrong sense, and against an ellipse in pictures that are not square."""
    right = torch.tensor([10.0, 0.0, 1.0])
    assert (aug.rotation(both(90.0))[0] @ right).tolist() == pytest.approx([0, 10, 1], abs=1e-5)
    images = torch.rand(2, 4, 8, 8)
    images[:, 3] = 1
    assert close(aug.warp(images, aug.rotation(both(90.0))), images.rot90(-1, dims=(2, 3)))


def test_crop_shows_the_window() -> None:
    """Guards against a window that reaches outside the picture: the left upper quarter fills the picture."""
    images = torch.zeros(1, 4, 8, 8)
    images[:, 3] = 1
    images[:, 0, :4, :4] = 1
    out = aug.warp(images, aug.crop(torch.tensor([0.5]), torch.tensor([0.0]), torch.tensor([0.0]), 8, 8))
    assert close(out[:, 3], torch.ones(1, 8, 8)) and float(out[0, 0, :7, :7].min()) > 0.99


def test_segments_keep_their_colour_and_mask() -> None:
    """Guards against dark or coloured fringes: whatever lies under transparency must not bleed into the segment."""
    images = torch.zeros(8, 4, 32, 32)
    images[:, 1] = 1.0  # green under the mask
    images[:, :3, 8:24, 8:24] = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    images[:, 3, 8:24, 8:24] = 1
    config = Augmentation(color_probability=0, brightness_probability=0, min_side=8, max_kernel=0.2)
    out = augment(images, torch.Generator().manual_seed(0), config)
    visible = out[:, 3] > 0.01
    assert visible.flatten(1).any(dim=1).all() and not visible.flatten(1).all(dim=1).any()
    assert float(out[:, 0][visible].min()) > 0.98 and float(out[:, 1][visible].max()) < 0.02


def test_augment_is_bounded_and_repeatable(images: Tensor) -> None:
    """Guards against values outside [0, 1], global randomness, and changes to the caller's pictures."""
    before = images.clone()
    first, second = (augment(images, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(images, before) and first.shape == images.shape
    assert not close(first, images)
    assert 0 <= float(first.min()) and float(first.max()) <= 1


def test_no_augmentation(images: Tensor) -> None:
    """Guards against an ablation that still resamples the pictures."""
    assert augment(images, torch.Generator(), Augmentation.none()) is images


def test_wrong_use_is_named(images: Tensor) -> None:
    """Guards against RGB pictures whose blue is taken for a mask, and percent taken for a probability."""
    with pytest.raises(ValueError, match=r"\(2, 3, 24, 32\); expected RGBA"):
        augment(images[:, :3], torch.Generator())
    with pytest.raises(ValueError, match="flip_probability is 50; expected a probability from 0 to 1"):
        Augmentation(flip_probability=50)
