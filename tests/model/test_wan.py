"""Wan 2.1 as a configuration of our transformer: the same function, the same parameters, there and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from video_alchemist.model.flops import parameter_counts
from video_alchemist.model.transformer import AlchemistTransformer, add_personalization
from video_alchemist.model.wan import WAN_OPTIONS, _names, alchemist_config, load_wan, relayout, save_wan

SIZE: dict[str, Any] = dict(
    num_attention_heads=2, attention_head_dim=32, in_channels=4, out_channels=4, text_dim=12, freq_dim=16, ffn_dim=100,
    num_layers=3,
)  # fmt: skip
OPTIONS: dict[str, Any] = dict(image_dim=10, max_images=3, word_length=2)
REAL = {  # parameters and tensors of the published configurations
    "1.3B": (dict(num_attention_heads=12, ffn_dim=8960, num_layers=30), 1_418_996_800, 825),
    "14B": (dict(num_attention_heads=40, ffn_dim=13824, num_layers=40), 14_288_491_584, 1095),
}


def random_wan(**options: Any) -> WanTransformer3DModel:
    torch.manual_seed(0)
    wan = WanTransformer3DModel(**{**SIZE, **options}).eval()
    for name, parameter in wan.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.2)
    return wan


@pytest.fixture(scope="module")
def wan() -> WanTransformer3DModel:
    return random_wan()


@pytest.fixture(scope="module")
def folder(wan: WanTransformer3DModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a pipeline, the transformer in several files."""
    folder = tmp_path_factory.mktemp("wan")
    wan.save_pretrained(folder / "transformer", max_shard_size="100KB")
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 2
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]})
    )
    return folder


def inputs(grid: tuple[int, int, int] = (3, 6, 8), batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, times, and text that Wan pads with zeros, which it attends to."""
    torch.manual_seed(1)
    text = torch.randn(batch, 7, 12)
    text[1, 4:] = 0
    return torch.randn(batch, 4, *grid), torch.tensor([0.25, 0.75])[:batch], text


def references(batch: int = 2) -> tuple[Tensor, Tensor]:
    """Images and words of two references each."""
    return torch.randn(batch, 2, 5, 10), torch.randn(batch, 2, 2 * 12)


@torch.no_grad()
@pytest.mark.parametrize("grid", [(1, 2, 2), (3, 6, 8), (2, 10, 4), (5, 4, 26)])
def test_output_equals_diffusers(wan: WanTransformer3DModel, folder: Path, grid: tuple[int, int, int]) -> None:
    """Guards against any layer, layout or order that differs; sizes that differ tell the axes of RoPE apart."""
    z, t, text = inputs(grid)
    expected = wan(z, 1000 * t, text).sample
    torch.testing.assert_close(load_wan(folder, personalization=False)(z, t, text), expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.1


@torch.no_grad()
def test_personalization_is_added_with_zero_effect(folder: Path) -> None:
    """Guards against new layers that disturb the open weights before the first step of stage II."""
    plain, personalized = load_wan(folder, personalization=False), load_wan(folder, **OPTIONS)
    z, t, text = inputs()
    bound = personalized.bind(*references())
    assert torch.equal(plain(z, t, text), personalized(z, t, text, None, *bound))
    assert personalized.config["image_dim"] == 10 and personalized.config["max_images"] == 3


def test_gradients_reach_what_is_trained(folder: Path) -> None:
    """Guards against assigned weights that lost their gradient, and new layers that no gradient leaves."""
    transformer = load_wan(folder, **OPTIONS).train()
    z, t, text = inputs()
    images, words = references()
    gradients = []
    for checkpointing in (False, True):
        transformer.zero_grad()
        if checkpointing:
            transformer.enable_gradient_checkpointing()
        transformer(z, t, text, None, *transformer.bind(images, words)).square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in transformer.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None and gradient.isfinite().all(), name
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)
        assert gradient.any() or "reference_attn" in name or "binding" in name, name
    assert gradients[0]["blocks.0.reference_attn.out.weight"].any()


def test_saving_gives_back_a_plain_wan(wan: WanTransformer3DModel, folder: Path, tmp_path: Path) -> None:
    """Guards against a layout that is not undone, and against layers diffusers does not know."""
    transformer = load_wan(folder, **OPTIONS)
    with torch.no_grad():
        for _, parameter in transformer.personalization_parameters():
            parameter.normal_()
    save_wan(transformer, tmp_path, max_shard_size="100KB")
    saved = WanTransformer3DModel.from_pretrained(tmp_path)
    assert saved.config["_class_name"] == "WanTransformer3DModel"
    first, last = (json.loads((path / "config.json").read_text()) for path in (folder / "transformer", tmp_path))
    assert first == last
    expected, weights = wan.state_dict(), saved.state_dict()
    assert set(weights) == set(expected)
    for name, weight in weights.items():
        assert torch.equal(weight, expected[name]), name
    torch.testing.assert_close(load_wan(tmp_path).state_dict()["blocks.0.self_attn.qkv.weight"],
                               transformer.state_dict()["blocks.0.self_attn.qkv.weight"], atol=0, rtol=0)  # fmt: skip


@pytest.mark.parametrize("size", REAL)
def test_parameters_of_the_published_sizes(size: str) -> None:
    """Guards against a parameter lost or doubled at full size: names and shapes equal diffusers', key by key."""
    options, parameters, tensors = REAL[size]
    with torch.device("meta"):
        theirs = WanTransformer3DModel(**options)
        ours = AlchemistTransformer(**alchemist_config({"_class_name": "WanTransformer3DModel", **options}, size),
                                    personalization=False)  # fmt: skip
    assert parameter_counts(ours)["total"] == parameters
    weights = ours.state_dict()
    shapes = {
        name: relayout(name, rows, ours, back=True).shape
        for mine, names in _names(ours)
        for name, rows in zip(names, weights[mine].chunk(len(names)), strict=True)
    }
    assert shapes == {name: weight.shape for name, weight in theirs.state_dict().items()}
    assert len(shapes) == tensors


@torch.no_grad()
def test_half_precision_is_as_exact_as_diffusers(folder: Path, wan: WanTransformer3DModel) -> None:
    """Guards against modulation in bfloat16, and against float32 parts that clash with the rest."""
    ours = load_wan(folder, personalization=False, dtype=torch.bfloat16)
    theirs = WanTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.bfloat16)
    kept = {name for name, parameter in ours.named_parameters() if parameter.dtype == torch.float32}
    assert {name.split(".")[-2 if "table" not in name else -1] for name in kept} == {"0", "2", "text_norm", "table"}
    assert ours.dtype == torch.bfloat16
    z, t, text = inputs()
    exact = wan(z, 1000 * t, text).sample
    half = z.bfloat16(), text.bfloat16()
    errors = [
        (result.float() - exact).square().mean()
        for result in (ours(half[0], t, half[1]), theirs(half[0], 1000 * t, half[1]).sample)
    ]
    assert errors[0] < 1.5 * errors[1]


