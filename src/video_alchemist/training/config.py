"""Everything a training run is told, as frozen dataclasses; the defaults are Table 6's where it has a value."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from video_alchemist.training.stages import PAPER_STAGES, Stage

T = TypeVar("T")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Table 6)."""

    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01  # of matrices only, not of biases and norms
    gradient_clipping: float = 0.05
    reference_factor: float = 1.0  # learning rate of attention to references, its values and output, over the others'
    eps: float = 1e-8


@dataclass(frozen=True)
class CheckpointConfig:
    every: int = 1000  # steps
    keep: int = 3  # newest ones

    def __post_init__(self) -> None:
        _at_least_one(self, "every", "keep")


@dataclass(frozen=True)
class ParallelConfig:
    """How ranks share the work and keep it; none of it changes what is learned (training/parallel.py)."""

    shard: int = 0  # ranks that one copy of weights and optimiser state is divided over (FSDP); 0 = all
    replicate: int = 1  # such copies (HSDP: shard within a machine, replicate across machines)
    activation_checkpointing: bool = False  # blocks are computed again in the backward pass: less memory, 4/3 the time
    compile: bool = False  # torch.compile of the repeated block
    # Of compute; auto = bfloat16 on a GPU, else float32. mixed: float32 but for matrix products and attention, which
    # CPUs that know bfloat16 do faster (AVX512-BF16, AMX), and residuals stay exact (training/mixed.py).
    precision: Literal["auto", "float32", "bfloat16", "mixed"] = "auto"
    frozen_precision: Literal["compute", "float32"] = "compute"  # of weights that no stage trains; the others: float32

    def __post_init__(self) -> None:
        _at_least_one(self, "replicate")
        if self.shard < 0:
            raise ValueError(f"shard is {self.shard}; expected 0 or more")


@dataclass(frozen=True)
class LoraConfig:
    """Adapters beside the linear layers of the backbone's attention, for stages whose trainable is "lora"."""

    rank: int = 16
    alpha: int = 16  # adapters count alpha / rank

    def __post_init__(self) -> None:
        _at_least_one(self, "rank")


@dataclass(frozen=True)
class TrainConfig:
    seed: int = 0
    stages: tuple[Stage, ...] = PAPER_STAGES
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    tokens_per_gpu: int = 0  # video tokens that buckets take their batch sizes from; 0 = those of the preset
    micro_batches: int = 0  # of one optimiser step, on all ranks together; 0 = one a rank of the run's first call
    ema_decay: float = 0.9999  # of the weights that are sampled with; the paper does not say
    dropout: float = 0.1  # Table 6
    text_drop: float = 0.1  # App. B.2, of the whole condition, for classifier-free guidance
    image_drop: float = 0.1
    self_conditioning_probability: float = 0.9  # Table 5; only where the transformer has self_conditioning
    localization_weight: float = 0.0  # of teaching attention where to look (training/localization.py); not the paper's
    shift: float = 1.0  # time shift (App. B.3), see flow.resolution_shift
    base_latent: tuple[int, int] | None = None  # (width, height) of latents that `shift` is for; None = all sizes
    log_every: int = 50  # steps between progress lines; metrics.jsonl has every step
    sample_every: int = 0  # steps between contact sheets; 0 = never
    tracker: Literal["tensorboard", "wandb", "none"] = "tensorboard"  # beside metrics.jsonl; TensorBoard if installed
    peak_flops: float = 0.0  # of one device, a second, for MFU; 0 = by the card's name, measured on a CPU
    data_workers: int = 0  # processes a rank that make batches ahead of the training step; 0 = a thread

    def __post_init__(self) -> None:
        _at_least_one(self, "log_every")
        for name in (
            "tokens_per_gpu", "micro_batches", "data_workers", "sample_every", "peak_flops", "localization_weight",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more")
        for name in ("ema_decay", "dropout", "text_drop", "image_drop", "self_conditioning_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 to 1")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages are named {', '.join(names)}; expected names that differ")
        for before, after in zip(self.stages, self.stages[1:], strict=False):
            if before.personalization and not after.personalization:
                raise ValueError(f"stage {after.name} lacks the personalization that {before.name} has; expected it on")


def _at_least_one(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; expected at least 1")


def override(config: T, assignment: str) -> T:
    """`override(config, "optimizer.learning_rate=3e-4")`; stages go by name: "stages.II-new.steps=500"."""
    key, separator, text = assignment.partition("=")
    if not separator or not key.strip():
        raise ValueError(f"{assignment!r} is no assignment; expected key=value, like optimizer.learning_rate=3e-4")
    return _assign(config, key.strip().split("."), text.strip(), key.strip())


def _assign(node: Any, path: list[str], text: str, key: str) -> Any:
    """`node` with the value at `path` replaced; a node is a dataclass or a tuple of named dataclasses."""
    name, *rest = path
    if isinstance(node, tuple):
        position = _names(node).index(_known(name, node, key))
        return *node[:position], _assign_inside(node[position], rest, text, key), *node[position + 1 :]
    value = getattr(node, _known(name, node, key))
    if _is_group(value):
        return replace(node, **{name: _assign_inside(value, rest, text, key)})
    if rest:
        nearest = key.removesuffix("." + ".".join(rest))
        raise ValueError(f"unknown key {key!r}: {name} is a value, not a group; nearest: {nearest}")
    return replace(node, **{name: _parse(text, get_type_hints(type(node))[name], key)})


def _assign_inside(group: Any, path: list[str], text: str, key: str) -> Any:
    if not path:
        raise ValueError(f"{key} is a group; expected one of {', '.join(f'{key}.{name}' for name in _names(group))}")
    return _assign(group, path, text, key)


def _is_group(value: Any) -> bool:
    return is_dataclass(value) or (isinstance(value, tuple) and all(is_dataclass(item) for item in value))


def _names(group: Any) -> list[str]:
    return [item.name for item in (group if isinstance(group, tuple) else fields(group))]


def _known(name: str, group: Any, key: str) -> str:
    names = _names(group)
    if name in names:
        return name
    nearest = (difflib.get_close_matches(name, names, 1, cutoff=0) or ["none"])[0]
    raise ValueError(f"unknown key {key!r}: no {name!r} among {', '.join(names)}; nearest: {nearest}")


def _parse(text: str, expected: Any, key: str) -> Any:
    """Text as a value of a type: a JSON value, or a bare word where a string is expected."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = {"True": True, "False": False, "None": None}.get(text, text)
    if isinstance(value, list):
        value = tuple(value)
    if not _fits(value, expected):
        raise ValueError(f"{key} is {text!r}; expected {_describe(expected)}")
    return float(value) if expected is float else value


def _fits(value: Any, expected: Any) -> bool:
    origin, arguments = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and len(value) == len(arguments) and all(map(_fits, value, arguments))
    if expected is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is (types.NoneType if expected is None else expected)


def _describe(expected: Any) -> str:
    if get_origin(expected) is Literal:
        return f"one of {', '.join(map(repr, get_args(expected)))}"
    return expected.__name__ if isinstance(expected, type) and get_origin(expected) is None else str(expected)


def as_json(config: TrainConfig) -> dict[str, Any]:
    """What `config.json` of a run folder holds; tuples as lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def differences(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    """Keys whose values differ between two configurations, as "key: before -> after"."""
    found = []
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {json.dumps(old)} -> {json.dumps(new)}")
    return found
