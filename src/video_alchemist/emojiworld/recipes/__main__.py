"""Trains what ships: `python -m video_alchemist.emojiworld.recipes all [--scale small|base] [--time-limit 9m]`.

Every recipe goes on from where it stands; `all` runs them in order and writes the bundle. After `shipped`, in an empty
working folder, they go on from what ships.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from video_alchemist.emojiworld.recipes import bundle
from video_alchemist.emojiworld.recipes.command import parse_time
from video_alchemist.emojiworld.recipes.scale import SCALES, Scale

CURATION = ("face_detector", "segmenter", "clip_filter", "detector")  # those that cost least first
EVALUATORS = ("subject_encoder", "image_text", "face_embedder", "optical_flow", "quality")  # the benchmark's own
RECIPES = (
    "autoencoder", "text_encoder", "image_encoder", "judges", "transformer", *CURATION, *EVALUATORS, "bundle",
    "evaluate", "curation_scores", "evaluator_scores", "ablation",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m video_alchemist.emojiworld.recipes", description=__doc__)
    parser.add_argument("recipe", choices=("all", "shipped", *RECIPES))
    parser.add_argument("--scale", choices=tuple(SCALES), default="base" if torch.cuda.is_available() else "small")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/emojiworld"), help="working folder (default %(default)s)"
    )
    parser.add_argument(
        "--time-limit", type=parse_time, default=None, help="stop each recipe after this time, to go on later"
    )
    parser.add_argument(
        "--num-samples",
        type=int,
        default=200,
        help="evaluate, ablation: prompts a score; curation_scores: clips of each kind",
    )
    parser.add_argument(
        "--num-steps", type=int, default=None, help="evaluate, ablation: steps of sampling (default: the model's)"
    )
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    marker = args.work / "scale"
    if marker.exists() and marker.read_text() != args.scale:
        parser.error(f"{args.work} holds scale {marker.read_text()}, not {args.scale}; expected another --work")
    if args.recipe == "shipped":
        try:
            bundle.unpack(SCALES[args.scale], args.work)
        except (ValueError, OSError) as error:
            parser.error(str(error))
    marker.write_text(args.scale)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name in {"all": RECIPES, "shipped": ()}.get(args.recipe, (args.recipe,)):
        run(name, SCALES[args.scale], args.work, device, args.time_limit, args.num_samples, args.num_steps)


def run(
    name: str,
    scale: Scale,
    work: Path,
    device: str,
    time_limit: float | None,
    num_samples: int,
    num_steps: int | None = None,
) -> None:
    from video_alchemist.emojiworld.recipes import (
        ablation,
        autoencoder,
        clip_filter,
        curation_scores,
        detector,
        evaluators,
        face_detector,
        image_encoder,
        judges,
        quality_model,
        scores,
        segmenter,
        text_encoder,
        transformer,
    )
    from video_alchemist.emojiworld.recipes.curation_scale import CURATION_SCALES

    curation = CURATION_SCALES[scale.name], work / "curation"
    match name:
        case "autoencoder":
            autoencoder.train(scale, work, device, time_limit)
        case "text_encoder":
            text_encoder.train(scale, work, device, time_limit)
        case "image_encoder":
            image_encoder.train(scale, work, device, time_limit)
        case "judges":
            judges.train(scale, work, device, time_limit)
        case "transformer":
            transformer.train(scale, work, device, time_limit)
        case "face_detector":
            face_detector.train(*curation, device, time_limit)
        case "segmenter":
            segmenter.train(*curation, device, time_limit)
        case "clip_filter":
            clip_filter.train(*curation, device, time_limit)
        case "detector":
            detector.train(*curation, device, time_limit)
        case "image_text" | "subject_encoder" | "face_embedder" | "optical_flow":
            own = evaluators.SCALES[scale.name]
            evaluators.train(name, own, work / "benchmark", device, time_limit, work / "tokenizer")
        case "quality":
            rounds = quality_model.ROUNDS[scale.name]
            quality_model.train(rounds, work / "benchmark", device, time_limit, work / "autoencoder")
        case "evaluator_scores":
            measured = evaluators.measure(work / "benchmark", device)
            measured |= quality_model.measure(work / "benchmark", work / "autoencoder", device)
            for score, value in measured.items():
                print(f"{score:40} {value:.3f}", flush=True)
        case "curation_scores":
            curation_scores.measure(work / "curation", device, num_samples)
        case "bundle":
            bundle.write(scale, work)
            bundle.write_curation(work / "curation")
            bundle.write_evaluators(work / "benchmark")
        case "evaluate":
            scores.evaluate(bundle.assemble(scale, work).to(device), scale, work, num_samples, num_steps)
        case "ablation":
            ablation.run(scale, work, device, time_limit, num_samples, num_steps)


if __name__ == "__main__":
    main()
