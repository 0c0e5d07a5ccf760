"""The face detector's role, played by ONNX files that find bright squares, and by our own network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from video_alchemist.pretrained.face_detector import (
    HeatmapFaceDetector,
    OnnxFaceDetector,
    YuNetFaceDetector,
    centre_truth,
)

RED, BLUE = (255, 0, 0), (0, 0, 255)


def square(colour: tuple[int, int, int], x: int, y: int, side: int, size: tuple[int, int]) -> np.ndarray:
    """A black frame with one square of a colour."""
    frame = np.zeros((*size, 3), np.uint8)
    frame[y : y + side, x : x + side] = colour
    return frame


class Graph:
    """An ONNX file whose cells of `stride` pixels tell how much of one channel they hold."""

    def __init__(self, size: int | None = None) -> None:
        self.size = size
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def constant(self, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(value, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [f"n{len(self.nodes)}"], **attributes))
        return self.nodes[-1].output[0]

    def cells(self, stride: int, channel: int, scale: float, bias: list[float]) -> str:
        """(1, 1 + len(bias), h, w): the mean of a channel times `scale`, then constants."""
        kernel = np.zeros((1 + len(bias), 3, stride, stride), np.float32)
        kernel[0, channel] = scale / stride**2
        offsets = self.constant(np.array([0.0, *bias], np.float32))
        sides = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        return self.add("Conv", "input", self.constant(kernel), offsets, **sides)

    def rows(self, cells: str, columns: list[int], shape: list[int]) -> str:
        """Chosen channels as rows, one a cell."""
        chosen = self.add("Gather", cells, self.constant(np.array(columns)), axis=1)
        last = self.add("Transpose", chosen, perm=[0, 2, 3, 1])
        return self.add("Reshape", last, self.constant(np.array(shape)))

    def name(self, node: str, name: str, rank: int) -> None:
        self.add("Identity", node)
        self.nodes[-1].output[0] = name
        axes = [f"{name}_{axis}" for axis in range(rank)]
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, axes))

    def save(self, path: Path) -> Path:
        sides = [self.size or "h", self.size or "w"]
        value = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, *sides])
        graph = helper.make_graph(self.nodes, "squares", [value], self.outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
        model.ir_version = 8
        onnx.save(model, path)
        return path


def yunet(path: Path) -> Path:
    """Blue is YuNet's first channel; boxes are 2 cells wide and high about a cell's middle."""
    graph = Graph()
    for stride in (8, 16, 32):
        cells = graph.cells(stride, 0, 1 / 255, [1.0, 0.5, 0.5, np.log(2), np.log(2), *[0.0] * 10])
        for name, columns in (("cls", [0]), ("obj", [1]), ("bbox", [2, 3, 4, 5]), ("kps", [*range(6, 16)])):
            graph.name(graph.rows(cells, columns, [1, -1, len(columns)]), f"{name}_{stride}", 3)
    return graph.save(path)


def scrfd(path: Path) -> Path:
    """Red is the first channel, in [-1, 1]; two anchors a cell; boxes reach 1 and 2 cells to either side."""
    graph = Graph()
    for stride in (8, 16, 32):
        cells = graph.cells(stride, 0, 0.5, [-1.0, *[1.0] * 4, *[1.0, 1.0, 2.0, 2.0], *[0.0] * 20])
        half = graph.constant(np.array([0.5], np.float32))
        graph.name(graph.add("Add", graph.rows(cells, [0, 1], [-1, 1]), half), f"score_{stride}", 2)
        graph.name(graph.rows(cells, [*range(2, 10)], [-1, 4]), f"bbox_{stride}", 2)
        graph.name(graph.rows(cells, [*range(10, 30)], [-1, 10]), f"kps_{stride}", 2)
    return graph.save(path)


def yolo(path: Path) -> Path:
    """(1, 6, 64) of a 64 x 64 picture: the square of 16 x 16 at (24, 40) is always told; its score is the picture's
    red there; a second class never. Two neighbours overlap it, with less of a score."""
    graph = Graph(64)
    red = graph.add("Reshape", graph.cells(8, 0, 1.0, []), graph.constant(np.array([1, 1, 64])))
    boxes = np.tile(np.array([4.0, 4.0, 8.0, 8.0], np.float32)[:, None], (1, 64))
    boxes[:, 43], boxes[:, 44], boxes[:, 51] = (32, 48, 16, 16), (33, 48, 16, 16), (31, 48, 16, 16)
    nothing = graph.constant(np.zeros((1, 1, 64), np.float32))
    graph.name(graph.add("Concat", graph.constant(boxes[None]), red, nothing, axis=1), "output0", 3)
    return graph.save(path)


def test_yunet(tmp_path: Path) -> None:
    """Guards against colours in the wrong order, and boxes on the scale of the shrunken frame."""
    detector = YuNetFaceDetector(yunet(tmp_path / "yunet.onnx"), size=128, min_score=0.6)
    blue = square(BLUE, 40, 24, 8, (64, 128))
    red, nothing, faces = detector([square(RED, 40, 24, 8, (64, 128)), np.zeros((64, 64, 3), np.uint8), blue])
    assert red == [] and nothing == []
    assert len(faces) == 1 and faces[0].score == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(faces[0].box, (36, 20, 52, 36), atol=0.1)
    (large,) = detector([np.kron(blue, np.ones((3, 3, 1), np.uint8))])  # seen at a third
    np.testing.assert_allclose(large[0].box, (108, 60, 156, 108), atol=0.1)


def test_scrfd(tmp_path: Path) -> None:
    """Guards against anchors counted before cells, strides mixed up, overlapping boxes, and a frame's scale."""
    detector = OnnxFaceDetector(scrfd(tmp_path / "scrfd.onnx"), size=64, min_score=0.9)
    assert not detector.is_yolo
    blue, faces = detector([square(BLUE, 32, 16, 16, (96, 128)), square(RED, 32, 16, 16, (96, 128))])
    assert blue == []
    # Halved, the square is the cell (2, 1) of stride 8, whose corner is (16, 8): boxes of 1 cell about it, and of 1 and
    # 2 cells; the second overlaps the first by 4 / 9.
    assert [face.score for face in faces] == pytest.approx([0.998] * len(faces), abs=0.01)
    np.testing.assert_allclose(faces[0].box, (16, 0, 48, 32), atol=0.1)
    assert len(faces) == 1


