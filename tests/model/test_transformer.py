"""The transformer (§3.2, Table 5): identities between its paths, and the paper's size."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from video_alchemist.model.flops import parameter_counts
from video_alchemist.model.transformer import AlchemistTransformer, add_personalization

SIZE: dict[str, Any] = dict(
    in_channels=4, hidden_size=24, depth=2, num_heads=2, text_dim=6, image_dim=10, max_images=4, word_length=2
)


def build(awake: bool = True, **options: Any) -> AlchemistTransformer:
    """A tiny transformer; awake: its zero-initialised layers are filled, so that every path reaches the output."""
    torch.manual_seed(0)
    transformer = AlchemistTransformer(**{**SIZE, **options}).eval()
    if awake:
        for parameter in transformer.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return transformer


def condition(transformer: AlchemistTransformer, batch: int = 2) -> dict[str, Tensor]:
    """Text of which sample 1 uses two tokens of three, and three images of which sample 1 has two."""
    torch.manual_seed(1)
    image_mask = torch.ones(batch, 3, dtype=torch.bool)
    image_mask[1:, 2:] = False
    text_mask = torch.ones(batch, 3, dtype=torch.bool)
    text_mask[1:, 2:] = False
    references, mask = transformer.bind(torch.randn(batch, 3, 5, 10), torch.randn(batch, 3, 12), image_mask)
    text = torch.randn(batch, 3, 6)
    return dict(text_tokens=text, text_mask=text_mask, references=references, reference_mask=mask)


def latents(batch: int = 2) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.randn(batch, 4, 3, 4, 6), torch.rand(batch)


def wave(*shape: int) -> Tensor:
    """Numbers that are the same on every machine and in every version of torch."""
    return torch.sin(torch.arange(torch.Size(shape).numel(), dtype=torch.float64) * 1.3).float().view(shape)


VARIANTS: list[dict[str, Any]] = [
    dict(),
    dict(qk_norm=True),
    dict(shared_cross_attention=True),
    dict(shared_cross_attention=True, qk_norm=True),
    dict(place_grid=(2, 3)),
    dict(input_skip=True),
]
variants = pytest.mark.parametrize("options", VARIANTS, ids=lambda options: "+".join(options) or "separate")


@torch.no_grad()
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(), [0.439823, 0.859482, -0.458031, -0.607007]),
        (dict(qk_norm=True), [0.570661, 0.782940, 0.173645, -0.116484]),
        (dict(shared_cross_attention=True), [1.281114, 0.338964, 0.483396, 0.277572]),
    ],
    ids=str,
)
def test_trained_weights_keep_their_meaning(options: dict[str, Any], expected: list[float]) -> None:
    """Guards shipped and users' weights against a change of the function that they were trained for: these are
    numbers of the first release."""
    transformer = build(awake=False, **options)
    for k, parameter in enumerate(transformer.parameters()):
        phase = torch.arange(parameter.numel(), dtype=torch.float64) * 0.7 + k
        parameter.copy_(0.3 * torch.sin(phase).float().view_as(parameter))
    mask = torch.tensor([[True, True, True], [True, True, False]])
    bound = transformer.bind(wave(2, 3, 5, 10), wave(2, 3, 12), mask)
    velocity = transformer(wave(2, 4, 3, 4, 6), torch.tensor([0.3, 0.8]), wave(2, 3, 6), mask, *bound)
    found = velocity.flatten()[[0, 100, 287, -1]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=0)


def test_the_shipped_weights_load_whole() -> None:
    """Guards against a renamed parameter or an option without default: the shipped configuration has none of Wan's."""
    folder = Path(str(files("video_alchemist"))) / "emojiworld" / "bundle" / "transformer"
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    transformer = AlchemistTransformer.from_pretrained(folder)
    loaded = transformer.state_dict()
    assert set(loaded) == set(weights)
    assert all(torch.equal(loaded[name], weight) for name, weight in weights.items())
    assert transformer.config["modulation"] == "per_block" and not transformer.config["text_bias"]


