"""Who plays the evaluation's roles (§4.2, "Evaluation metrics"): the paper's networks, or any others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from video_alchemist.curation.profile import is_local, named
from video_alchemist.dataset.shards import did_you_mean

if TYPE_CHECKING:
    from video_alchemist.pretrained.detector import GroundingDinoDetector
    from video_alchemist.pretrained.face_detector import FaceDetector
    from video_alchemist.pretrained.face_embedder import FaceEmbedder
    from video_alchemist.pretrained.image_text import ImageTextEncoder
    from video_alchemist.pretrained.optical_flow import OpticalFlow
    from video_alchemist.pretrained.quality_model import QualityModel
    from video_alchemist.pretrained.segmenter import Segmenter
    from video_alchemist.pretrained.subject_encoder import SubjectEncoder

T = TypeVar("T")
MIN_FACE_SCORE = 0.2  # of what a face detector reports; the protocol draws the line


@dataclass(frozen=True)
class ModelNames:
    """By role: a folder, a checkpoint file or a hub id; "" where nobody plays it, and its metrics are left out."""

    image_text: str = ""
    subject_encoder: str = ""
    face_embedder: str = ""
    optical_flow: str = ""
    detector: str = ""
    segmenter: str = ""
    face_detector: str = ""
    quality: str = ""  # upon image_text


ROLES = tuple(field.name for field in fields(ModelNames))


def paper_models() -> ModelNames:
    """§4.2's networks. Names of files stand for what no hub has: put them in the working folder, or name others."""
    return ModelNames(
        image_text="openai/clip-vit-large-patch14",  # "CLIP ViT-L/14"
        subject_encoder="facebook/dino-vitb16",  # "DINO ViT-B/16"
        face_embedder="backbone.pth",  # "ArcFace R100": arcface_torch's
        optical_flow="raft-things.pth",  # "RAFT": princeton's; torchvision's raft_large_C_T_V1 is also read
        detector="IDEA-Research/grounding-dino-tiny",  # "Grounding-DINO Swin-T"
        segmenter="facebook/sam-vit-base",  # "SAM ViT-B/16"
        face_detector="yolov9-c-face.onnx",  # "YOLOv9-C", whose code is GPL: any detector of faces in ONNX
        quality="",  # none in the paper; LAION's "sac+logos+ava1-l14-linearMSE.pth" is made for this image_text
    )


def folder_models(folder: str | Path) -> ModelNames:
    """A folder with one folder a role, such as the small networks of a small world."""
    present = [role for role in ROLES if (Path(folder) / role).is_dir()]
    if not present:
        raise ValueError(f"{str(folder)!r} holds no model; expected folders named {', '.join(ROLES)}")
    return ModelNames(**{role: str(Path(folder) / role) for role in present})


class EvaluationModels:
    """The networks, each loaded when first asked for. Inherit and override a property to play a role yourself."""

    def __init__(self, names: ModelNames, device: str = "cpu") -> None:
        self.names = names
        self.device = device

    def load(self, roles: Sequence[str]) -> EvaluationModels:
        """Loads these now: a model that is missing is no fault of the video that needs it first."""
        for role in roles:
            getattr(self, role)
        return self

    def revisions(self, roles: Sequence[str]) -> dict[str, str]:
        """By role "name@hash", the same words on every machine."""
        return {role: named(self._name(role)) for role in roles}

    @cached_property
    def image_text(self) -> ImageTextEncoder:
        from video_alchemist.pretrained.image_text import ClipImageTextEncoder

        return self._load("image_text", ClipImageTextEncoder.from_pretrained)

    @cached_property
    def subject_encoder(self) -> SubjectEncoder:
        from video_alchemist.pretrained.subject_encoder import ViTSubjectEncoder

        return self._load("subject_encoder", ViTSubjectEncoder.from_pretrained)

    @cached_property
    def face_embedder(self) -> FaceEmbedder:
        from video_alchemist.pretrained.face_embedder import ArcFaceEmbedder

        return self._load("face_embedder", ArcFaceEmbedder.from_pretrained)

    @cached_property
    def optical_flow(self) -> OpticalFlow:
        from video_alchemist.pretrained.optical_flow import RaftOpticalFlow

        return self._load("optical_flow", RaftOpticalFlow.from_pretrained)

    @cached_property
    def quality(self) -> QualityModel:
        from video_alchemist.pretrained.quality_model import EmbeddingQuality

        loaded = self._load("quality", EmbeddingQuality.from_pretrained)
        loaded.check(self.image_text)
        return loaded

    @cached_property
    def detector(self) -> GroundingDinoDetector:
        from video_alchemist.pretrained.detector import GroundingDinoDetector

        return self._load("detector", GroundingDinoDetector.from_pretrained)

    @cached_property
    def segmenter(self) -> Segmenter:
        from video_alchemist.pretrained.segmenter import SamSegmenter

        return self._load("segmenter", SamSegmenter.from_pretrained)

    @cached_property
    def face_detector(self) -> FaceDetector:
        from video_alchemist.pretrained.face_detector import HeatmapFaceDetector, OnnxFaceDetector, YuNetFaceDetector

        name = self.names.face_detector
        if not name.endswith(".onnx"):
            return self._load("face_detector", HeatmapFaceDetector.from_pretrained)
        kind = YuNetFaceDetector if "yunet" in Path(name).name.lower() else OnnxFaceDetector
        return self._load("face_detector", lambda path, _: kind(path, min_score=MIN_FACE_SCORE))

    def _name(self, role: str) -> str:
        """A role's model, or an error that tells what is missing as far as that shows without a hub."""
        if role not in ROLES:
            raise ValueError(f"no role {role!r}; expected one of {', '.join(ROLES)}{did_you_mean(role, ROLES)}")
        name = getattr(self.names, role)
        if not name:
            raise ValueError(f"no model plays the {role}; expected a folder, a checkpoint file or a hub id")
        if is_local(name) and not Path(name).exists():
            raise ValueError(f"{role}: {name!r} is not there; expected a folder, a checkpoint file or a hub id")
        return name

    def _load(self, role: str, load: Callable[[str, str], T]) -> T:
        name = self._name(role)
        try:
            return load(name, self.device)
        except OSError as error:  # transformers' and diffusers' for what is neither here nor on the hub
            where = "is not complete" if is_local(name) else "is neither a folder nor to be had from the hub"
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{role}: {name!r} {where} ({first})") from error
