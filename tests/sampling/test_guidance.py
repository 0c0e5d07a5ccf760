"""Eq. 1 and Eq. 2 in closed form, and the branches as the transformer sees them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from diffusers.modular_pipelines.modular_pipeline import BlockState
from torch import Tensor

from video_alchemist.model.binding import gather_word_tokens
from video_alchemist.model.condition import EncodedCondition
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.sampling.guidance import (
    FULL,
    IMAGE_ONLY,
    NULL,
    PREDICTIONS,
    TEXT_ONLY,
    DualGuidance,
    GuidedVelocity,
    branch_weights,
    guide,
)

E = {FULL: 5.0, IMAGE_ONLY: 3.0, TEXT_ONLY: 2.0, NULL: 7.0}  # e(z, c_I, c_T) and so on, constants


def guided_constant(weights: dict) -> float:
    return float(guide(torch.tensor([[E[branch]] for branch in weights]), list(weights.values())))


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
    assert weights == {FULL: 9, IMAGE_ONLY: -8}


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
    weights = list(branch_weights(8, 3).values())
    torch.testing.assert_close(guide(velocities, weights), expected, rtol=1e-6, atol=0)


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
    guided = GuidedVelocity(transformer, condition, DualGuidance(8, 3, equation), 1, use_cache=use_cache)(z, t)
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
    guided = GuidedVelocity(transformer, condition, DualGuidance(4, 3, has_references=False), 1)(z, t)
    text, null = (one_branch(transformer, condition, z, t, False, shown) for shown in (True, False))
    torch.testing.assert_close(guided, text + 4 * (text - null), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_self_conditioning_feeds_back_the_guided_estimate() -> None:
    """Guards against an estimate of one branch, of another time, or none at all."""
    transformer, condition = randomised(self_conditioning=True), random_condition()
    words = gather_word_tokens(condition.text_tokens, condition.word_index)
    references = transformer.bind(condition.image_tokens, words, condition.image_mask)
    z, t = torch.randn(2, 4, 2, 4, 4), torch.tensor([0.9, 0.9])
    inputs = (condition.text_tokens, condition.text_mask, *references)
    guided = GuidedVelocity(transformer, condition, DualGuidance(0, 0), 2)
    first = guided(z, t)
    torch.testing.assert_close(first, transformer(z, t, *inputs), atol=1e-5, rtol=1e-5)
    z_next, t_next = z - 0.1 * first, t - 0.1
    expected = transformer(z_next, t_next, *inputs, z0_estimate=z - 0.9 * first)
    torch.testing.assert_close(guided(z_next, t_next), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, transformer(z_next, t_next, *inputs), atol=1e-3)


def test_intervals() -> None:
    """Guards against guidance outside its interval, and forwards for branches that do not count there."""
    guider = DualGuidance(8, 3, text_interval=(0.25, 1.0), image_interval=(0.0, 0.5))
    found = []
    for step in range(4):
        guider.set_state(step, 4, torch.tensor([0]))
        found.append(guider.weights())
        assert guider.num_conditions == len(found[-1])
    assert found == [{FULL: 4, TEXT_ONLY: -3}, branch_weights(8, 3), *[{IMAGE_ONLY: -8, FULL: 9}] * 2]
    guider.disable()
    assert guider.weights() == {FULL: 1}


@torch.no_grad()
def test_intervals_in_the_sampler() -> None:
    """Guards against keys and values of one step's branches in another's."""
    transformer, condition, z = randomised(), random_condition(), torch.randn(2, 4, 2, 4, 4)
    guided = GuidedVelocity(transformer, condition, DualGuidance(8, 3, image_interval=(0.5, 1.0)), 2)
    t = torch.tensor([0.5, 0.5])
    for guider in (DualGuidance(8, 0), DualGuidance(8, 3)):
        expected = GuidedVelocity(transformer, condition, guider, 1)(z, t)
        torch.testing.assert_close(guided(z, t), expected, atol=1e-5, rtol=1e-5)


def test_as_a_guider_of_diffusers(tmp_path: Path) -> None:
    """Guards against what diffusers' modular pipelines call: inputs by prediction, outputs by name, config files."""
    guider = DualGuidance(2.0, 0.5)
    fields = {"text": ("null", "text", "text", "null"), "images": ("images", "images", "absent", "absent")}
    data = BlockState(text=E[FULL], null=0.0, images=1.0)
    states = guider.prepare_inputs_from_block_state(data, fields)
    assert [(state.text, state.__guidance_identifier__) for state in states] == [
        (0.0, "pred_text_null"), (E[FULL], "pred_cond"), (E[FULL], "pred_image_null")
    ]  # fmt: skip
    for state, branch in zip(states, (IMAGE_ONLY, FULL, TEXT_ONLY), strict=True):
        state.noise_pred = torch.tensor([E[branch]])
    assert float(guider(states).pred) == pytest.approx(guided_constant(branch_weights(2.0, 0.5)))
    guider.save_pretrained(tmp_path)
    assert DualGuidance.from_pretrained(tmp_path).weights() == guider.weights()


def two_steps(execution: str, **options: object) -> Tensor:
    """Both samples after two steps, the second without the image branch."""
    transformer, condition = randomised(**options), random_condition()
    guider = DualGuidance(8, 3, image_interval=(0.0, 0.5))
    velocity = GuidedVelocity(transformer, condition, guider, 2, execution)  # type: ignore[arg-type]
    z = torch.randn(2, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for t in (1.0, 0.5):
            z = z - 0.01 * velocity(z, torch.full((2,), t))
    return z


def one_rank(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world)
    torch.save(two_steps("parallel", self_conditioning=True), folder / f"{world}-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_three_ways_agree(world: int, tmp_path: Path) -> None:
    """Guards against branches that are left out or counted twice, one after another or over two or three ranks; in
    the second step a rank may have no branch."""
    expected = two_steps("batched", self_conditioning=True)
    torch.testing.assert_close(two_steps("sequential", self_conditioning=True), expected, atol=1e-5, rtol=1e-5)
    context = mp.start_processes(one_rank, (world, tmp_path), nprocs=world, join=False, start_method="fork")
    while not context.join():
        pass
    for rank in range(world):
        found = torch.load(tmp_path / f"{world}-{rank}.pt")
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_unknown_ways() -> None:
    with pytest.raises(ValueError, match="branches 'serial'; expected one of batched, sequential, parallel"):
        two_steps("serial")
    with pytest.raises(ValueError, match="branches 'parallel' without ranks; expected a start by torchrun"):
        two_steps("parallel")


def test_names_of_the_branches() -> None:
    """The names that a cache of diffusers, or a modular pipeline, knows the branches by."""
    assert PREDICTIONS[FULL] == "pred_cond" and set(PREDICTIONS) == {FULL, IMAGE_ONLY, TEXT_ONLY, NULL}
