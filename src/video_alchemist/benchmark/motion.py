"""How much a video moves (§4.2: "optical flow magnitude between consecutive generated frames").

The paper's column Dync-D is VBench's dynamic degree (arXiv 2311.17982): the share of videos that move at all.
`dynamic_degree` is that vote; `flow_magnitude` is the length that the paper's sentence speaks of.

L frames, some 8 a second, of which L - 1 pairs are compared · h,w pixels of a flow
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from video_alchemist.benchmark.rows import Row

if TYPE_CHECKING:
    from video_alchemist.benchmark.analysis import Analysis
    from video_alchemist.benchmark.protocol import Protocol

RATE = 8.0  # frames a second that are compared
FASTEST = 0.05  # share of pixels that speak for a pair
MOVES = 6.0  # pixels by which a pair of REFERENCE_SIDE pixels has to move
REFERENCE_SIDE = 256.0  # of a frame's shorter side
MOVING = 4.0  # of so many frames, one has to move


def interval(fps: float, protocol: Protocol) -> int:
    """Every so many frames one is compared; 0 where the protocol has no answer. Halves round to even."""
    return max(protocol.min_interval, round(fps / RATE))


def threshold(height: int, width: int) -> float:
    """Pixels by which the fastest of a pair have to move."""
    return MOVES * min(height, width) / REFERENCE_SIDE


def pairs_that_must_move(num_frames: int, protocol: Protocol) -> int:
    """Of the pairs of L frames. Halves round to even."""
    return max(protocol.min_moving, round(num_frames / MOVING))


def fastest(flow: np.ndarray) -> float:
    """(h, w, 2) => mean length of its fastest 5 %, in pixels."""
    lengths = np.sort(_lengths(flow))
    return float(lengths[-max(1, int(len(lengths) * FASTEST)) :].mean())


def dynamic_degree(analysis: Analysis) -> list[Row]:
    """Dync-D, §4.2: 1 where the video moves, else 0."""
    if interval(analysis.video.fps, analysis.protocol) == 0:
        return [_too_slow(analysis, "dynamic_degree")]
    flows = analysis.flows
    if not flows:
        return [analysis.row("dynamic_degree", 0.0, note="one frame cannot move")]
    limit = threshold(*analysis.frames.shape[1:3])
    moving = sum(fastest(flow) > limit for flow in flows)
    value = moving >= pairs_that_must_move(len(flows) + 1, analysis.protocol)
    return [analysis.row("dynamic_degree", float(value), frames=len(flows))]


def flow_magnitude(analysis: Analysis) -> list[Row]:
    """Mean length of the flow over all pixels (§4.2, the words, not the column): in pixels a 1/8 s of a frame whose
    shorter side has 256, the unit in which a pair's fastest pixels have to reach 6."""
    step = interval(analysis.video.fps, analysis.protocol)
    if step == 0:
        return [_too_slow(analysis, "flow_magnitude")]
    flows = analysis.flows
    if not flows:
        return [analysis.row("flow_magnitude", None, note="one frame: no motion to measure")]
    pixels = np.mean([_lengths(flow).mean() for flow in flows])
    to_unit = REFERENCE_SIDE / min(analysis.frames.shape[1:3]) * analysis.video.fps / (RATE * step)
    return [analysis.row("flow_magnitude", to_unit * pixels, frames=len(flows))]


def _lengths(flow: np.ndarray) -> np.ndarray:
    return np.linalg.norm(flow.astype(np.float64), axis=-1).reshape(-1)


def _too_slow(analysis: Analysis, metric: str) -> Row:
    note = f"{analysis.video.fps:g} frames a second: the released code compares every round(fps / 8)th, and so none"
    return analysis.row(metric, None, note=note)
