"""The paper's rows of Tables 1 and 3 as data, to stand beside measured ones, marked as copied.

They were measured by the authors on MSR-VTT's clips with the paper's models: rows from other data or models do not
compare with them. The single-reference rows of Table 1 are also the leaderboard of the authors' repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

SOURCE = "Video Alchemist, arXiv 2501.06187 (CVPR 2025)"
MARK = "published"  # beside each of these rows wherever it is shown
NUM_SAMPLES = {"subject": 1736, "face": 1285, "all": 2130}  # §4.1, §4.2

Variant = Literal["single", "multiple", "background", "face", "faces"]
COLUMNS = {
    "text_similarity": "Text-S",
    "video_similarity": "Vid-S",
    "subject_similarity": "Subj-S",
    "face_similarity": "Face-S",
    "dynamic_degree": "Dync-D",
}


@dataclass(frozen=True)
class PublishedRow:
    """One row of a table. variant: what the method was given, as in `modes.conditioning`: one picture ("single",
    "face"), all pictures ("multiple", "faces"), or all with the background ("background").

    optimised: the table's "Test-time Optimization". still: a text-to-image model, scored as a video of one frame (†),
    without a dynamic degree. values: by our names of the metrics; a "-" of the table has no entry."""

    table: Literal["Table 1", "Table 3"]
    mode: Literal["subject", "face"]
    method: str
    variant: Variant
    values: Mapping[str, float]
    optimised: bool = False
    still: bool = False

    @property
    def label(self) -> str:
        """Method, table and mark, so that no report can show the row as its own."""
        return f"{self.method} ({MARK}, {self.table})"


def _values(fidelity: str, *numbers: float) -> dict[str, float]:
    """The four columns of a table, left to right; the dynamic degree may be missing."""
    return dict(zip(("text_similarity", "video_similarity", fidelity, "dynamic_degree"), numbers, strict=False))


def _subject(method: str, variant: Variant, *numbers: float, optimised: bool = False) -> PublishedRow:
    values = _values("subject_similarity", *numbers)
    return PublishedRow("Table 1", "subject", method, variant, values, optimised, still=len(numbers) == 3)


def _face(method: str, variant: Variant, *numbers: float, optimised: bool = False) -> PublishedRow:
    values = _values("face_similarity", *numbers)
    return PublishedRow("Table 1", "face", method, variant, values, optimised, still=len(numbers) == 3)


def _ablation(method: str, *numbers: float) -> PublishedRow:
    return PublishedRow("Table 3", "subject", method, "single", _values("subject_similarity", *numbers))


TABLE_1 = (  # columns: Text-S, Vid-S, Subj-S or Face-S, Dync-D; Video Alchemist at 512 x 288
    _subject("ELITE", "single", 0.245, 0.620, 0.359),
    _subject("VideoBooth", "single", 0.222, 0.612, 0.395, 0.448),
    _subject("DreamVideo", "single", 0.261, 0.611, 0.310, 0.311, optimised=True),
    _subject("Video Alchemist", "single", 0.269, 0.732, 0.617, 0.466),
    _subject("DreamVideo", "multiple", 0.253, 0.604, 0.256, 0.303, optimised=True),
    _subject("Video Alchemist", "multiple", 0.268, 0.743, 0.626, 0.473),
    _subject("Video Alchemist", "background", 0.254, 0.780, 0.570, 0.506),
    _face("IP-Adapter", "face", 0.251, 0.648, 0.269),
    _face("PhotoMaker", "face", 0.278, 0.569, 0.189),
    _face("Magic-Me", "face", 0.251, 0.602, 0.135, 0.418, optimised=True),
    _face("Video Alchemist", "face", 0.273, 0.687, 0.382, 0.424),
    _face("PhotoMaker", "faces", 0.275, 0.582, 0.216),
    _face("Magic-Me", "faces", 0.248, 0.618, 0.153, 0.385, optimised=True),
    _face("Video Alchemist", "faces", 0.272, 0.694, 0.411, 0.402),
)

TABLE_3 = (  # Video Alchemist's ablation at 256 x 144: CLIP for DINOv2, no word token, no augmentation, full
    _ablation("Use CLIP", 0.269, 0.768, 0.569, 0.552),
    _ablation("No word token", 0.256, 0.790, 0.566, 0.569),
    _ablation("No augmentation", 0.251, 0.781, 0.609, 0.506),
    _ablation("Video Alchemist", 0.257, 0.790, 0.600, 0.570),
)

ROWS = TABLE_1 + TABLE_3