@variants
def test_stage_two_starts_as_stage_one_bit_for_bit(options: dict[str, Any]) -> None:
    """Guards against new layers that disturb the trained backbone at the start of stage II (App. B.2)."""
    first = build(personalization=False, **options)
    second = add_personalization(first)
    z, t = latents()
    given = condition(second)
    text = dict(text_tokens=given["text_tokens"], text_mask=given["text_mask"])
    assert torch.equal(first(z, t, **text), second(z, t, **given))
    assert not second.training


@variants
def test_stage_two_can_learn_from_its_first_step(options: dict[str, Any]) -> None:
    """Guards against a start at zero that no gradient leaves (two zero layers in a row)."""
    second = add_personalization(build(personalization=False, **options))
    z, t = latents()
    second(z, t, **condition(second)).square().sum().backward()
    assert any(p.grad is not None and p.grad.any() for _, p in second.personalization_parameters())


@variants
def test_cached_keys_and_values_equal_uncached(options: dict[str, Any]) -> None:
    """Guards against a cache that forgets masks, norms or a condition."""
    transformer = build(**options)
    z, t = latents()
    given = condition(transformer)
    text_only = dict(text_tokens=given["text_tokens"])
    images_only = dict(text_tokens=None, references=given["references"], reference_mask=given["reference_mask"])
    for case in (given, text_only, images_only, dict(text_tokens=None)):
        assert torch.equal(transformer(z, t, cache=transformer.cache(**case)), transformer(z, t, **case))
    with pytest.raises(ValueError, match="both a cache and a condition"):
        transformer(z, t, **given, cache=transformer.cache(**given))


@variants
def test_padding_changes_nothing(options: dict[str, Any]) -> None:
    """Guards against results that depend on the longest prompt, or the most images, of a batch."""
    transformer = build(**options)
    z, t = latents()
    given = condition(transformer)
    padded = dict(given)
    for tokens, mask in (("text_tokens", "text_mask"), ("references", "reference_mask")):
        padded[tokens] = torch.cat([given[tokens], torch.randn_like(given[tokens])], dim=1)
        padded[mask] = torch.cat([given[mask], torch.zeros_like(given[mask])], dim=1)
    torch.testing.assert_close(transformer(z, t, **padded), transformer(z, t, **given), atol=1e-6, rtol=1e-5)


@variants
def test_samples_do_not_see_their_batch(options: dict[str, Any]) -> None:
    """Guards against mixing along the batch: modulation, masks or attention of another sample."""
    transformer = build(**options)
    z, t = latents()
    given = condition(transformer)
    together = transformer(z, t, **given)
    for i in range(2):
        alone = transformer(z[i : i + 1], t[i : i + 1], **{name: value[i : i + 1] for name, value in given.items()})
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-5)


