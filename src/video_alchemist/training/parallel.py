"""Ranks: who they are, how weights are divided over them, what they add up. PyTorch's own parts: FSDP2 on a mesh.

torchrun starts the ranks; without it there is one, on the same path. The mesh is (dp_replicate, dp_shard): one copy of
weights, gradients, moments and averages is divided over dp_shard ranks, dp_replicate such copies learn together.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from video_alchemist.training.config import ParallelConfig
from video_alchemist.training.objective import Objective

TIMEOUT = timedelta(hours=1)  # the first rank may sample, or compile, while the others wait


@dataclass(frozen=True)
class Ranks:
    rank: int
    world: int
    device: torch.device
    mesh: DeviceMesh
    dtype: torch.dtype  # of compute

    @property
    def first(self) -> bool:
        """The rank that has the whole weights at the start, prints, and writes what is written once."""
        return self.rank == 0


@contextmanager
def joined(config: ParallelConfig, device: torch.device | str) -> Iterator[Ranks]:
    """The ranks that torchrun started (gloo on CPUs, nccl on GPUs), or this process alone."""
    device = torch.device(device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", device.index or 0)))
        torch.cuda.set_device(device)
    already = dist.is_initialized()
    if not already:
        alone: dict[str, Any] = {"store": dist.HashStore(), "rank": 0, "world_size": 1}
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT, **({} if "RANK" in os.environ else alone))
    try:
        world = dist.get_world_size()
        shard = config.shard or max(1, world // config.replicate)
        if shard * config.replicate != world:
            raise ValueError(
                f"parallel.shard {shard} x parallel.replicate {config.replicate} is {shard * config.replicate} ranks; "
                f"expected the {world} there are"
            )
        mesh = init_device_mesh(device.type, (config.replicate, shard), mesh_dim_names=("dp_replicate", "dp_shard"))
        auto = "bfloat16" if device.type == "cuda" else "float32"
        name = {"auto": auto, "mixed": "float32"}.get(config.precision, config.precision)
        yield Ranks(dist.get_rank(), world, device, mesh, getattr(torch, name))
    finally:
        if not already:
            dist.destroy_process_group()


def shard(objective: Objective, ranks: Ranks, config: ParallelConfig, filled: bool = True) -> None:
    """Divides the first rank's weights over the mesh, block by block; other ranks need only their shapes (meta).
    filled=False: the first rank has no weights either; a checkpoint will bring them.

    Weights, moments and reductions stay in float32; a block computes in `ranks.dtype`, but for what the transformer
    keeps in float32. Inputs are not cast here, for times and rotations must stay exact (`objective.loss` casts).
    """
    transformer = objective.transformer
    weights = objective.state_dict() if ranks.first and filled else {}
    if config.activation_checkpointing:
        transformer.enable_gradient_checkpointing()
    if config.compile:
        torch._dynamo.config.recompile_limit = 64  # buckets, texts and numbers of pictures differ in shape
        transformer.compile_repeated_blocks()
    mesh = ranks.mesh if config.replicate > 1 else ranks.mesh["dp_shard"]
    exact = MixedPrecisionPolicy(torch.float32, torch.float32, cast_forward_inputs=False)
    policy = MixedPrecisionPolicy(ranks.dtype, torch.float32, cast_forward_inputs=False)
    objective.to("meta")
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # nothing is changed in place
    kept = set(transformer._keep_in_fp32_modules or ())
    for name, module in list(transformer.named_modules()):
        if name.rpartition(".")[2] in kept or kept & dict(module.named_parameters(recurse=False)).keys():
            fully_shard(module, mesh=mesh, mp_policy=exact)
    for block in transformer.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(objective, mesh=mesh, mp_policy=policy)
    objective.to_empty(device=ranks.device)
    if filled:
        full = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(objective, weights, options=full)


def clip(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Clips the gradient by its norm over the whole mesh; the norm before."""
    norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def summed(values: Tensor) -> Tensor:
    """The sum over all ranks."""
    dist.all_reduce(values)
    return values


def agreed(value: Any) -> Any:
    """The first rank's value."""
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def collected(value: Any) -> list[Any]:
    """Every rank's value."""
    boxes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(boxes, value)
    return boxes


def gathered(tensors: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Whole tensors on the first rank's CPU; nothing on the others, which all must take part."""
    whole = {}
    for name, tensor in tensors.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if ranks.first:
            whole[name] = full.detach().to("cpu", copy=True)
    return whole


def local(tensor: Tensor) -> Tensor:
    """This rank's part, for arithmetic that needs no other's."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
