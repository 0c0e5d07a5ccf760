"""Masks as run lengths."""

import numpy as np
import pytest

from video_alchemist.dataset.masks import decode_mask, encode_mask


def test_runs_go_down_the_columns():
    """COCO counts run down the columns; along the rows the mask comes out transposed."""
    mask = np.array([[0, 1], [0, 1], [1, 1]], dtype=bool)
    assert encode_mask(mask) == {"size": [3, 2], "counts": [2, 4]}
    assert encode_mask(~mask)["counts"] == [0, 2, 4]  # zeros come first, even where there are none


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (64, 48)])
def test_masks_come_back(shape):
    """Guards against masks that begin or end with ones, or are all of one kind."""
    rng = np.random.default_rng(0)
    for mask in (rng.random(shape) > 0.5, np.zeros(shape, bool), np.ones(shape, bool)):
        assert np.array_equal(decode_mask(encode_mask(mask)), mask)


def test_wrong_runs_are_refused():
    """Guards against a mask of another frame's size, which would be read askew in silence."""
    with pytest.raises(ValueError, match="expected 3 x 2"):
        decode_mask({"size": [3, 2], "counts": [2, 5]})