@variants
def test_masked_conditions_are_the_null_condition(options: dict[str, Any]) -> None:
    """Guards against dropped conditions (App. B.2: "set them to zero") and missing ones meaning different things."""
    transformer = build(**options)
    z, t = latents()
    given = condition(transformer)
    hidden = {name: torch.zeros_like(value) if "mask" in name else value for name, value in given.items()}
    zeros = {name: torch.zeros_like(value) for name, value in given.items() if "mask" not in name}
    null = transformer(z, t)
    torch.testing.assert_close(transformer(z, t, **hidden), null, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(transformer(z, t, **zeros), null, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(transformer(z, t, **given), null, atol=1e-3)
    assert transformer(z, t, **given).isfinite().all()


@variants
def test_gradients_are_finite_where_conditions_are_dropped(options: dict[str, Any]) -> None:
    """Guards against NaN gradients out of fully masked samples, which would end a run hours later."""
    transformer = build(**options).train()
    z, t = latents()
    given = condition(transformer)
    for mask in ("text_mask", "reference_mask"):
        given[mask] = given[mask] & torch.tensor([[True], [False]])
    transformer(z, t, **given).square().mean().backward()
    for name, parameter in transformer.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    """Guards against a checkpointed block that drops an argument."""
    gradients = []
    for checkpointing in (False, True):
        transformer = build().train()
        if checkpointing:
            transformer.enable_gradient_checkpointing()
        z, t = latents()
        transformer(z, t, **condition(transformer)).square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in transformer.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.parametrize("options", [dict(), dict(personalization=False), dict(shared_cross_attention=True)])
def test_saving_and_loading(tmp_path: Path, options: dict[str, Any]) -> None:
    """Guards against a configuration or weight that does not survive diffusers' folder format."""
    transformer = build(self_conditioning=True, qk_norm=True, **options)
    transformer.save_pretrained(tmp_path)
    loaded = AlchemistTransformer.from_pretrained(tmp_path)
    z, t = latents()
    text = torch.randn(2, 3, 6)
    assert torch.equal(loaded(z, t, text, z0_estimate=z), transformer(z, t, text, z0_estimate=z))
    assert loaded.patch_size == (1, 2, 2)


def test_fresh_transformer_predicts_zero() -> None:
    """Guards against a lost zero initialisation (App. B.1, adaLN-Zero)."""
    for skip in (False, True):
        transformer = build(awake=False, input_skip=skip)
        z, t = latents()
        assert torch.equal(transformer(z, t, **condition(transformer)), torch.zeros_like(z))


def test_patches_return_to_their_place() -> None:
    """Guards against patchify and unpatchify that disagree about axes."""
    transformer = build(patch_size=(1, 2, 2), depth=0)
    z, t = latents()
    tokens, grid = transformer._patchify(z, None)
    assert grid == (3, 2, 3) and tokens.shape == (2, 18, 16)
    transformer.patch_embedding = torch.nn.Identity()  # type: ignore[assignment]
    transformer.final_layer.forward = lambda x, time, tabulated: x  # type: ignore[method-assign]
    assert torch.equal(transformer(z, t), z)


def test_self_conditioning_starts_from_zeros() -> None:
    """Guards against a missing estimate meaning something else than zeros, and an estimate nobody reads."""
    transformer = build(self_conditioning=True)
    z, t = latents()
    assert torch.equal(transformer(z, t), transformer(z, t, z0_estimate=torch.zeros_like(z)))
    assert not torch.allclose(transformer(z, t), transformer(z, t, z0_estimate=z))
    with pytest.raises(ValueError, match="without self_conditioning"):
        build()(z, t, z0_estimate=z)


@torch.no_grad()
def test_input_skip_scales_the_latents() -> None:
    """Guards against a skip of the estimate instead of the latents, or of patches out of order: with a last layer that
    tells the same of every token, what comes out is what went in, times a number a channel and place in the patch."""
    transformer = build(input_skip=True, self_conditioning=True, patch_size=(1, 2, 2))
    linear = transformer.final_layer.linear
    linear.weight.zero_()
    linear.bias.copy_(torch.cat([torch.zeros(16), torch.arange(16.0)]))
    z, t = latents()
    expected = z * torch.arange(16.0).view(4, 1, 2, 2).repeat(1, 1, 2, 3)  # (C, 1, h, w)
    torch.testing.assert_close(transformer(z, t, z0_estimate=torch.randn_like(z)), expected)


def test_word_binding_reaches_the_video() -> None:
    """Guards against words lost on the way (§3.2), and against words seen in Table 3's "no word token"."""
    z, t = latents()
    for word_binding in (True, False):
        transformer = build(word_binding=word_binding)
        images = torch.randn(2, 3, 5, 10)
        videos = [transformer(z, t, None, None, *transformer.bind(images, torch.randn(2, 3, 12))) for _ in range(2)]
        assert torch.equal(*videos) != word_binding


def test_personalization_parameters_are_what_stage_two_adds() -> None:
    """Guards against freezing new layers, or training the backbone, in stage II's first 10k steps."""
    for shared in (False, True):
        first = dict(build(personalization=False, shared_cross_attention=shared).named_parameters())
        second = build(shared_cross_attention=shared)
        new = {name for name, _ in second.personalization_parameters()}
        assert new == {name for name, _ in second.named_parameters()} - set(first)
        assert any("binding" in name for name in new) and any("reference" in name for name in new)
    with pytest.raises(ValueError, match="already"):
        add_personalization(second)


def test_lora_takes_hold_of_attention() -> None:
    """Guards against names that peft cannot target."""
    lora_config = pytest.importorskip("peft").LoraConfig
    transformer = build()
    transformer.add_adapter(lora_config(r=2, target_modules=["q", "kv", "qkv", "out"]))
    trained = {name for name, parameter in transformer.named_parameters() if parameter.requires_grad}
    assert trained and all("lora" in name for name in trained)
    assert any("reference_attn" in name for name in trained)


def test_blocks_compile_without_graph_breaks() -> None:
    """Guards against Python branches on data inside a block, which would cost the compiled model its speed."""
    transformer = build()
    z, t = latents()
    given = condition(transformer)
    expected = transformer(z, t, **given)
    torch.compiler.reset()  # what other tests compiled makes this slow
    transformer.compile_repeated_blocks(fullgraph=True, backend="eager")
    torch.testing.assert_close(transformer(z, t, **given), expected)


def test_half_precision_and_autocast() -> None:
    """Guards against float32 leaking out of RoPE, norms or the time embedding into half-precision attention."""
    z, t = latents()
    for options in VARIANTS:
        transformer = build(**options)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert transformer(z, t, **condition(transformer)).isfinite().all()
        given = condition(transformer)
        given = {name: value if "mask" in name else value.bfloat16() for name, value in given.items()}
        transformer = transformer.to(torch.bfloat16)  # type: ignore[arg-type]
        assert transformer(z.bfloat16(), t, **given).dtype == torch.bfloat16


def test_user_errors() -> None:
    """Guards against shape errors from deep inside for what a user can get wrong."""
    with pytest.raises(ValueError, match="height 5 is not a multiple of the patch's 2; nearest: 4"):
        build()(torch.randn(1, 4, 1, 5, 6), torch.rand(1))
    with pytest.raises(ValueError, match="3 channels; expected 4"):
        build()(torch.randn(1, 3, 1, 4, 6), torch.rand(1))
    with pytest.raises(ValueError, match="stage I"):
        build(personalization=False)(*latents(), references=torch.randn(2, 5, 10))
    with pytest.raises(ValueError, match="stage I"):
        build(personalization=False).bind(torch.randn(2, 3, 5, 10))
    with pytest.raises(ValueError, match="qk_norm 'heads'; expected one of None, 'per_head', 'across_heads'"):
        build(qk_norm="heads")
    with pytest.raises(ValueError, match="modulation 'shared'; expected one of 'per_block', 'shared_table'"):
        build(modulation="shared")
    with pytest.raises(ValueError, match="hidden_size 24 is not divisible by num_heads 5; nearest: 4"):
        AlchemistTransformer(hidden_size=24, num_heads=5)


def test_the_papers_size() -> None:
    """Table 5's backbone is 12.4B parameters with stage II; guards against layers lost or doubled at full size."""
    table_5: dict[str, Any] = dict(hidden_size=4096, depth=32, num_heads=32, text_dim=1024, image_dim=1024)
    with torch.device("meta"):
        first = parameter_counts(AlchemistTransformer(**table_5, self_conditioning=True, personalization=False))
        second = parameter_counts(AlchemistTransformer(**table_5, self_conditioning=True))
    d, context, depth = 4096, 1024, 32
    assert second["self_attn"] == depth * 4 * (d * d + d)
    assert second["text_attn"] == second["reference_attn"] == depth * (2 * d * d + 2 * context * d)
    assert second["adaLN"] == depth * 6 * (d * d + d)
    assert second["ffn"] == depth * (8 * d * d + 5 * d)
    assert second["binding"] == (1024 + 4 * 1024) * 1024 + 1024 + 6 * 1024
    assert (first["total"], second["total"]) == (11_060_006_976, 12_407_434_304)
    assert second["total"] - first["total"] == second["binding"] + second["reference_attn"]
