"""`alchemist train`: a preset's two stages on shards, on one rank or under torchrun; what it costs, before it does."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from video_alchemist.dataset.shards import ShardDataset
    from video_alchemist.presets import Preset
    from video_alchemist.records import Condition, Example
    from video_alchemist.sampling.pipeline import AlchemistPipeline

SHOWN = 3  # clips whose captions and pictures the contact sheets are of


def train(
    preset: Annotated[str, typer.Argument(help="emojiworld, emojiworld-base, paper, wan_1_3b or wan_14b.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The run's folder; the same command resumes.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="SHARDS", help="A folder or URL of shards; default: EmojiWorld, rendered.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="DIR|ID", help="Begin with this model's weights, not the preset's.")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Stop after this step of the run.")] = None,
    time_limit: Annotated[str | None, typer.Option(metavar="9m", help="Stop with a checkpoint after it.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting; repeat.")] = None,
    export: Annotated[Path | None, typer.Option(metavar="DIR", help="Write a pipeline folder at the end.")] = None,
    precompute: Annotated[
        bool, typer.Option("--precompute", help="Only write latents and text beside the shards; --dry-run: as if done.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what the run would cost.")] = False,
    gpus: Annotated[int, typer.Option(help="--dry-run: how many.")] = 1,
    gpu: Annotated[str, typer.Option(metavar="TYPE", help="--dry-run: like h200, or like 24GB.")] = "a100-80gb",
    mfu: Annotated[float, typer.Option(help="--dry-run: share of the card's dense bf16 peak that is used.")] = 0.35,
) -> None:
    """Train the transformer in the paper's two stages; all other networks stay as they are.

    Under torchrun the same command trains on all its ranks. Settings are those of config.json in the run's folder.

    Example: alchemist train emojiworld -o run --time-limit 9m --set optimizer.learning_rate=3e-4 --export model

    Example: torchrun --nproc-per-node 8 -m video_alchemist train wan_1_3b --data shards -o run
    """
    chosen = configured(preset, settings or [])
    if dry_run:
        from video_alchemist.training.dry_run import dry_run as report

        print(report(chosen, gpus, gpu, mfu=mfu, precomputed=precompute))
        return
    if output is None and not precompute:
        raise ValueError("-o is missing; expected the run's folder")
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps is {max_steps}; expected at least 1")
    from video_alchemist.emojiworld.recipes import command

    limits = {"max_steps": max_steps, "time_limit": None if time_limit is None else command.parse_time(time_limit)}
    if data is None and (preset not in command.WORLDS or precompute or model is not None):
        raise ValueError("--data is missing; expected a folder or URL of shards, as `alchemist curate` makes them")
    hide_loading()
    if data is None:
        assert output is not None
        command.train_world(preset, chosen.training, output, limits, export)
        return
    run = ShardRun.prepare(chosen, data, model, with_weights=is_first() and not precompute)
    if precompute:
        run.precompute()
    else:
        assert output is not None
        run.train(output, limits, export)


def is_first() -> bool:
    """Whether this is the first of the ranks that torchrun started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def configured(name: str, settings: list[str]) -> Preset:
    """A preset by its name, with what is set otherwise."""
    import difflib

    from video_alchemist.dataset.buckets import derived
    from video_alchemist.presets import PRESETS
    from video_alchemist.training.config import override

    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(PRESETS)}"
        raise ValueError(f"preset {name!r}; {hint}")
    preset = PRESETS[name]()
    config = preset.training
    for setting in settings:
        config = override(config, setting)
    preset = replace(preset, training=config)
    if config.tokens_per_gpu:
        preset = replace(preset, buckets=derived(preset.buckets, config.tokens_per_gpu))
    return preset


