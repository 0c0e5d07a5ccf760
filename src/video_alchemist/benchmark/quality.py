"""Visual quality without references, which the paper leaves open (App. D, "Unsupported Measure on Video Quality").

Three plain measures: each sees one defect, and a still picture is perfect by two of them, so read them beside the
dynamic degree. And what a network was taught to see, where one plays that role.

F frames · n flows · H,W pixels · h,w pixels of a flow
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from video_alchemist.benchmark.analysis import Analysis
    from video_alchemist.benchmark.rows import Row

CELLS = 16  # flicker: a frame's brightness is looked at in 16 x 16 cells
VIEWED = 256  # sharpness: pixels of the shorter side at which all videos are viewed
STILL = 1 / 256  # motion smoothness: of the shorter side; flow below this is noise rather than motion


def flicker(analysis: Analysis) -> list[Row]:
    """How far the brightness of a place jumps there and back between frames, in [0, 1]; lower is better, 0 = steady.

    The second difference over time is blind to fades, the median over cells to what moves in less than half of the
    picture. No flow: the flows of the dynamic degree skip frames, and flicker lives between neighbours."""
    frames = analysis.frames
    if len(frames) < 3:
        return [analysis.row("flicker", None, note="fewer than 3 frames")]
    cells = np.stack([cv2.resize(_light(frame), (CELLS, CELLS), interpolation=cv2.INTER_AREA) for frame in frames])
    jumps = np.abs(cells[:-2] - 2 * cells[1:-1] + cells[2:]) / 2                           # (F - 2, cells, cells)
    return [analysis.row("flicker", np.median(jumps, axis=(1, 2)).mean(), frames=len(frames))]


def sharpness(analysis: Analysis) -> list[Row]:
    """Standard deviation of the Laplacian over that of the brightness, mean over frames, in [0, 0.74]; higher is
    sharper.

    The quotient is free of contrast and exposure. Videos are viewed at one size, so that small ones are as blurred as
    they look. Noise counts as sharp: 0.34 where it is white; pictures have 0.01 to 0.1.
    """
    values = [_sharpness(_light(frame)) for frame in analysis.frames]
    return [analysis.row("sharpness", float(np.mean(values)), frames=len(values))]


def motion_smoothness(analysis: Analysis) -> list[Row]:
    """1 - change of flow along its path / flow, over all pixels, in [0, 1]; higher is smoother.

    1 = steady motion, or none; 0 = every motion is taken back at once. A jump's turning point costs a little."""
    flows = analysis.flows
    if len(flows) < 2:
        return [analysis.row("motion_smoothness", None, note="fewer than 2 flows")]
    floor = STILL * min(flows[0].shape[:2])
    change = motion = 0.0
    for flow, following in zip(flows[:-1], flows[1:], strict=True):
        carried = _follow(flow, following)
        change += float(np.linalg.norm(carried - flow, axis=-1).mean())
        motion += float((np.linalg.norm(carried, axis=-1) + np.linalg.norm(flow, axis=-1)).mean()) + floor
    return [analysis.row("motion_smoothness", 1 - change / motion, frames=len(flows))]


def learned_quality(analysis: Analysis) -> list[Row]:
    """A trained network's score of the frames, mean over frames; higher is better. Its range is the network's: LAION's
    aesthetic predictor has some 1 to 10, the small world's 0 to 1. It sees single frames, no motion."""
    scores = analysis.models.quality(analysis.frame_embeddings)
    return [analysis.row("learned_quality", scores.mean(), frames=len(scores))]


def _sharpness(light: np.ndarray) -> float:
    scale = VIEWED / min(light.shape)
    size = (round(light.shape[1] * scale), round(light.shape[0] * scale))
    viewed = cv2.resize(light, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    contrast = float(viewed.std())
    if contrast < 1 / 255:  # less than a grey level: nothing to be sharp about
        return 0.0
    # Blurred first by a pixel, or the rounding to 256 levels would outweigh all of a soft picture's detail.
    return float(cv2.Laplacian(cv2.GaussianBlur(viewed, (0, 0), 1), cv2.CV_32F).std()) / contrast


def _follow(flow: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Both (h, w, 2): the following flow at the places where `flow` takes each pixel."""
    height, width = flow.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    places = columns + flow[..., 0], rows + flow[..., 1]
    return cv2.remap(following, *places, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _light(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 => brightness (H, W) float32 in [0, 1]."""
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