@torch.no_grad()
def test_saving_and_loading_as_ours(folder: Path, tmp_path: Path) -> None:
    """Guards against options of Wan that do not survive our own folders."""
    transformer = load_wan(folder, **OPTIONS)
    transformer.save_pretrained(tmp_path)
    z, t, text = inputs()
    assert torch.equal(AlchemistTransformer.from_pretrained(tmp_path)(z, t, text), transformer(z, t, text))
    with pytest.raises(ValueError, match="is a AlchemistTransformer.*load it with AlchemistTransformer.from_pre"):
        load_wan(tmp_path)


@torch.no_grad()
def test_missing_text_is_zero_text(folder: Path) -> None:
    """Guards against dropped, masked and missing text meaning different things where attention has biases."""
    transformer = load_wan(folder, **OPTIONS)
    z, t, text = inputs()
    zeros = transformer(z, t, torch.zeros_like(text))
    nothing = torch.zeros(text.shape[:2], dtype=torch.bool)
    cached = transformer(z, t, cache=transformer.cache(None))
    for result in (transformer(z, t), transformer(z, t, text, nothing), cached):
        torch.testing.assert_close(result, zeros, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(transformer(z, t, text), zeros, atol=1e-2)


@torch.no_grad()
def test_a_block_compiles_without_graph_breaks(folder: Path) -> None:
    """Guards against Python branches on data in what Wan's options add to a block."""
    transformer = load_wan(folder, personalization=False)
    z, t, text = inputs()
    expected = transformer(z, t, text)
    torch.compiler.reset()  # what other tests compiled makes this slow
    transformer.compile_repeated_blocks(fullgraph=True, backend="eager")
    torch.testing.assert_close(transformer(z, t, text), expected)


def test_layerwise_casting_spares_norms_and_embeddings(folder: Path) -> None:
    """Guards against fp8 storage of what diffusers too leaves alone."""
    transformer = load_wan(folder, **OPTIONS)
    transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    cast = {name for name, parameter in transformer.named_parameters() if parameter.dtype == torch.float8_e4m3fn}
    assert {name.split(".", 2)[2].rsplit(".", 1)[0] for name in cast if name.startswith("blocks")} == {
        "self_attn.qkv", "self_attn.out", "text_attn.q", "text_attn.key_value.kv", "text_attn.out", "ffn.up",
        "ffn.down", "reference_attn.q", "reference_attn.key_value.kv", "reference_attn.out",
    }  # fmt: skip
    assert {name for name in cast if not name.startswith("blocks")} == {"binding.projection.weight",
                                                                        "binding.projection.bias"}  # fmt: skip
    z, t, text = inputs()
    assert transformer(z, t, text).isfinite().all()


def test_wrong_models_are_refused(folder: Path, tmp_path: Path) -> None:
    """Guards against tracebacks from deep inside, or a half-fitting network, for what a user can point at."""

    def config(**options: Any) -> Path:
        (tmp_path / "config.json").write_text(json.dumps({"_class_name": "WanTransformer3DModel", **options}))
        return tmp_path

    with pytest.raises(ValueError, match="image-to-video Wan .36 channels in, 16 out.*expected a text-to-video"):
        load_wan(config(in_channels=36, image_dim=1280, added_kv_proj_dim=5120))
    with pytest.raises(ValueError, match="is a CogVideoXTransformer3DModel; expected a WanTransformer3DModel"):
        load_wan(config(_class_name="CogVideoXTransformer3DModel"))
    with pytest.raises(ValueError, match="cross_attn_norm = False, which we cannot represent; expected True"):
        load_wan(config(cross_attn_norm=False))
    with pytest.raises(ValueError, match="vace_layers = .0., which we cannot represent"):
        load_wan(config(vace_layers=[0]))
    with pytest.raises(ValueError, match="no weights; expected diffusion_pytorch_model.safetensors or the sh"):
        load_wan(config())
    with pytest.raises(ValueError, match="no config.json of a transformer"):
        load_wan(tmp_path / "..")
    with pytest.raises(ValueError, match="'nowhere' is no folder; expected one, or a hub id"):
        load_wan("nowhere")
    (tmp_path / "model_index.json").write_text(json.dumps({"transformer_2": ["diffusers", "WanTransformer3DModel"]}))
    with pytest.raises(ValueError, match="two transformers, as Wan 2.2; expected Wan 2.1"):
        load_wan(tmp_path)
    with pytest.raises(ValueError, match="nobody/nothing could not be fetched from the hub"):
        load_wan("nobody/nothing", local_files_only=True)


def test_broken_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    """Guards against weights left at random where a file or a tensor is missing, and errors that do not name it."""
    random_wan(num_layers=1).save_pretrained(tmp_path, max_shard_size="50KB")
    first, *_ = sorted(tmp_path.glob("*.safetensors"))
    weights, content = load_file(first), first.read_bytes()
    first.unlink()
    with pytest.raises(ValueError, match=rf"lacks 1 of \d+ shards, e.g. '{first.name}'; download it again"):
        load_wan(tmp_path)
    first.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=rf"{first.name}' \([\d,]+ bytes\) is cut off or no safetensors file"):
        load_wan(tmp_path)
    name = min(weights)
    for wrong in ({"other": weights[name]}, {name: weights[name][:1]}):
        save_file({key: weight for key, weight in weights.items() if key != name} | wrong, first)
        with pytest.raises(ValueError, match=rf"the config.json in it: \d names or shapes differ; first '{name}'"):
            load_wan(tmp_path)


