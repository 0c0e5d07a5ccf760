"""RAFT's role: our network beside the names and answers of the published ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from video_alchemist.pretrained.optical_flow import (
    Raft,
    RaftOpticalFlow,
    correlations,
    from_princeton,
    load_raft,
    look_up,
    upsample,
)

SMALL = {"channels": (8, 12), "features": 16, "hidden": 16, "context": 16, "motion": 16, "radius": 2}
Shapes = dict[str, tuple[int, ...]]


def princeton() -> Shapes:
    """Names and shapes of raft-things.pth."""
    shapes: Shapes = {}

    def conv(name: str, c_out: int, c_in: int, *kernel: int) -> None:
        shapes.update({f"module.{name}.weight": (c_out, c_in, *kernel), f"module.{name}.bias": (c_out,)})

    def norm(name: str, channels: int) -> None:
        shapes.update({f"module.{name}.{x}": (channels,) for x in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"module.{name}.num_batches_tracked"] = ()

    def encoder(name: str, has_norms: bool) -> None:
        conv(f"{name}.conv1", 64, 3, 7, 7)
        conv(f"{name}.conv2", 256, 128, 1, 1)
        norms = {f"{name}.norm1": 64}
        for layer, (c_in, c) in enumerate([(64, 64), (64, 96), (96, 128)], start=1):
            for block, c_first in enumerate((c_in, c)):
                part = f"{name}.layer{layer}.{block}"
                conv(f"{part}.conv1", c, c_first, 3, 3)
                conv(f"{part}.conv2", c, c, 3, 3)
                norms |= {f"{part}.norm1": c, f"{part}.norm2": c}
                if c_first != c:
                    conv(f"{part}.downsample.0", c, c_first, 1, 1)
                    norms |= {f"{part}.norm3": c, f"{part}.downsample.1": c}
        for part, channels in norms.items() if has_norms else ():
            norm(part, channels)

    encoder("fnet", has_norms=False)
    encoder("cnet", has_norms=True)
    for name, *shape in (
        ("encoder.convc1", 256, 4 * 81, 1, 1), ("encoder.convc2", 192, 256, 3, 3), ("encoder.convf1", 128, 2, 7, 7),
        ("encoder.convf2", 64, 128, 3, 3), ("encoder.conv", 126, 256, 3, 3), ("flow_head.conv1", 256, 128, 3, 3),
        ("flow_head.conv2", 2, 256, 3, 3), ("mask.0", 256, 128, 3, 3), ("mask.2", 64 * 9, 256, 1, 1),
        *((f"gru.conv{gate}1", 128, 384, 1, 5) for gate in "zrq"),
        *((f"gru.conv{gate}2", 128, 384, 5, 1) for gate in "zrq"),
    ):  # fmt: skip
        conv(f"update_block.{name}", *shape)
    return shapes


def shapes_of(network: torch.nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def test_names_and_shapes_of_both_files(digest_of: Callable[[Any], str]) -> None:
    """Guards against a network that the public files do not fit. The digests are those of torchvision's own raft_large
    and of princeton's own RAFT."""
    with torch.device("meta"):
        ours = shapes_of(Raft())
    assert ours["context_encoder.layer2.0.downsample.1.running_var"] == (96,)
    assert ours["update_block.recurrent_block.convgru2.convq.weight"] == (128, 384, 5, 1)
    assert len(ours) == 169
    assert digest_of(ours) == "23b50731fc53e26ae87cbca92e0532e4098a7c157a2269509c8f819e7860f434"
    theirs = princeton()
    assert theirs["module.fnet.layer1.0.conv1.weight"] == (64, 64, 3, 3)
    assert len(theirs) == 179
    assert digest_of(theirs) == "d2530b3324ed9a6994f928ac998267d592b96ed4b5ac7f309261d73ff6fb3eaa"
    renamed = from_princeton({name.removeprefix("module."): torch.empty(0) for name in theirs})
    assert renamed.keys() == ours.keys()


def test_answers_of_princetons_code(tmp_path: Path, weights_of: Callable[[Any], Any]) -> None:
    """Guards against any difference from RAFT as it was published: layers confused by the renaming, correlations looked
    up in another order, colours on another scale, x and y swapped. The numbers are those of princeton's code after 3
    iterations with the same weights; torchvision's agrees with it."""
    weights = weights_of(princeton())
    torch.save({name: weights[name.replace("norm3", "downsample.1")] for name in weights}, tmp_path / "things.pth")
    torch.save(load_raft(tmp_path / "things.pth").state_dict(), tmp_path / "C_T_V1.pth")
    first, second = np.random.RandomState(0).randint(0, 256, (2, 1, 128, 136, 3)).astype(np.uint8)
    expected = [[0.5057, -1.8237], [6.7707, -6.2593], [11.4076, 6.0466], [-0.2509, -0.0394]]
    for name in ("things.pth", "C_T_V1.pth"):
        estimator = RaftOpticalFlow.from_pretrained(tmp_path / name)
        estimator.num_iterations = 3
        flow = estimator(first, second)[0]
        np.testing.assert_allclose(flow[[0, 31, 64, 127], [0, 77, 100, 135]], expected, atol=5e-4)


