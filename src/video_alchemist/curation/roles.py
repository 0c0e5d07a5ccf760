"""The networks of a profile, loaded once a worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from video_alchemist.curation.profile import CurationProfile, check_models, is_local

if TYPE_CHECKING:
    from video_alchemist.curation.captions import Captioner
    from video_alchemist.pretrained.clip_filter import ClipFilter
    from video_alchemist.pretrained.detector import Detector
    from video_alchemist.pretrained.entity_extractor import EntityExtractor
    from video_alchemist.pretrained.face_detector import FaceDetector
    from video_alchemist.pretrained.inpainter import Inpainter
    from video_alchemist.pretrained.segmenter import Segmenter
    from video_alchemist.pretrained.shot_detector import ShotDetector
    from video_alchemist.pretrained.text_detector import TextDetector

T = TypeVar("T")


class Roles:
    """Inherit and override a property to fill a role with something of your own, or to give a captioner."""

    def __init__(self, profile: CurationProfile, device: str | None = None) -> None:
        self.profile = profile
        self._device = device

    @cached_property
    def device(self) -> str:
        """A GPU where there is one; the engine shows each worker only its own."""
        import torch

        return self._device or ("cuda" if torch.cuda.is_available() else "cpu")

    def load(self, names: Sequence[str]) -> Roles:
        """Loads these now: a model that is missing is no fault of the clip that needs it first."""
        for name in names:
            getattr(self, name)
        return self

    @property
    def captioner(self) -> Captioner | None:
        return None

    @cached_property
    def shot_detector(self) -> ShotDetector:
        from video_alchemist.pretrained.shot_detector import PACKAGE, TransNetV2ShotDetector

        name = self.profile.models.shot_detector
        path = None if name == PACKAGE else name
        return self._load("shot_detector", lambda: TransNetV2ShotDetector.from_pretrained(path, self.device))

    @cached_property
    def clip_filter(self) -> ClipFilter:
        from video_alchemist.pretrained.clip_filter import VideoMAEClipFilter

        name = self.profile.models.clip_filter
        return self._load("clip_filter", lambda: VideoMAEClipFilter.from_pretrained(name, self.device))

    @cached_property
    def entity_extractor(self) -> EntityExtractor:
        from video_alchemist.pretrained.entity_extractor import (
            EndpointExtractor,
            LanguageModelExtractor,
            LexiconExtractor,
        )

        name = self.profile.models.entity_extractor
        if name == "lexicon":
            return LexiconExtractor()
        if "://" in name:
            url, _, model = name.partition("#")
            return EndpointExtractor(url, model)
        return self._load("entity_extractor", lambda: LanguageModelExtractor.from_pretrained(name, self.device))

    @cached_property
    def detector(self) -> Detector:
        from video_alchemist.pretrained.detector import GroundingDinoDetector

        name = self.profile.models.detector
        return self._load("detector", lambda: GroundingDinoDetector.from_pretrained(name, self.device))

    @cached_property
    def segmenter(self) -> Segmenter:
        from video_alchemist.pretrained.segmenter import SamSegmenter

        name = self.profile.models.segmenter
        return self._load("segmenter", lambda: SamSegmenter.from_pretrained(name, self.device))

    @cached_property
    def face_detector(self) -> FaceDetector:
        from video_alchemist.pretrained.face_detector import HeatmapFaceDetector, OnnxFaceDetector, YuNetFaceDetector

        name, score = self.profile.models.face_detector, self.profile.faces.score
        if not name.endswith(".onnx"):
            return self._load("face_detector", lambda: HeatmapFaceDetector.from_pretrained(name, self.device))
        kind = YuNetFaceDetector if "yunet" in Path(name).name.lower() else OnnxFaceDetector
        return self._load("face_detector", lambda: kind(name, min_score=score))

    @cached_property
    def inpainter(self) -> Inpainter:
        from video_alchemist.pretrained.inpainter import DiffusionInpainter, TeleaInpainter

        name = self.profile.models.inpainter
        if name == "telea":
            return TeleaInpainter()
        return self._load("inpainter", lambda: DiffusionInpainter.from_pretrained(name, self.device))

    @cached_property
    def text_detector(self) -> TextDetector:
        from video_alchemist.pretrained.text_detector import DBTextDetector

        return self._load("text_detector", lambda: DBTextDetector(self.profile.models.text_detector))

    def _load(self, role: str, load: Callable[[], T]) -> T:
        """The network, or an error that names the role, what was tried, and what to do."""
        check_models(self.profile, (role,))
        name = getattr(self.profile.models, role)
        try:
            return load()
        except OSError as error:  # transformers' and diffusers' for what is neither here nor on the hub
            where = "is not complete" if is_local(name) else "is neither a folder nor to be had from the hub"
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            setting = f"--set models.{role}=..."
            raise ValueError(f"{role}: {name!r} {where} ({first}); expected another one by {setting}") from error
