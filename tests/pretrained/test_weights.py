"""Files of weights, good and bad."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from video_alchemist.pretrained.weights import fill, read_weights


def test_parallel_names_and_missing_counters(tmp_path: Path) -> None:
    """Guards against files of DataParallel, or of old batch norms without counters, that would be refused."""
    norm = nn.BatchNorm2d(3)
    torch.save({f"module.{name}": value + 1 for name, value in norm.state_dict().items() if "num" not in name},
               tmp_path / "a.pth")  # fmt: skip
    fill(norm, read_weights(tmp_path / "a.pth"), "a.pth")
    assert norm.running_var.tolist() == [2, 2, 2]


class Bomb:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("exploded"),)


def test_bad_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a checkpoint that runs code, and errors that do not name the file and the first difference."""
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Bomb()}, "bomb.pth")
    Path("text.pth").write_text("hello")
    Path("empty.pth").touch()
    for name in ("bomb.pth", "text.pth", "empty.pth"):
        with pytest.raises(ValueError, match=f"'{name}' cannot be read; expected names and tensors"):
            read_weights(name)
    assert not Path("exploded").exists()
    with pytest.raises(ValueError, match="no such file of weights: 'none.pth'"):
        read_weights("none.pth")
    torch.save({"epoch": 3}, "run.pth")
    with pytest.raises(ValueError, match="'run.pth' holds dict; expected names and tensors, a state_dict"):
        read_weights("run.pth")
    with pytest.raises(ValueError, match=r"does not fit Linear: 2 .*; first 'bias': missing, expected \(3,\)"):
        fill(nn.Linear(2, 3), {"weight": torch.zeros(2, 2)}, "a.pth")
