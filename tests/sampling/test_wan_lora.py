"""LoRA files made for Wan 2.1: in our transformer they do what they do in diffusers' own."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.model.wan import load_wan
from video_alchemist.sampling.pipeline import AlchemistPipeline

FILE = "pytorch_lora_weights.safetensors"
BLOCK = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
EVERY = [*BLOCK, "patch_embedding", "linear_1", "linear_2", "time_proj", "proj_out"]
ORIGINAL = {
    "transformer.": "diffusion_model.", "attn1.": "self_attn.", "attn2.": "cross_attn.", ".to_out.0.": ".o.",
    ".to_": ".", "ffn.net.0.proj.": "ffn.0.", "ffn.net.2.": "ffn.2.",
}  # fmt: skip
Weights = dict[str, Tensor]


def original(weights: Weights) -> Weights:
    """As Wan's own code and ComfyUI name the layers."""
    renamed = {}
    for name, tensor in weights.items():
        for theirs, ours in ORIGINAL.items():
            name = name.replace(theirs, ours)
        renamed[name] = tensor
    return renamed


def with_alpha(weights: Weights) -> Weights:
    """lora_down, lora_up and an alpha that is not r."""
    given = {}
    for name, tensor in original(weights).items():
        given[name.replace("lora_A", "lora_down").replace("lora_B", "lora_up")] = tensor
        if "lora_A" in name:
            given[name.replace("lora_A.weight", "alpha")] = torch.tensor(1.5)
    return given


def with_biases(weights: Weights) -> Weights:
    """The changed biases that distilled models come with."""
    named = original(weights)
    return named | {n.replace("lora_B.weight", "diff_b"): one[:, 0] for n, one in named.items() if "lora_B" in n}


def kohya(weights: Weights) -> Weights:
    """One word a layer, as kohya's trainers write it."""
    names = {name: name.removeprefix("diffusion_model.") for name in with_alpha(weights)}
    parts = {name: re.split(r"\.(?=lora_|alpha)", short) for name, short in names.items()}
    return {f"lora_unet_{parts[n][0].replace('.', '_')}.{parts[n][1]}": one for n, one in with_alpha(weights).items()}


def lora(wan: WanPipeline, seed: int, **options: Any) -> tuple[Weights, dict[str, Any]]:
    """Random A and B, and PEFT's configuration."""
    transformer = copy.deepcopy(wan.transformer)
    transformer.add_adapter(LoraConfig(**{"r": 2, "lora_alpha": 2, **options}))
    torch.manual_seed(seed)
    for name, parameter in transformer.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return get_peft_model_state_dict(transformer), transformer.peft_config["default"].to_dict()


def save(folder: Path, weights: Weights, naming: Callable[[Weights], Weights] | None = None, **options: Any) -> Path:
    WanPipeline.save_lora_weights(folder, transformer_lora_layers=weights, **options)
    if naming is not None:
        save_file({n: one.contiguous() for n, one in naming(load_file(folder / FILE)).items()}, folder / FILE)
    return folder / FILE


Both = tuple[WanPipeline, AlchemistPipeline]


@pytest.fixture
def both(wan: WanPipeline, wan_folder: Path, pipeline: AlchemistPipeline) -> Both:
    """Two pipelines of the same weights, that a test may change."""
    theirs = WanPipeline(**{**wan.components, "transformer": copy.deepcopy(wan.transformer)})
    ours = load_wan(wan_folder, image_dim=24, max_images=3, word_length=2)
    return theirs, AlchemistPipeline(**{**pipeline.components, "transformer": ours})


@torch.no_grad()
def outputs(both: Both) -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    z, t, text = torch.randn(2, 16, 3, 4, 6), torch.tensor([0.25, 0.75]), torch.randn(2, 5, 16)
    theirs, ours = (one.transformer for one in both)
    return theirs(z, 1000 * t, text).sample, ours(z, t, text)


def equal(both: Both) -> Tensor:
    expected, found = outputs(both)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    return found