def test_yolo(tmp_path: Path) -> None:
    """Guards against centres taken for corners, and a file of one size fed another."""
    detector = OnnxFaceDetector(yolo(tmp_path / "yolo.onnx"), size=64, min_score=0.6)  # padding is grey: 0.45
    assert detector.is_yolo
    frame = square(RED, 48, 80, 16, (128, 96))
    blue, faces = detector([square(BLUE, 48, 80, 16, (128, 96)), frame])
    assert blue == [] and len(faces) == 1
    np.testing.assert_allclose(faces[0].box, (48, 80, 80, 112), atol=0.1)


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such face detector: .*none.onnx"):
        YuNetFaceDetector(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(ValueError, match="text.onnx' is not an ONNX file that OpenCV can read"):
        OnnxFaceDetector(tmp_path / "text.onnx")
    graph = Graph()
    graph.name(graph.cells(8, 0, 1.0, []), "heat", 4)
    with pytest.raises(ValueError, match=r"answers \[\(1, 1, 8, 8\)\]; expected \(1, 5\+, n\), or"):
        OnnxFaceDetector(graph.save(tmp_path / "heat.onnx"), size=64)


def discs(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames (8, 3, 48, 64) of noise with up to two bright discs, and their boxes (8, 2, 4)."""
    rng = np.random.default_rng(seed)
    frames = rng.random((8, 3, 48, 64)).astype(np.float32) * 0.3
    boxes = np.full((8, 2, 4), np.nan, np.float32)
    y, x = np.mgrid[:48, :64]
    for frame, rows in zip(frames, boxes, strict=True):
        for k in range(rng.integers(0, 3)):
            radius, cy = rng.uniform(5, 9), rng.uniform(10, 38)
            cx = rng.uniform(10, 22) + 32 * k
            frame[:, (x + 0.5 - cx) ** 2 + (y + 0.5 - cy) ** 2 < radius**2] = rng.uniform(0.7, 1, (3, 1))
            rows[k] = cx - radius, cy - radius, cx + radius, cy + radius
    return torch.from_numpy(frames), torch.from_numpy(boxes)


def test_our_network_learns_and_returns(tmp_path: Path) -> None:
    """Guards against a loss and a reading of the answers that do not fit each other, and against boxes on the scale of
    what the network saw: trained a little on discs, it must find discs in frames of twice the size."""
    torch.manual_seed(0)
    network = HeatmapFaceDetector(channels=(8, 16, 24), width=16, size=64)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    for step in range(90):
        optimizer.zero_grad()
        loss = network.loss(*discs(step))
        loss.backward()
        optimizer.step()
    network.save_pretrained(tmp_path)
    detector = HeatmapFaceDetector.from_pretrained(tmp_path, device="cpu")
    frames, boxes = discs(1000)
    large = (frames.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)
    tall = np.zeros((100, 40, 3), np.uint8)
    found = detector([*large, tall])
    assert found[-1] == []
    wanted = [2 * rows[torch.isfinite(rows[:, 0])].numpy() for rows in boxes]
    assert [len(faces) for faces in found[:-1]] == [len(rows) for rows in wanted]
    for faces, rows in zip(found, wanted, strict=False):
        assert [face.score for face in faces] == sorted((face.score for face in faces), reverse=True)
        for face, row in zip(sorted(faces, key=lambda face: face.box[0]), rows, strict=True):
            np.testing.assert_allclose(face.box, row, atol=8)


def test_truth_of_the_heat_map() -> None:
    """Guards against x and y swapped, and no or a wrong answer for missing faces and for those at the edge."""
    boxes = torch.tensor([[[8.0, 16, 24, 24], [torch.nan] * 4], [[60, 44, 68, 52], [torch.nan] * 4]])
    truth = centre_truth(boxes, (12, 16), 4)
    assert truth.shape == (2, 12, 16)
    assert (truth == 1).nonzero().tolist() == [[0, 5, 4], [1, 11, 15]]
    assert truth[0, 5, 5] > truth[0, 6, 4] > 0
    assert (centre_truth(torch.full((1, 2, 4), torch.nan), (4, 4), 4) == 0).all()


def test_any_size_goes_through_our_network() -> None:
    """Guards against sizes that the levels cannot be brought together at, and a network that outgrew its purpose."""
    network = HeatmapFaceDetector()
    centre, place, extent = network.cells(torch.rand(1, 3, 37, 51))
    assert centre.shape == (1, 10, 13) and place.shape == extent.shape == (1, 10, 13, 2)
    assert 2e5 < network.num_parameters() < 4e5
    assert torch.isfinite(network.loss(torch.rand(1, 3, 16, 16), torch.full((1, 0, 4), torch.nan)))
