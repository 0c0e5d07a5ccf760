"""What training changes: weights, their moving average, AdamW's moments; each divided over the ranks alike.

Tensors go by the names of the transformer's parameters, so they survive its growing new layers, and a checkpoint may be
read by any number of ranks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from video_alchemist.model.transformer import AlchemistTransformer, add_personalization
from video_alchemist.training import parallel
from video_alchemist.training.config import LoraConfig, OptimizerConfig, TrainConfig
from video_alchemist.training.objective import Objective
from video_alchemist.training.parallel import Ranks
from video_alchemist.training.stages import Stage

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
BACKBONE_ATTENTION = ("self_attn", "text_attn")  # what LoRA adapts


@dataclass
class State:
    objective: Objective
    ema: dict[str, Tensor]  # of the parameters that some stage trained so far; the others are their own average
    optimizer: torch.optim.AdamW

    @property
    def transformer(self) -> AlchemistTransformer:
        return self.objective.transformer

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint holds."""
        weights = {f"transformer.{name}": p.detach() for name, p in self.transformer.named_parameters()}
        return {**weights, **{f"ema.{name}": e for name, e in self.ema.items()}, **self.moments()}

    def moments(self) -> dict[str, Tensor]:
        """AdamW's state by parameter name; parameters that never had a gradient have none."""
        return {
            f"{moment}.{name}": self.optimizer.state[parameter][moment]
            for name, parameter in self.transformer.named_parameters()
            if parameter in self.optimizer.state
            for moment in MOMENTS
        }

    def adopt(self, tensors: dict[str, Tensor]) -> None:
        """Takes over averages and moments; layers that are new start afresh."""
        for name, parameter in self.transformer.named_parameters():
            known = name if f"transformer.{name}" in tensors else unadapted(name)
            if f"ema.{known}" in tensors:
                self.ema[name] = tensors[f"ema.{known}"]
            if f"step.{known}" in tensors:
                self.optimizer.state[parameter] = {moment: tensors[f"{moment}.{known}"] for moment in MOMENTS}

    @torch.no_grad()
    def update_ema(self, num_updates: int, max_decay: float) -> None:
        """Moving average of the weights, short at first: decay = min(max_decay, (1 + n) / (10 + n))."""
        decay = min(max_decay, (1 + num_updates) / (10 + num_updates))
        weights = dict(self.transformer.named_parameters())
        averages = [parallel.local(average) for average in self.ema.values()]
        torch._foreach_lerp_(averages, [parallel.local(weights[name].detach()) for name in self.ema], 1 - decay)

    def whole(self, ranks: Ranks, averaged: bool, dtype: torch.dtype = torch.float32) -> AlchemistTransformer:
        """The whole transformer on the first rank's CPU, on the others its shapes; all ranks must take part.

        dtype: but for what the transformer keeps in float32.
        """
        weights = {name: parameter.detach() for name, parameter in self.transformer.named_parameters()}
        full = parallel.gathered({**weights, **self.ema} if averaged else weights, ranks)
        exact = exact_names(self.transformer)
        full = {name: one if name in exact else one.to(dtype) for name, one in full.items()}
        made = hollow(description(self.transformer))
        if ranks.first:
            made.load_state_dict(full, assign=True)
        return made.requires_grad_(False).eval()


# ------------------------------------------------------------------------------------------------------------------
# Building and growing


def build(
    transformer: AlchemistTransformer,
    ranks: Ranks,
    config: TrainConfig,
    filled: bool = True,
    averaged: Collection[str] = (),
) -> State:
    """Divides a transformer over the ranks and takes it over. filled: the first rank's weights are everyone's.

    averaged: parameters that were trained before. What neither was nor will be is kept as it is computed with: every
    step sees the same numbers as with float32, and a backbone that stays frozen takes half the memory.
    """
    if config.parallel.frozen_precision == "compute":
        frozen = never_trained(transformer, config.stages)
        for name, parameter in transformer.named_parameters():
            if name in frozen and not {name, unadapted(name)} & {*averaged}:
                parameter.data = parameter.data.to(ranks.dtype)
    objective = Objective(
        transformer,
        mixed=config.parallel.precision == "mixed",
        shift=config.shift,
        base_latent=config.base_latent,
        text_drop=config.text_drop,
        image_drop=config.image_drop,
        self_conditioning_probability=config.self_conditioning_probability,
        localization=config.localization_weight > 0,
        dtype=ranks.dtype,
    )
    transformer.requires_grad_(True)
    parallel.shard(objective, ranks, config.parallel, filled)
    return State(objective, {}, make_optimizer(transformer, config.optimizer))


