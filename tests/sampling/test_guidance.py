"""Eq. 1 and Eq. 2 in closed form, and the branches as the transformer sees them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from video_alchemist.model.binding import gather_word_tokens
from video_alchemist.model.condition import EncodedCondition
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.sampling.guidance import (
    FULL,
    IMAGE_ONLY,
    NULL,
    TEXT_ONLY,
    GuidedVelocity,
    branch_weights,
    guide,
)

E = {FULL: 5.0, IMAGE_ONLY: 3.0, TEXT_ONLY: 2.0, NULL: 7.0}  # e(z, c_I, c_T) and so on, constants


def guided_constant(weights: dict) -> float:
    return float(guide(torch.tensor([[E[branch]] for branch in weights]), weights))


@pytest.mark.parametrize(("s_t", "s_i"), [(8.0, 3.0), (0.0, 3.0), (8.0, 0.0), (0.0, 0.0), (2.0, 2.0), (0.5, 7.25)])
def test_equations_in_closed_form(s_t: float, s_i: float) -> None:
    """Guards against any wrong sign or branch; the right sides are copied from the paper."""
    eq1 = E[FULL] + s_t * (E[FULL] - E[IMAGE_ONLY]) + s_i * (E[IMAGE_ONLY] - E[NULL])
    eq2 = E[FULL] + s_t * (E[FULL] - E[IMAGE_ONLY]) + s_i * (E[FULL] - E[TEXT_ONLY])
    assert guided_constant(branch_weights(s_t, s_i, equation=1)) == pytest.approx(eq1)
    assert guided_constant(branch_weights(s_t, s_i, equation=2)) == pytest.approx(eq2)


@pytest.mark.parametrize("equation", [1, 2])
def test_without_references_both_are_plain_guidance(equation: int) -> None:
    """Guards against a third forward, and an image scale that changes videos without images."""
    weights = branch_weights(8, 3, equation, has_references=False)
    assert weights == {TEXT_ONLY: 9, NULL: -8}


def test_branches_that_do_not_count_are_not_computed() -> None:
    assert set(branch_weights(8, 3)) == {FULL, IMAGE_ONLY, TEXT_ONLY}
    assert set(branch_weights(8, 3, equation=1)) == {FULL, IMAGE_ONLY, NULL}
    assert set(branch_weights(0, 3)) == {FULL, TEXT_ONLY}
    assert set(branch_weights(8, 0)) == {FULL, IMAGE_ONLY}
    assert set(branch_weights(0, 0)) == {FULL}


def test_unknown_equation() -> None:
    with pytest.raises(ValueError, match="guidance equation 3; expected 1"):
        branch_weights(8, 3, equation=3)


def test_guidance_is_summed_in_full_precision() -> None:
    """Guards against 12 e - 8 e - 3 e in bfloat16, which loses what the branches agree on."""
    velocities = torch.full((3, 1, 4), 1.01, dtype=torch.bfloat16)
    expected = velocities[0].float()
    torch.testing.assert_close(guide(velocities, branch_weights(8, 3)), expected, rtol=1e-6, atol=0)


def randomised(**options: object) -> AlchemistTransformer:
    torch.manual_seed(0)
    sizes = {"in_channels": 4, "hidden_size": 32, "depth": 2, "num_heads": 2, "text_dim": 8, "image_dim": 12}
    transformer = AlchemistTransformer(**{**sizes, "word_length": 2, **options}).eval()  # type: ignore[arg-type]
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return transformer


def random_condition() -> EncodedCondition:
    """Two samples: three pictures, and one."""
    torch.manual_seed(1)
    return EncodedCondition(
        text_tokens=torch.randn(2, 5, 8),
        text_mask=torch.tensor([[True] * 5, [True] * 3 + [False] * 2]),
        image_tokens=torch.randn(2, 3, 4, 12),
        word_index=torch.tensor([[[1, 2], [1, 2], [3, -1]], [[2, -1], [-1, -1], [-1, -1]]]),
        image_mask=torch.tensor([[True, True, True], [True, False, False]]),
    )


def one_branch(transformer: AlchemistTransformer, c: EncodedCondition, z: Tensor, t: Tensor, image: bool, text: bool):
    """e(z, c_I or nothing, c_T or nothing), the way the paper writes it: what is dropped is None."""
    references = mask = None
    if image:
        assert c.image_tokens is not None and c.word_index is not None
        words = gather_word_tokens(c.text_tokens, c.word_index)
        references, mask = transformer.bind(c.image_tokens, words, c.image_mask)
    return transformer(
        z, t, c.text_tokens if text else None, c.text_mask if text else None, references, mask
    )  # fmt: skip


@pytest.mark.parametrize("equation", [1, 2])
@pytest.mark.parametrize("use_cache", [True, False])
@torch.no_grad()
def test_batched_branches_equal_separate_forwards(equation: int, use_cache: bool) -> None:
    """Guards against branches in the wrong order, masks that leak, words lost when the text is dropped, and caches."""
    transformer, condition = randomised(), random_condition()
    z, t = torch.randn(2, 4, 2, 4, 4), torch.tensor([0.3, 0.8])
    guided = GuidedVelocity(transformer, condition, branch_weights(8, 3, equation), use_cache)(z, t)
    full, image, text, null = (
        one_branch(transformer, condition, z, t, *branch) for branch in (FULL, IMAGE_ONLY, TEXT_ONLY, NULL)
    )
    last = image - null if equation == 1 else full - text
    torch.testing.assert_close(guided, full + 8 * (full - image) + 3 * last, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(full, image, atol=1e-2) and not torch.allclose(full, text, atol=1e-2)


@torch.no_grad()
def test_no_references() -> None:
    transformer, condition = randomised(), random_condition()
    condition = replace(condition, image_tokens=None, word_index=None, image_mask=None)
    z, t = torch.randn(2, 4, 2, 4, 4), torch.tensor([0.5, 0.5])
    guided = GuidedVelocity(transformer, condition, branch_weights(4, 3, has_references=False))(z, t)
    text, null = (one_branch(transformer, condition, z, t, False, shown) for shown in (True, False))
    torch.testing.assert_close(guided, text + 4 * (text - null), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_self_conditioning_feeds_back_the_guided_estimate() -> None:
    """Guards against an estimate of one branch, of another time, or none at all."""
    transformer, condition = randomised(self_conditioning=True), random_condition()
    weights = branch_weights(0, 0)
    words = gather_word_tokens(condition.text_tokens, condition.word_index)
    references = transformer.bind(condition.image_tokens, words, condition.image_mask)
    z, t = torch.randn(2, 4, 2, 4, 4), torch.tensor([0.9, 0.9])
    inputs = (condition.text_tokens, condition.text_mask, *references)
    guided = GuidedVelocity(transformer, condition, weights)
    first = guided(z, t)
    torch.testing.assert_close(first, transformer(z, t, *inputs), atol=1e-5, rtol=1e-5)
    z_next, t_next = z - 0.1 * first, t - 0.1
    expected = transformer(z_next, t_next, *inputs, z0_estimate=z - 0.9 * first)
    torch.testing.assert_close(guided(z_next, t_next), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, transformer(z_next, t_next, *inputs), atol=1e-3)
