"""The text detector's role, played by an ONNX file that takes red for text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from video_alchemist.pretrained.text_detector import DBTextDetector

RED, BLUE = (255, 0, 0), (0, 0, 255)


def reds(path: Path, stride: int = 1) -> Path:
    """(1, 3, H, W) => (1, 1, H, W): the last channel, normalised, is -1.8 where it is 0, and 2.6 where it is 255."""
    kernel = numpy_helper.from_array(np.array([0, 0, 4], np.float32).reshape(1, 3, 1, 1), "kernel")
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["red"], kernel_shape=[1, 1], strides=[stride, stride]),
        helper.make_node("Sigmoid", ["red"], ["text"]),
    ]
    given, told = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, "h", "w"])
        for name, channels in (("input", 3), ("text", 1))
    )
    graph = helper.make_graph(nodes, "reds", [given], [told], [kernel])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


def bar(colour: tuple[int, int, int], size: tuple[int, int] = (120, 200)) -> np.ndarray:
    """A black frame with a bar of 100 x 20 pixels at (40, 50)."""
    frame = np.zeros((*size, 3), np.uint8)
    frame[50:70, 40:140] = colour
    return frame


def test_lines_of_text(tmp_path: Path) -> None:
    """Guards against colours in the wrong order, and lines on the scale of what the network saw."""
    detector = DBTextDetector(reds(tmp_path / "reds.onnx"), size=256)
    found, nothing = detector([bar(RED), bar(BLUE)])
    assert nothing == [] and len(found) == 1 and found[0].shape == (4, 2) and found[0].dtype == np.float32
    # In the square of 256 the bar is 128 x 43, and grows by 2 * area / half the perimeter = 64 either way.
    low, high = found[0].min(axis=0), found[0].max(axis=0)
    np.testing.assert_allclose([*(low + high) / 2, *(high - low)], [90, 60, 148, 49], atol=1.5)
    (large,) = detector([np.kron(bar(RED), np.ones((3, 3, 1), np.uint8))])
    np.testing.assert_allclose(large[0], 3 * found[0], atol=3)


def test_weak_and_tiny_spots_are_no_text(tmp_path: Path) -> None:
    """Guards against noise that counts as text, and against a division by the length of a single pixel."""
    detector = DBTextDetector(reds(tmp_path / "reds.onnx"), size=64)
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[10, 10] = frame[20, 20:22] = RED
    frame[40:60, 10:60] = (100, 0, 0)  # a probability of 0.4
    assert detector([frame]) == [[]]
    assert len(DBTextDetector(reds(tmp_path / "reds.onnx"), size=64, min_line=0.3)([frame])[0]) == 1


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such text detector: .*none.onnx"):
        DBTextDetector(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(ValueError, match="text.onnx' is not an ONNX file that OpenCV can read"):
        DBTextDetector(tmp_path / "text.onnx")
    with pytest.raises(ValueError, match=r"half.onnx' answers \(1, 1, 32, 32\); expected \(1, 1, 64, 64\)"):
        DBTextDetector(reds(tmp_path / "half.onnx", stride=2), size=64)
