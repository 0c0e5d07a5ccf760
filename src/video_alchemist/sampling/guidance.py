"""Classifier-free guidance with a scale for the text and one for the images (App. B.3, Eq. 1 and Eq. 2).

B batch · G branches (c_I or nothing, c_T or nothing) · N reference images · M = N * L their tokens · S text tokens
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from diffusers.configuration_utils import register_to_config
from diffusers.guiders import BaseGuidance
from diffusers.guiders.guider_utils import GuiderOutput
from torch import Tensor

from video_alchemist.flow import estimate_z0
from video_alchemist.model.binding import gather_word_tokens
from video_alchemist.model.condition import EncodedCondition
from video_alchemist.model.transformer import AlchemistTransformer, ConditionCache

if TYPE_CHECKING:
    from diffusers.modular_pipelines.modular_pipeline import BlockState

# diffusers warns at every guider that guiders are young; a pipeline makes one a batch.
logging.getLogger("diffusers.guiders.guider_utils").addFilter(lambda record: "Guiders are" not in record.msg)

# How the branches of a step are computed: as one batch; one after another, which takes least memory; or spread over
# the ranks of torch.distributed.
Execution = Literal["batched", "sequential", "parallel"]
EXECUTIONS: tuple[Execution, ...] = ("batched", "sequential", "parallel")


class Branch(NamedTuple):
    """Which conditions the model is shown; the others are null."""

    image: bool
    text: bool


FULL, IMAGE_ONLY, TEXT_ONLY, NULL = Branch(True, True), Branch(True, False), Branch(False, True), Branch(False, False)
# In this order those with the text are neighbours, and those with the images too, as the transformer wants them.
PREDICTIONS = {IMAGE_ONLY: "pred_text_null", FULL: "pred_cond", TEXT_ONLY: "pred_image_null", NULL: "pred_null"}


def branch_weights(
    text_scale: float, image_scale: float, equation: int = 2, has_references: bool = True
) -> dict[Branch, float]:
    """Eq. 1 or Eq. 2 with its terms collected: e~ = sum of weight * e(branch). Branches of weight 0 are left out.

    Without references c_I is nothing anyway, so branches coincide, and both equations become guidance by text.
    """
    if equation == 1:
        terms = [
            (FULL, 1.0),
            (FULL, text_scale), (IMAGE_ONLY, -text_scale),
            (IMAGE_ONLY, image_scale), (NULL, -image_scale),
        ]  # fmt: skip
    elif equation == 2:
        terms = [
            (FULL, 1.0),
            (FULL, text_scale), (IMAGE_ONLY, -text_scale),
            (FULL, image_scale), (TEXT_ONLY, -image_scale),
        ]  # fmt: skip
    else:
        raise ValueError(f"guidance equation {equation!r}; expected 1 (Brooks et al.) or 2 (the paper's)")
    weights: dict[Branch, float] = dict.fromkeys(PREDICTIONS, 0.0)
    for branch, weight in terms:
        weights[branch if has_references else Branch(True, branch.text)] += weight
    return {branch: weight for branch, weight in weights.items() if weight != 0}


def guide(velocities: Tensor, weights: Sequence[float]) -> Tensor:
    """The weighted sum of the branches' velocities: (G, B, C, f, h, w) -> (B, C, f, h, w) float32.

    Weights of 12, -8 and -3 would leave few digits of a half-precision sum.
    """
    factors = torch.tensor(list(weights), device=velocities.device)
    return torch.einsum("g,g...->...", factors, velocities.float())


class DualGuidance(BaseGuidance):
    """Eq. 1 and Eq. 2 as a guider of diffusers: text and images are each guided by, in an interval of the steps."""

    _input_predictions = list(PREDICTIONS.values())  # type: ignore[assignment]

    @register_to_config
    def __init__(
        self,
        text_scale: float = 8.0,
        image_scale: float = 3.0,
        equation: int = 2,
        text_interval: Sequence[float] = (0.0, 1.0),
        image_interval: Sequence[float] = (0.0, 1.0),
        has_references: bool = True,
        enabled: bool = True,
    ) -> None:
        """Intervals are shares of the steps; outside of its own, a scale is 0."""
        super().__init__(enabled=enabled)
        branch_weights(text_scale, image_scale, equation)

    def weights(self) -> dict[Branch, float]:
        """The branches that count at this step, see `set_state`."""
        config, done = self.config, 0.0 if self._step is None else self._step / self._num_inference_steps

        def scale(name: str) -> float:
            start, stop = config[f"{name}_interval"]
            return config[f"{name}_scale"] if self._enabled and start <= done < stop else 0.0

        return branch_weights(scale("text"), scale("image"), config["equation"], config["has_references"])

    def forward(self, **predictions: Tensor) -> GuiderOutput:
        """Velocities by the names in PREDICTIONS, those of `weights()`, each (B, C, f, h, w)."""
        weights = self.weights()
        velocities = torch.stack([predictions[PREDICTIONS[branch]] for branch in weights])
        return GuiderOutput(
            pred=guide(velocities, list(weights.values())), pred_cond=predictions["pred_cond"], pred_uncond=None
        )

    @property
    def is_conditional(self) -> bool:
        return True

    @property
    def num_conditions(self) -> int:
        return len(self.weights())

    def prepare_inputs(self, data: dict[str, Any]) -> list[BlockState]:  # type: ignore[override]
        """For diffusers' modular pipelines: tuples in `data` have an entry a prediction, in PREDICTIONS' order."""
        return [self._prepare_batch(data, *place) for place in self._places()]

    def prepare_inputs_from_block_state(self, data: BlockState, input_fields: dict[str, Any]) -> list[BlockState]:
        return [self._prepare_batch_from_block_state(input_fields, data, *place) for place in self._places()]

    def _places(self) -> Iterator[tuple[int, str]]:
        for i, (branch, name) in enumerate(PREDICTIONS.items()):
            if branch in self.weights():
                yield i, name


class GuidedVelocity:
    """velocity(z, t) of a transformer under guidance, called once a step; conditions are computed once."""

    def __init__(
        self,
        transformer: AlchemistTransformer,
        condition: EncodedCondition,
        guider: DualGuidance,
        num_steps: int,
        execution: Execution = "batched",
        use_cache: bool = True,
        times: Tensor | None = None,
    ) -> None:
        """use_cache False: keys and values of the conditions are computed anew in every step.

        times (steps + 1,): of the schedule, for whose steps all layers' modulations are then computed at once.
        """
        _check_execution(execution)
        # Lossy caches of diffusers keep what a branch did in the last steps by its name.
        self.execution = "sequential" if execution == "batched" and transformer.is_cache_enabled else execution
        self.transformer = transformer
        self.condition = condition
        self.guider = guider
        self.num_steps, self.step = num_steps, 0
        self.z0_estimate: Tensor | None = None
        self.cache = self._make_cache() if use_cache else None
        self.modulations = None if times is None else transformer.modulations(times[:-1])  # (steps, ...)

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        """z (B, C, f, h, w) float32, t (B,) -> (B, C, f, h, w) float32."""
        self.guider.set_state(self.step, self.num_steps, t)  # type: ignore[arg-type]
        weights, cache = self.guider.weights(), self.cache or self._make_cache()
        velocity = torch.zeros_like(z)
        for branches in self._groups(list(weights)):
            velocities = self._forward(z, t, cache, branches).unflatten(0, (len(branches), len(z)))
            velocity += guide(velocities, [weights[branch] for branch in branches])
        if self.execution == "parallel":
            dist.all_reduce(velocity)  # the sum is linear in the branches, so each rank brings its own terms
        if self.transformer.config["self_conditioning"]:
            self.z0_estimate = estimate_z0(z, velocity, t)
        self.step += 1
        return velocity

    def _groups(self, branches: list[Branch]) -> list[list[Branch]]:
        """Branches that this process computes together."""
        if self.execution == "sequential":
            return [[branch] for branch in branches]
        if self.execution == "parallel":
            own = branches[dist.get_rank() :: dist.get_world_size()]
            return [own] if own else []
        return [branches]

    def _forward(self, z: Tensor, t: Tensor, cache: ConditionCache, branches: list[Branch]) -> Tensor:
        """Velocities (G * B, C, f, h, w) of some branches, one branch after another."""
        dtype = self.transformer.dtype
        inputs = {} if self.z0_estimate is None else {"z0_estimate": self.z0_estimate.to(dtype)}
        if self.modulations is not None:
            inputs["modulation"] = self.modulations[self.step : self.step + 1]
        name = "+".join(PREDICTIONS[branch] for branch in branches)
        with self.transformer.cache_context(name, step_index=self.step, num_inference_steps=self.num_steps):
            shown = cache.show([(branch.text, branch.image) for branch in branches])
            return self.transformer(z.to(dtype), t, cache=shown, **inputs)

    def _make_cache(self) -> ConditionCache:
        """References are bound before any text is dropped: their word tokens belong to c_I."""
        condition, transformer = self.condition, self.transformer
        inputs: dict[str, Any] = {"text_tokens": condition.text_tokens, "text_mask": condition.text_mask}
        if condition.null_tokens is not None:
            inputs["null_text_tokens"], inputs["null_text_mask"] = condition.null_tokens, condition.null_mask
        if condition.image_tokens is not None and condition.word_index is not None:
            words = gather_word_tokens(condition.text_tokens, condition.word_index)  # (B, N, W * D_text)
            references = transformer.bind(condition.image_tokens, words, condition.image_mask)
            inputs["references"], inputs["reference_mask"] = references  # (B, M, d), (B, M)
        return transformer.cache(**inputs)


def _check_execution(execution: str) -> None:
    if execution not in EXECUTIONS:
        raise ValueError(f"branches {execution!r}; expected one of {', '.join(EXECUTIONS)}")
    if execution == "parallel" and not (dist.is_available() and dist.is_initialized()):
        raise ValueError("branches 'parallel' without ranks; expected a start by torchrun --nproc-per-node 3")
    if execution == "parallel" and dist.get_world_size() > 3:
        raise ValueError(f"branches 'parallel' on {dist.get_world_size()} ranks; expected at most 3, a branch each")