def test_look_up() -> None:
    """Guards against a square that is turned, off by a cell or wrapped around, and levels of a wrong scale: what lies 2
    cells to the right is the value of x + 2, and outside there is nothing."""
    level = torch.arange(48.0).view(1, 1, 6, 8).expand(48, 1, 6, 8)  # x + 8 y, for each of the 48 cells
    places = torch.tensor([3.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 6, 8)
    seen = look_up([level], places, 2)[0, :, 0, 0].view(5, 5)  # x before y
    torch.testing.assert_close(seen[4, 2], torch.tensor(5 + 8 * 2.0))
    torch.testing.assert_close(seen[2, 4], torch.tensor(3 + 8 * 4.0))
    halfway = look_up([level], places + 0.5, 1)[0, 4, 0, 0]
    torch.testing.assert_close(halfway, torch.tensor(3.5 + 8 * 2.5))
    assert look_up([level], places - 9, 1).abs().max() == 0
    coarse = look_up([level, level[..., :3, :4]], places * 2, 0)[0, :, 0, 0]  # (6, 4) there is (3, 2) here
    torch.testing.assert_close(coarse, torch.tensor([6 + 8 * 4.0, 3 + 8 * 2.0]))


def test_levels_of_a_small_frame() -> None:
    """Guards against levels that vanish, or NaN from a level of one cell, where frames are small."""
    pyramid = correlations(torch.ones(1, 4, 2, 6), torch.ones(1, 4, 2, 6), 4)
    assert [tuple(level.shape[-2:]) for level in pyramid] == [(2, 6), (1, 3), (1, 1), (1, 1)]
    assert all((level == 2).all() for level in pyramid)  # 4 products of 1, over the root of 4
    assert look_up(pyramid, torch.zeros(1, 2, 2, 6), 1).isfinite().all()


def test_upsampling() -> None:
    """Guards against a flow that keeps the scale of cells, and pixels in the wrong cell."""
    flow = torch.randn(1, 2, 3, 4)
    weights = torch.full((1, 9, 4, 3, 4), -50.0)
    weights[:, 4] = 50.0  # the cell itself
    nearest = flow.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(upsample(flow, weights.flatten(1, 2), 2), 2 * nearest)
    weights[:, 4, 1], weights[:, 5, 1] = -50.0, 50.0  # upper right pixels: the cell to the right
    assert upsample(flow, weights.flatten(1, 2), 2)[0, 0, 2, 3] == pytest.approx(2 * float(flow[0, 0, 1, 2]), abs=1e-5)


def test_borders_and_batches(tmp_path: Path) -> None:
    """Guards against a border on one side only, a wrong cut, and answers that depend on the batch or do not survive a
    folder."""
    torch.manual_seed(0)
    Raft(**SMALL).save_pretrained(tmp_path)
    estimator = RaftOpticalFlow.from_pretrained(tmp_path)
    first, second = np.random.default_rng(0).integers(0, 256, (2, 3, 29, 34, 3), np.uint8)
    flow, padded = estimator(first, second), estimator(first, second, padded=True)
    assert flow.shape == (3, 29, 34, 2) and padded.shape == (3, 32, 36, 2) and flow.dtype == np.float32
    np.testing.assert_array_equal(padded[:, 1:30, 1:35], flow)
    by_hand = [np.pad(frames, ((0, 0), (1, 2), (1, 1), (0, 0)), mode="edge") for frames in (first, second)]
    np.testing.assert_allclose(estimator(*by_hand), padded, atol=1e-4)
    estimator.batch = 2
    np.testing.assert_allclose(estimator(first, second), flow, atol=1e-4)
    assert estimator(first[:0], second[:0]).shape == (0, 29, 34, 2)
    with pytest.raises(ValueError, match=r"frames are \(3, 29, 34, 3\) and \(2, 29, 34, 3\)"):
        estimator(first, second[:2])


def test_training_sees_all_iterations() -> None:
    """Guards against weights that no gradient reaches, an iteration that answers for the one before it, and a last flow
    that differs from that of training."""
    torch.manual_seed(0)
    network = Raft(**SMALL)
    first, second = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    flows = network(first, second, 3, all_flows=True)
    assert flows.shape == (3, 2, 2, 64, 64)
    flows.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # A bias before an instance norm has no effect.
        assert parameter.grad.abs().max() > 0 or name.endswith("bias"), name
    torch.testing.assert_close(network(first, second, 3), flows[-1])
    torch.testing.assert_close(network(first, second, 2), flows[1])


def test_sizes() -> None:
    """Guards against frames that cells do not divide, and a network for 64 x 64 frames that outgrew its purpose."""
    with pytest.raises(ValueError, match=r"frames of \(28, 30\); expected sides that 4 divides"):
        Raft(**SMALL)(torch.zeros(1, 3, 28, 30), torch.zeros(1, 3, 28, 30))
    with torch.device("meta"):
        ours = Raft((32, 48), features=96, hidden=64, context=64, motion=64, radius=3)
    assert ours.stride == 4 and 0.9e6 < ours.num_parameters() < 1.1e6
