"""Dync-D and the flow's magnitude: numbers of the released code, and its rules written out with a small RAFT."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from video_alchemist.benchmark.analysis import Analysis, Video
from video_alchemist.benchmark.motion import (
    dynamic_degree,
    fastest,
    flow_magnitude,
    interval,
    pairs_that_must_move,
    threshold,
)
from video_alchemist.benchmark.protocol import Protocol, official, paper
from video_alchemist.pretrained.optical_flow import Raft, RaftOpticalFlow

SAMPLE: Any = SimpleNamespace(id="clip", targets=(), subjects=())


def analysis(frames: Any, fps: float, protocol: Protocol, optical_flow: Any, batch: int = 8) -> Analysis:
    models: Any = SimpleNamespace(optical_flow=optical_flow)
    return Analysis(Video(np.asarray(frames, np.uint8), fps), SAMPLE, models, protocol, batch)


def brightness_flow(first: np.ndarray, second: np.ndarray, padded: bool = False) -> np.ndarray:
    """Each pixel moves right by as many pixels as it gets brighter."""
    change = second[..., 0].astype(np.float32) - first[..., 0]
    return np.stack([change, np.zeros_like(change)], axis=-1)


def steps(*changes: float, size: tuple[int, int] = (256, 256)) -> np.ndarray:
    """A video whose flow, by `brightness_flow`, is so long from frame to frame."""
    levels = np.cumsum([0, *changes])
    return np.broadcast_to(levels[:, None, None, None], (len(levels), *size, 3))


@pytest.mark.parametrize(
    ("fps", "num_frames", "every", "seen", "count"),
    [
        (8, 16, 1, 16, 4),
        (24, 49, 3, 17, 4),
        (24, 73, 3, 25, 6),
        (24, 121, 3, 41, 10),
        (16, 81, 2, 41, 10),
        (30, 81, 4, 21, 5),
    ],
)
def test_intervals_and_counts(fps: float, num_frames: int, every: int, seen: int, count: int) -> None:
    """Guards against halves rounded up, 30 / 8 = 3.75 cut off, and pairs counted for frames."""
    protocol = official(num_frames)
    assert interval(fps, protocol) == every
    video = analysis(np.zeros((num_frames, 8, 8, 3)), fps, protocol, brightness_flow)
    assert len(video.flows) == seen - 1
    assert pairs_that_must_move(seen, protocol) == count
    for moving in (count - 1, count):
        frames = np.repeat(steps(*[7] * moving, *[0] * (seen - 1 - moving), size=(8, 8)), every, axis=0)[:num_frames]
        assert dynamic_degree(analysis(frames, fps, protocol, brightness_flow))[0].value == (moving == count)


def test_halves_round_to_even() -> None:
    """Guards against Python's rounding replaced by the school's: 12 / 8 = 1.5 and 20 / 8 = 2.5 are both 2."""
    assert [interval(fps, official(49)) for fps in (4, 5, 12, 20, 28, 60)] == [0, 1, 2, 2, 4, 8]
    assert [pairs_that_must_move(length, official(49)) for length in (1, 2, 3, 6, 10, 14)] == [0, 0, 1, 2, 2, 4]


@pytest.mark.parametrize(
    ("side", "pixels"), [(144, 3.375), (256, 6.0), (288, 6.75), (480, 11.25), (512, 12.0), (576, 13.5)]
)
def test_thresholds(side: int, pixels: float) -> None:
    """Guards against the longer side, and against a pair that moves by exactly the threshold."""
    assert threshold(side, 2 * side) == threshold(2 * side, side) == pixels
    for change, moves in ((int(pixels), False), (int(pixels) + 1, True)):
        video = analysis(steps(change, size=(side, side)), 8, paper(), brightness_flow)
        assert dynamic_degree(video)[0].value == moves


def test_fastest_pixels() -> None:
    """Guards against the mean of all pixels, and against a share rounded up: of 59 pixels, 2 count."""
    flow = np.zeros((1, 59, 2))
    flow[0, 7] = 3, 4
    flow[0, 9] = 0, -9
    flow[0, 11] = 1, 0
    assert fastest(flow) == pytest.approx(7)
    assert fastest(np.full((2, 3, 2), 3.0)) == pytest.approx(18**0.5)


def test_corners() -> None:
    """Guards against one or two frames, and slow videos, that are scored otherwise than the protocol says."""

    def score(metric: Any, frames: np.ndarray, fps: float, protocol: Protocol) -> Any:
        return metric(analysis(frames, fps, protocol, brightness_flow))[0]

    still = steps(0, size=(8, 8))
    for protocol, alone, two in ((official(1), 0, None), (official(2), None, 1), (paper(), 0, 0)):
        if alone is not None:
            assert score(dynamic_degree, still[:1], 8, protocol).value == alone
            assert score(flow_magnitude, still[:1], 8, protocol).value is None
        if two is not None:
            assert score(dynamic_degree, still, 8, protocol).value == two
    for metric in (dynamic_degree, flow_magnitude):
        row = score(metric, still, 4, official(2))
        assert row.value is None and row.note.startswith("4 frames a second")
        assert score(metric, still, 4, paper()).value == 0
    assert analysis(still, 4, official(2), brightness_flow).flows == []


def test_magnitude_knows_size_and_time() -> None:
    """Guards against a magnitude that grows with the resolution, or shrinks where more frames show the same motion."""
    slow = analysis(steps(*[4] * 4, size=(256, 300)), 8, paper(), brightness_flow)
    large = analysis(steps(*[8] * 4, size=(512, 512)), 8, paper(), brightness_flow)
    often = analysis(steps(*[2] * 8, size=(256, 256)), 16, paper(), brightness_flow)
    coarse = analysis(steps(*[8] * 4, size=(256, 256)), 4, paper(), brightness_flow)
    for video in (slow, large, often, coarse):
        assert flow_magnitude(video)[0].value == pytest.approx(4)


@torch.no_grad()
def test_parity_with_the_rules_written_out() -> None:
    """Guards against any departure from the released code: with one small RAFT, on frames whose sides are no multiple
    of 8, whatever the batch. And against a border that counts in the paper's protocol."""
    torch.manual_seed(0)
    network = Raft((8, 8, 12), features=16, hidden=16, context=16, motion=16, levels=2, radius=2).eval()
    torch.nn.init.normal_(network.update_block.flow_head.conv2.weight, std=0.004)
    torch.nn.init.zeros_(network.update_block.flow_head.conv2.bias)
    frames = np.random.default_rng(0).integers(0, 256, (10, 30, 44, 3), np.uint8)
    frames[6:] //= 8
    seen = torch.from_numpy(frames[:9]).permute(0, 3, 1, 2).float()[::2]  # 16 / 8
    top, left = (32 - 30) // 2, (48 - 44) // 2
    padded = torch.nn.functional.pad(seen, (left, 4 - left, top, 2 - top), mode="replicate")
    speeds, lengths = [], []
    for first, second in zip(padded[:-1], padded[1:], strict=True):
        flow = network(2 * (first[None] / 255) - 1, 2 * (second[None] / 255) - 1, 20)[0]
        length = (flow[0] ** 2 + flow[1] ** 2).sqrt()
        speeds.append(length.flatten().sort(descending=True).values[: int(32 * 48 * 0.05)].mean().item())
        lengths.append(length.mean().item())
    moving = sum(speed > 6.0 * 30 / 256 for speed in speeds)
    assert 0 < moving < 4
    for batch in (1, 8):
        video = analysis(frames, 16, official(9), RaftOpticalFlow(network, batch=3), batch)
        np.testing.assert_allclose([fastest(flow) for flow in video.flows], speeds, atol=1e-5, rtol=1e-5)
        assert dynamic_degree(video)[0].value == (moving >= round(5 / 4.0))
        unit = 256 / 30 * 16 / (8 * 2)
        assert flow_magnitude(video)[0].value == pytest.approx(unit * np.mean(lengths), rel=1e-5)
        assert video.flows[0].shape == (32, 48, 2)
    strict = replace(official(9), min_moving=moving + 1)
    assert dynamic_degree(analysis(frames, 16, strict, RaftOpticalFlow(network)))[0].value == 0
    assert analysis(frames, 16, paper(), RaftOpticalFlow(network)).flows[0].shape == (30, 44, 2)