def enter(state: State, stage: Stage, ranks: Ranks, config: TrainConfig) -> State:
    """The state for a stage: new layers added with zero effect, what it does not train frozen, the rest averaged."""
    # FSDP settles at its first step which of its units train, and LoRA leaves those outside of the blocks asleep.
    wakes = has_lora(state.transformer) and stage.trainable != "lora"
    if wakes or lacks_layers(state.transformer, stage):
        before, averaged = state.tensors(), state.ema.keys()
        grown = add_layers(state.whole(ranks, averaged=False), stage, config)
        state = build(grown, ranks, config, averaged=averaged)
        state.adopt(before)
    trained = trained_names(state.transformer, stage)
    for name, parameter in state.transformer.named_parameters():
        parameter.requires_grad_(name in trained)
        if name in trained and name not in state.ema:
            state.ema[name] = parameter.detach().clone()
    for module in state.transformer.modules():
        if isinstance(module, nn.Dropout):
            module.p = config.dropout
    state.objective.train()
    return state


def lacks_layers(transformer: AlchemistTransformer, stage: Stage) -> bool:
    return (stage.personalization and not transformer.config["personalization"]) or (
        stage.trainable == "lora" and not has_lora(transformer)
    )


def add_layers(transformer: AlchemistTransformer, stage: Stage, config: TrainConfig) -> AlchemistTransformer:
    """What a stage needs and the transformer lacks, with zero effect; drawn by the run's seed."""
    torch.manual_seed(config.seed)
    with transformer.device:
        if stage.personalization and not transformer.config["personalization"]:
            transformer = add_personalization(transformer)
        if stage.trainable == "lora" and not has_lora(transformer):
            add_lora(transformer, config.lora)
    return transformer


def add_lora(transformer: AlchemistTransformer, config: LoraConfig) -> None:
    """Adapters (PEFT) beside the linear layers of the backbone's attention."""
    import peft

    targets = [
        name
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("blocks.") and name.split(".")[2] in BACKBONE_ATTENTION
    ]
    transformer.add_adapter(peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets))


def has_lora(transformer: AlchemistTransformer) -> bool:
    return any(_is_lora(name) for name, _ in transformer.named_parameters())


def _is_lora(name: str) -> bool:
    return ".lora_" in name


def unadapted(name: str) -> str:
    """A parameter's name before an adapter was put beside its layer."""
    return name.replace(".base_layer.", ".")


def trained_names(transformer: AlchemistTransformer, stage: Stage) -> set[str]:
    """Parameters that a stage trains, of those that the transformer has."""
    new = {name for name, _ in transformer.personalization_parameters()}
    return {
        name
        for name, _ in transformer.named_parameters()
        if stage.trainable == "all" or (_is_lora(name) if stage.trainable == "lora" else name in new)
    }


def never_trained(transformer: AlchemistTransformer, stages: Sequence[Stage]) -> set[str]:
    """Parameters that no stage trains, but for those that must be float32 in any case."""
    names = {name for name, _ in transformer.named_parameters()} - exact_names(transformer)
    return names.difference(*(trained_names(transformer, stage) for stage in stages if stage.steps))


def exact_names(transformer: AlchemistTransformer) -> set[str]:
    """Parameters that are float32 whatever the others are."""
    kept = {*(transformer._keep_in_fp32_modules or ())}
    return {name for name, _ in transformer.named_parameters() if kept & {*name.split(".")}}


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over all parameters (frozen ones have no gradient and stay); biases and norms do not decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decay = config.weight_decay if parameter.ndim >= 2 else 0.0
        groups.setdefault((decay, config.reference_factor if _starts_closed(name) else 1.0), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": group, "weight_decay": decay, "factor": factor} for (decay, factor), group in groups.items()],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        fused=next(model.parameters()).device.type in ("cpu", "cuda"),
    )


def _starts_closed(name: str) -> bool:
    """What attention to references adds, zero at first (App. B.2), to a residual stream that has long grown."""
    return ".reference_attn." in name and (".kv." in name or ".out." in name)


# ------------------------------------------------------------------------------------------------------------------
# Describing


def description(transformer: AlchemistTransformer) -> dict[str, Any]:
    """What `hollow` needs to build a transformer with the same layers; JSON."""
    config = {name: value for name, value in transformer.config.items() if not name.startswith("_")}
    lora = None
    if has_lora(transformer):
        adapter = transformer.peft_config["default"]
        lora = asdict(LoraConfig(adapter.r, adapter.lora_alpha))
    return {"transformer": config, "lora": lora}


def hollow(described: dict[str, Any]) -> AlchemistTransformer:
    """A transformer of shapes without weights (meta)."""
    with torch.device("meta"):
        transformer = AlchemistTransformer(**described["transformer"])
        if described["lora"] is not None:
            add_lora(transformer, LoraConfig(**described["lora"]))
    return transformer
