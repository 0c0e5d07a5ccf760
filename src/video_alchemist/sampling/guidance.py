"""Classifier-free guidance with a scale for the text and one for the images (App. B.3, Eq. 1 and Eq. 2).

B batch · G branches (c_I or nothing, c_T or nothing) · N reference images · L tokens of one image · S text tokens
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import repeat
from torch import Tensor

from video_alchemist.flow import estimate_z0
from video_alchemist.model.binding import gather_word_tokens
from video_alchemist.model.condition import EncodedCondition
from video_alchemist.model.transformer import AlchemistTransformer


class Branch(NamedTuple):
    """Which conditions the model is shown; the others are set to zero."""

    image: bool
    text: bool


FULL, IMAGE_ONLY, TEXT_ONLY, NULL = Branch(True, True), Branch(True, False), Branch(False, True), Branch(False, False)


def branch_weights(
    text_scale: float, image_scale: float, equation: int = 2, has_references: bool = True
) -> dict[Branch, float]:
    """Eq. 1 or Eq. 2 with its terms collected: e~ = sum of weight * e(branch). Branches of weight 0 are left out.

    Without references c_I is nothing, so branches coincide, and both equations become plain guidance by text.
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
    weights: dict[Branch, float] = {}
    for branch, weight in terms:
        branch = branch if has_references else Branch(False, branch.text)
        weights[branch] = weights.get(branch, 0.0) + weight
    return {branch: weight for branch, weight in weights.items() if weight != 0}


def guide(velocities: Tensor, weights: dict[Branch, float]) -> Tensor:
    """The weighted sum of the branches' velocities: (G, B, C, f, h, w) -> (B, C, f, h, w) float32.

    Weights of 12, -8 and -3 would leave few digits of a half-precision sum.
    """
    factors = torch.tensor(list(weights.values()), device=velocities.device)
    return torch.einsum("g,g...->...", factors, velocities.float())


class GuidedVelocity:
    """velocity(z, t) of a transformer under guidance: all branches as one batch, conditions computed once."""

    def __init__(
        self,
        transformer: AlchemistTransformer,
        condition: EncodedCondition,
        weights: dict[Branch, float],
        use_cache: bool = True,
    ) -> None:
        self.transformer = transformer
        self.weights = weights
        self.z0_estimate: Tensor | None = None
        inputs = _branch_inputs(transformer, condition, weights)
        self.inputs: dict[str, Any] = inputs
        if use_cache:
            self.inputs = {"cache": apply_forward_hook(AlchemistTransformer.cache)(transformer, **inputs)}

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        """z (B, C, f, h, w) float32, t (B,) -> (B, C, f, h, w) float32."""
        num_branches, dtype = len(self.weights), self.transformer.dtype
        inputs = dict(self.inputs)
        if self.z0_estimate is not None:
            inputs["z0_estimate"] = repeat(self.z0_estimate.to(dtype), "B ... -> (G B) ...", G=num_branches)
        zs = repeat(z.to(dtype), "B ... -> (G B) ...", G=num_branches)  # (G * B, C, f, h, w)
        velocities = self.transformer(zs, t.repeat(num_branches), **inputs)
        velocity = guide(velocities.unflatten(0, (num_branches, len(z))), self.weights)  # (B, C, f, h, w)
        if self.transformer.config["self_conditioning"]:
            self.z0_estimate = estimate_z0(z, velocity, t)
        return velocity


def _branch_inputs(
    transformer: AlchemistTransformer, condition: EncodedCondition, weights: dict[Branch, float]
) -> dict[str, Tensor]:
    """The transformer's conditions for all branches: the same tokens, hidden by masks where a condition is dropped.

    References are bound before any text is dropped: their word tokens belong to c_I.
    """
    text, text_mask = condition.text_tokens, condition.text_mask
    shown_text = torch.tensor([branch.text for branch in weights], device=text.device)
    inputs = {
        "text_tokens": repeat(text, "B S D -> (G B) S D", G=len(weights)),
        "text_mask": (shown_text[:, None, None] & text_mask).flatten(0, 1),  # (G * B, S)
    }
    if condition.image_tokens is not None and condition.word_index is not None:
        words = gather_word_tokens(text, condition.word_index)  # (B, N, W * D_text)
        # Offloading moves a network in where its forward is called; bind and cache are called beside it.
        bind = apply_forward_hook(AlchemistTransformer.bind)
        references, mask = bind(transformer, condition.image_tokens, words, condition.image_mask)
        shown_images = torch.tensor([branch.image for branch in weights], device=text.device)
        inputs["references"] = repeat(references, "B M d -> (G B) M d", G=len(weights))  # M = N * L
        inputs["reference_mask"] = (shown_images[:, None, None] & mask).flatten(0, 1)  # (G * B, M)
    return inputs