def hide_loading() -> None:
    """No bars for the loading of networks: they are small beside training, and every rank would draw its own."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


@dataclass(frozen=True)
class ShardRun:
    """A preset's networks and the shards that it trains on."""

    preset: Preset
    dataset: ShardDataset
    pipeline: AlchemistPipeline
    device: str
    begins_untrained: bool
    with_weights: bool  # of the transformer; without, it is shapes alone (meta)

    @classmethod
    def prepare(cls, preset: Preset, data: str, model: str | None, with_weights: bool = True) -> ShardRun:
        """with_weights: of the first rank, which gives the others theirs. On a GPU the encoders are bfloat16."""
        import torch

        from video_alchemist.dataset.shards import ShardDataset
        from video_alchemist.presets import build_pipeline

        dataset = ShardDataset(data)
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
        untrained = model is None and preset.initial in (None, "emojiworld")
        encoder_dtype = torch.float32 if device == "cpu" else torch.bfloat16
        pipeline = build_pipeline(preset, model, torch.float32, with_weights and not untrained, encoder_dtype)
        pipeline.set_progress_bar_config(disable=True)
        for network in (pipeline.autoencoder, pipeline.text_encoder, pipeline.image_encoder):
            network.requires_grad_(False).eval()
        return cls(preset, dataset, pipeline, device, untrained, with_weights)

    def place(self, *names: str) -> None:
        """Puts frozen networks on the device."""
        for name in names:
            getattr(self.pipeline, name).to(self.device)

    def precompute(self) -> None:
        from video_alchemist.training.precompute import precompute

        self.place("autoencoder", "text_encoder")
        precompute(
            self.dataset.folder.place,
            self.preset.buckets,
            self.pipeline.roles,
            self.device,
            fps=self.preset.fps,
            workers=max(1, self.preset.training.data_workers),
            rank=int(os.environ.get("RANK", 0)),
            world_size=int(os.environ.get("WORLD_SIZE", 1)),
        )

    def train(self, output: Path, limits: Mapping[str, Any], export: Path | None) -> None:
        """Trains until the stages' end or a limit, whichever comes first; then draws the curves and exports."""
        from video_alchemist.training.plot import curves
        from video_alchemist.training.trainer import train
        from video_alchemist.training.validation import ContactSheet

        config, transformer, columns = self.preset.training, self.transformer(), self.columns()
        of_column = {"latents": "autoencoder", "text": "text_encoder"}
        unused = [] if config.sample_every else [of_column[name] for name in columns]
        self.place(*{"autoencoder", "text_encoder", "image_encoder"}.difference(unused))
        encode = self.encoder(transformer.config["word_length"])
        self.pipeline.register_modules(transformer=None)  # the trainer takes it over
        shown = range(min(SHOWN, len(self.dataset)))
        conditions = [condition_of(self.dataset.example(position, with_video=False)) for position in shown]
        trained = train(
            transformer,
            self.source(transformer.config["max_images"], columns),
            config,
            output,
            encode=encode,
            device=self.device,
            on_sample=ContactSheet(self.pipeline, conditions),
            **limits,
        )
        if trained.first:
            print(f"{output}: step {trained.step} ({trained.stopped})", flush=True)
            curves(output)
            if export is not None:
                export_pipeline(self.pipeline, output, export)

    def transformer(self) -> Any:
        """What training begins with: open weights, those of --model, or none."""
        import torch

        from video_alchemist.model.transformer import AlchemistTransformer

        if not self.begins_untrained:
            return self.pipeline.transformer
        torch.manual_seed(self.preset.training.seed)
        with torch.device("cpu" if self.with_weights else "meta"):
            return AlchemistTransformer(**{**self.preset.transformer, "personalization": False})

    def encoder(self, word_length: int) -> Callable[[Any], Any]:
        """The frozen networks that make a training batch of clips."""
        from video_alchemist.training.encode import encode_batch

        roles, prompt = self.pipeline.roles, self.preset.negative_prompt
        null_text = False if prompt is None else roles.text_encoder([prompt]).tokens
        return partial(encode_batch, roles=roles, word_length=word_length, device=self.device, null_text=null_text)

    def columns(self) -> dict[str, str]:
        """Precomputed columns that the shards have, and which networks they must be of."""
        from video_alchemist.dataset.shards import column_made_by
        from video_alchemist.training.precompute import revisions

        numbers = [shard["number"] for shard in self.dataset.manifest["shards"][:1]]
        wanted = revisions(self.pipeline.roles)._asdict()
        return {
            name: one
            for name, one in wanted.items()
            if any(column_made_by(self.dataset.folder, number, name) for number in numbers)
        }

    def source(self, max_images: int, columns: Mapping[str, Any]) -> Callable[[Any, int], Any]:
        """The clips of each stage."""
        from video_alchemist.dataset.loader import ClipSource

        preset, roles = self.preset, self.pipeline.roles

        def source_of(stage: Any, micro_batches: int) -> ClipSource:
            source = ClipSource(
                self.dataset,
                preset.buckets,
                preset.training.seed,
                micro_batches,
                references=stage.personalization,
                picture_size=roles.image_encoder.size,
                augmentation=preset.augmentation,
                fps=preset.fps,
                max_images=max_images,
                **columns,
            )
            if is_first():
                for line in source.report():
                    print(line, flush=True)
            return source

        return source_of


def condition_of(example: Example) -> Condition:
    """A clip's caption with one picture of each word."""
    from video_alchemist.records import MAX_IMAGES, Condition

    chosen = {(one.word, one.occurrence): one for one in reversed(example.references)}
    pictures = [*chosen.values(), *([example.background] if example.background else [])]
    return Condition(example.caption, tuple(pictures[:MAX_IMAGES]))


def export_pipeline(pipeline: AlchemistPipeline, run: Path, folder: Path) -> None:
    """A pipeline folder with a run's averaged weights; adapters are fused, and stand beside as a LoRA file."""
    from video_alchemist.training.checkpoint import trained_adapter, trained_transformer

    pipeline.register_modules(transformer=trained_transformer(run))
    pipeline.save_pretrained(folder)
    adapter = trained_adapter(run)
    if adapter:
        pipeline.save_lora_weights(folder, transformer_lora_layers=adapter)
    print(folder, flush=True)
