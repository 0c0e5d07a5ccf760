"""`alchemist doctor` with a model: what it prints and refuses. Without options: tests/cli/test_cli.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from video_alchemist.cli.doctor import doctor, recommendation
from video_alchemist.model.hardware import GIB, find_gpu
from video_alchemist.sampling.memory import SETTINGS


def run(**options: object) -> None:
    doctor(**{"model": None, "size": None, "num_frames": None, "gpu": None, "num_images": 6, **options})  # type: ignore[arg-type]


def test_a_folder_is_predicted_and_a_setting_recommended(
    pipeline_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against a folder whose weights are loaded or missed, and against advice that does not fit."""
    for path in pipeline_folder.rglob("*.safetensors"):
        assert path.stat().st_size > 0  # there, and not read
    run(model=str(pipeline_folder), size="64x32", num_frames=1, gpu="24GB", num_images=2)
    out = capsys.readouterr().out
    assert "64x32, 1 frames, 2 reference images" in out
    for name in ("text encoder", "image encoder", "transformer", "autoencoder", *(one.name for one in SETTINGS)):
        assert name in out
    assert f"recommended on 24GB (21.6 GiB for us): {SETTINGS[0].name}" in out


def test_recommendation_is_the_fastest_that_fits() -> None:
    """Guards against offloading where it is not needed, and against silence where nothing helps."""
    peaks = {one.name: GIB * (20 - 2 * i) for i, one in enumerate(SETTINGS)}  # 20, 18 ... 6 GiB
    assert f": {SETTINGS[0].name}\n" in recommendation(peaks, find_gpu("24GB"))
    assert f": {SETTINGS[3].name}\n  {SETTINGS[3].code}" in recommendation(peaks, find_gpu("16GB"))
    assert "nothing fits on 6GB (5.4 GiB for us); expected 6.0 GiB" in recommendation(peaks, find_gpu("6GB"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu": "24GB"}, "--gpu 24GB without a model"),
        ({"model": "wan_1_3b", "gpu": "rtx4900"}, "gpu 'rtx4900'; expected one of a100-40gb, .* nearest: rtx4090"),
        ({"model": "wan_1_3b", "size": "big"}, "size 'big'; expected WIDTHxHEIGHT"),
        ({"model": "{folder}"}, "holds none of model_index.json"),
    ],
)
def test_mistakes(options: dict[str, str], message: str, tmp_path: Path) -> None:
    """Guards against tracebacks of what a user can get wrong."""
    given = {name: value.format(folder=tmp_path) for name, value in options.items()}
    with pytest.raises(ValueError, match=message):
        run(**given)