def test_what_is_no_wan_is_not_saved_as_one(tmp_path: Path) -> None:
    """Guards against an export that diffusers loads and that computes something else."""
    small: dict[str, Any] = dict(hidden_size=24, num_heads=2, depth=1)
    with pytest.raises(ValueError, match="modulation = 'per_block'; expected 'shared_table', as in Wan 2.1"):
        save_wan(AlchemistTransformer(**small), tmp_path)
    with pytest.raises(ValueError, match="self_conditioning = True; expected False"):
        save_wan(AlchemistTransformer(**small, **WAN_OPTIONS, self_conditioning=True), tmp_path)


def test_a_lora_becomes_part_of_the_export(folder: Path, tmp_path: Path) -> None:
    """Guards against an export that loses what a LoRA has learned, and LoRA files that do not come back."""
    peft = pytest.importorskip("peft")
    transformer = load_wan(folder, personalization=False)
    transformer.add_adapter(peft.LoraConfig(r=2, target_modules=["qkv", "ffn.up"]))
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if "lora" in name:
                parameter.normal_(std=0.3)
        z, t, text = inputs()
        expected = transformer(z, t, text)
        transformer.save_lora_adapter(tmp_path / "lora")
        with pytest.raises(ValueError, match="wears a LoRA; expected none"):
            save_wan(transformer, tmp_path)
        fresh = load_wan(folder, personalization=False)
        fresh.load_lora_adapter(tmp_path / "lora", prefix=None, weight_name="pytorch_lora_weights.safetensors")
        torch.testing.assert_close(fresh(z, t, text), expected)
        fresh.fuse_lora()
        fresh.unload_lora()
        save_wan(fresh, tmp_path)
        exported = WanTransformer3DModel.from_pretrained(tmp_path)
        torch.testing.assert_close(exported(z, 1000 * t, text).sample, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_stage_two_shares_the_weights(folder: Path) -> None:
    """Guards against 14B parameters held twice, and against half precision that spreads to parts kept in float32."""
    first = load_wan(folder, personalization=False, dtype=torch.bfloat16)
    second = add_personalization(first, **OPTIONS)
    ours = dict(second.named_parameters())
    for name, parameter in first.named_parameters():
        assert ours[name].data_ptr() == parameter.data_ptr() and ours[name].dtype == parameter.dtype
    assert {parameter.dtype for _, parameter in second.personalization_parameters()} == {torch.bfloat16}
    assert not any(parameter.is_meta for parameter in second.parameters())