CASES: dict[str, dict[str, Any]] = {
    "every layer": {"target_modules": EVERY},
    "one of three": {"target_modules": ["attn1.to_k", "attn2.to_v"]},
    "many ranks": {"target_modules": BLOCK, "rank_pattern": {"to_q": 1, "attn2.to_k": 4}},
    "alpha in metadata": {
        "target_modules": BLOCK, "rank_pattern": {"to_q": 1}, "lora_alpha": 3, "alpha_pattern": {"attn2.to_v": 7},
    },
    "square roots": {"target_modules": BLOCK, "r": 4, "lora_alpha": 3, "use_rslora": True},
    "original": {"target_modules": BLOCK, "naming": original},
    "original, alpha": {"target_modules": BLOCK, "naming": with_alpha},
    "original, biases": {"target_modules": BLOCK, "naming": with_biases},
    "kohya": {"target_modules": BLOCK, "naming": kohya},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_as_in_diffusers(case: str, wan: WanPipeline, both: Both, tmp_path: Path) -> None:
    """Guards against rows that RoPE's layout moved, a rank, alpha or bias lost where three layers are one, and names
    that other trainers give."""
    options = dict(CASES[case])
    naming = options.pop("naming", None)
    weights, config = lora(wan, 1, **options)
    metadata = config if "lora_alpha" in options else None
    path = save(tmp_path, weights, naming, transformer_lora_adapter_metadata=metadata)
    plain = equal(both)
    for one in both:
        one.load_lora_weights(path, adapter_name="one")
    assert (equal(both) - plain).abs().mean() > 0.05


def test_weighted_fused_and_unloaded(wan: WanPipeline, both: Both, tmp_path: Path) -> None:
    """Guards against a second LoRA that the first hides, a weight that is not heeded, and a fused layer that does not
    come back."""
    plain = equal(both)
    for seed, name in enumerate(("one", "two")):
        weights, _ = lora(wan, seed, target_modules=BLOCK if name == "one" else ["to_q", "ffn.net.2"])
        save(tmp_path / name, weights)
        for one in both:
            one.load_lora_weights(tmp_path / name, adapter_name=name)
    loaded = equal(both)
    for one in both:
        one.set_adapters(["one", "two"], [0.5, -1.0])
    weighted = equal(both)
    assert (weighted - loaded).abs().mean() > 0.05
    for change in ("fuse_lora", "unfuse_lora", "fuse_lora", "unload_lora_weights"):
        for one in both:
            getattr(one, change)()
        torch.testing.assert_close(equal(both), weighted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(weighted, plain, atol=1e-2) and not both[1].get_list_adapters()
    both[1].transformer.save_pretrained(tmp_path / "fused")
    fused = AlchemistTransformer.from_pretrained(tmp_path / "fused")
    both[1].register_modules(transformer=fused)
    torch.testing.assert_close(equal(both), weighted, atol=1e-4, rtol=1e-4)


def test_unloaded_is_plain(wan: WanPipeline, both: Both, tmp_path: Path) -> None:
    """Guards against a trace of a LoRA after it is gone."""
    plain = equal(both)
    ours = both[1]
    ours.load_lora_weights(save(tmp_path, lora(wan, 1, target_modules=BLOCK)[0]))
    ours.unload_lora_weights()
    assert torch.equal(outputs(both)[1], plain)


def test_some_biases(wan: WanPipeline, both: Both) -> None:
    """Guards against layers without a changed bias, which diffusers leaves on the meta device."""
    biased = with_biases({f"transformer.{n}": one for n, one in lora(wan, 1, target_modules=BLOCK)[0].items()})
    lacking = {name for name in biased if ".k.diff_b" in name}
    both[0].load_lora_weights(biased | dict.fromkeys(lacking, torch.zeros(24)))
    both[1].load_lora_weights({name: one for name, one in biased.items() if name not in lacking})
    equal(both)


def renamed(old: str, new: str) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name.replace(old, new): one + 0 for name, one in weights.items() if old in name}


def cut(weights: Weights) -> Weights:
    return {name: one for name, one in weights.items() if "attn1.to_q.lora_B" not in name}


@pytest.mark.parametrize(
    ("naming", "message"),
    [
        (renamed("attn2.to_k", "attn2.add_k_proj"), "for an image-to-video Wan: it has 'blocks.0.attn2.add_k_proj'"),
        (renamed("blocks.1.", "blocks.2."), "for 'blocks.2.*', which this transformer does not have; nearest: "),
        (renamed("transformer.", ""), "has 'blocks.0.attn1.*'; expected 'transformer.blocks.0.attn1.*'"),
        (renamed("lora_A.weight", "lora_magnitude_vector"), "expected lora_A and lora_B alone"),
        (cut, "the LoRA has lora_A or lora_B of 'blocks.0.attn1.to_q'; expected both"),
        (lambda weights: renamed("self_attn.q", "self_attn.z")(original(weights)), "other layers than Wan 2.1's: 'd"),
        (lambda weights: {"diffusion_model.blocks.0.ffn.0.hada_w1": torch.ones(1)}, "other layers than Wan 2.1's"),
        (lambda weights: {"lora_unet_down_1.lora_down.weight": torch.ones(1)}, "other layers than Wan 2.1's: 'l"),
    ],
)
def test_other_loras(
    naming: Callable[[Weights], Weights], message: str, wan: WanPipeline, both: Both, tmp_path: Path
) -> None:
    """Guards against layers that are passed over in silence, and errors that name no layer."""
    path = save(tmp_path, lora(wan, 1, target_modules=BLOCK)[0], naming)
    with pytest.raises(ValueError, match=message):
        both[1].load_lora_weights(path)
    assert not both[1].get_list_adapters()


def test_another_width(both: Both, tmp_path: Path) -> None:
    """Guards against the 14B's LoRA on the 1.3B."""
    wide = {f"blocks.0.attn1.to_q.lora_{part}.weight": torch.ones(2, 48) for part in "AB"}
    with pytest.raises(ValueError, match="another width: .*blocks.0.attn1.to_q.lora_A.weight has 48, expected 24"):
        both[1].load_lora_weights(save(tmp_path, wide))


def test_finding_the_file(wan: WanPipeline, both: Both, tmp_path: Path) -> None:
    """Guards against a folder whose first file is taken for the LoRA, and raw errors for files that are not whole."""
    ours = both[1]
    path = save(tmp_path, lora(wan, 1, target_modules=BLOCK)[0])
    named = path.rename(tmp_path / "style.safetensors")
    ours.load_lora_weights(tmp_path)  # the only one
    named.with_name("other.safetensors").write_bytes(named.read_bytes()[:-1])
    with pytest.raises(ValueError, match="no 'pytorch_lora_.*weight_name, of: other.safetensors, style.safetensors"):
        ours.load_lora_weights(tmp_path)
    ours.load_lora_weights(tmp_path, weight_name="style.safetensors")
    with pytest.raises(ValueError, match=r"other.safetensors' \([\d,]+ bytes\) is cut off or no safetensors file"):
        ours.load_lora_weights(tmp_path, weight_name="other.safetensors")
    with pytest.raises(ValueError, match="no such LoRA: 'other.safetensors'; expected a file, a folder, or a hub id"):
        ours.load_lora_weights("other.safetensors")
    with pytest.raises(ValueError, match="LoRA 'nobody/nothing' is nothing here, and the hub did not give it"):
        ours.load_lora_weights("nobody/nothing", local_files_only=True)
