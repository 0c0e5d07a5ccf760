"""The map of the rooms, the reading distance, and clean imports, checked by walking the import statements."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
ROOMS = (
    "records flow video pretrained dataset curation model training sampling benchmark emojiworld presets cli studio"
).split()
FORBIDDEN = {
    ("dataset", "curation"),
    ("sampling", "training"),
    ("studio", "emojiworld"),
}  # though the order allows them
# Whether files are whole and of this model: who reads how a video is made, or a step of training, need not read it.
ON_OPENING = {"video_alchemist.sampling.checks", "video_alchemist.sampling.lora"}
FILES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.glob("video_alchemist/**/*.py"))
}


def room(module: str) -> str:
    """The room of a module; "" for the package itself and its __main__, which stand outside the rooms."""
    name = module.split(".")[1] if "." in module else ""
    return "" if name == "__main__" else name


@cache
def imports(module: str) -> frozenset[str]:
    """Our modules that a module imports anywhere in its text, inside functions too."""
    found: set[str] = set()
    package = module.split(".") if FILES[module].name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join(parent + ([node.module] if node.module else []))
            found |= {f"{base}.{a.name}" if f"{base}.{a.name}" in FILES else base for a in node.names}
    return frozenset(found & FILES.keys())


def closure(entry: str) -> dict[str, int]:
    """Modules reachable from one module, with the number of imports on the shortest way."""
    depth, front = {entry: 0}, [entry]
    for module in front:
        for target in sorted(imports(module) - ON_OPENING - depth.keys()):
            depth[target] = depth[module] + 1
            front.append(target)
    return depth


def run_python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter whose working and home folder is `folder`."""
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder)}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_every_module_stands_in_a_known_room() -> None:
    """Guards against a new top-level module that nobody placed in the order."""
    assert {room(module) for module in FILES} <= {*ROOMS, ""}


@pytest.mark.parametrize("module", FILES)
def test_rooms_import_only_rooms_above(module: str) -> None:
    """Guards against cycles between rooms, and against a real system that needs EmojiWorld to stand."""
    if room(module) == "":
        return
    for target in imports(module):
        here, there = room(module), room(target)
        assert there != "", f"{module} imports the package itself; import the module that defines the name"
        assert ROOMS.index(there) <= ROOMS.index(here), f"{module} imports {target}, of a room below"
        assert (here, there) not in FORBIDDEN, f"{module} imports {target}"


@pytest.mark.parametrize(
    ("entry", "max_lines"),
    [("sampling.pipeline", 2500), ("sampling.checks", 1500), ("sampling.lora", 1600), ("training.trainer", 3500)],
)
def test_reading_distance(entry: str, max_lines: int) -> None:
    """Guards against sprawl: what a reader of one verb must go through, in lines and in imports."""
    depth = closure(f"video_alchemist.{entry}")
    lines = {module: len(FILES[module].read_text().splitlines()) for module in depth}
    assert sum(lines.values()) <= max_lines, lines
    assert max(depth.values()) <= 3, depth


@pytest.mark.parametrize("module", FILES)
def test_files_are_short_and_named_by_their_subject(module: str) -> None:
    """Guards against drawers, and files too long to be read at a sitting."""
    assert not {"utils", "util", "common", "helpers", "misc"} & set(module.split("."))
    assert len(FILES[module].read_text().splitlines()) <= 400


def test_importing_prints_and_writes_nothing(tmp_path: Path) -> None:
    """Guards against work at import: folders made, arguments parsed, logging set up."""
    modules = [module for module in FILES if not module.endswith("__main__")]
    done = run_python("-c", "import importlib\n" + "\n".join(f"import {name}" for name in modules), folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    """Guards against `alchemist --help` that takes seconds because some verb's imports stand at module level."""
    done = run_python("-X", "importtime", "-m", "video_alchemist", "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typing" in imported
    assert imported.isdisjoint({"torch", "numpy", "diffusers", "transformers", "av", "matplotlib"})
