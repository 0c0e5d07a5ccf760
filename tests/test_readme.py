"""The README and the docs promise only what is there: commands, flags, keys, links, paths, imports, symbols."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer

from video_alchemist.cli.curate import VIDEOS
from video_alchemist.cli.main import app
from video_alchemist.emojiworld.recipes.command import parse_time
from video_alchemist.presets import PRESETS
from video_alchemist.sampling.manifest import read_manifest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "video_alchemist"
PAGES = [ROOT / "README.md", ROOT / "PAPER.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page.name: page.read_text(encoding="utf-8") for page in PAGES}


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for name, text in TEXT.items():
        found += [(name, block) for block in re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)]
    return found


def commands() -> list[tuple[str, list[str]]]:
    """Shell commands of all pages, fenced or in a sentence, as words; continued lines joined, comments dropped."""
    lines = [(name, line) for name, block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    for name, text in TEXT.items():
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        lines += [(name, " ".join(span.split())) for span in re.findall(r"`((?:make|alchemist) [a-z][^`|]*)`", prose)]
    return [(name, words) for name, line in lines if (words := shlex.split(line, comments=True))]


def label(value: object) -> str:
    return value if isinstance(value, str) else " ".join(value[:3])  # type: ignore[index]


@pytest.mark.parametrize(("page", "words"), commands(), ids=label)
def test_commands_exist(page: str, words: list[str]) -> None:
    """A verb or flag that was renamed leaves a reader with an error on the first try."""
    program, rest = Path(words[0]).name, words[1:]
    if program == "make":
        assert rest[0] in re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    elif program == "alchemist":
        command = typer.main.get_command(app)
        while hasattr(command, "commands") and rest:
            # A group's own verb: `curate VIDEOS` beside `curate report`.
            command = command.commands[rest.pop(0) if rest[0] in command.commands else VIDEOS]
        if rest:
            context = command.make_context(command.name, list(rest))  # reads the options, runs nothing
            if command.name == "train":
                assert context.params["preset"] in PRESETS and parse_time(context.params["time_limit"] or "1m")
        for word in rest:
            path = word.partition("=")[2] or word
            assert not path.startswith("docs/") or (ROOT / path).exists(), f"{page}: {path}"
    elif rest[0] == "-c":
        compile(rest[1], page, "exec")
    else:
        assert program == "python" and rest[0] == "-m" and rest[1].startswith("video_alchemist"), f"{page}: {words}"
        module = ROOT / "src" / rest[1].replace(".", "/")
        assert module.with_suffix(".py").exists() or (module / "__main__.py").exists()


@pytest.mark.parametrize(
    ("page", "assignment"),
    [(page, one) for page, text in TEXT.items() for one in re.findall(r"--set (\S+=[^\s`]+)", text)],
)
def test_settings_exist(page: str, assignment: str) -> None:
    """Guards against keys that the configuration, of training, curation or benchmark, no longer has."""
    from video_alchemist.benchmark.models import ROLES
    from video_alchemist.cli.bench import SCORES
    from video_alchemist.curation import profile
    from video_alchemist.emojiworld.recipes.scale import SMALL
    from video_alchemist.emojiworld.recipes.transformer import train_config
    from video_alchemist.training.config import override

    if "benchmark" in str(page):
        assert assignment.partition("=")[0] in (*ROLES, *SCORES)
    elif "curate" in str(page):
        assert profile.override(profile.paper(), assignment) is not None
    else:
        assert override(train_config(SMALL), assignment) != train_config(SMALL)


def test_manifests_are_read(tmp_path: Path) -> None:
    """Guards against manifests in the docs that `--batch` refuses."""
    examples = blocks("jsonl")
    assert examples
    for _, block in examples:
        (tmp_path / "requests.jsonl").write_text(block, encoding="utf-8")
        assert len(read_manifest(tmp_path / "requests.jsonl")) == len(block.splitlines())


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", TEXT[page.name]):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} -> {target}"


def test_tree_names_what_is_there() -> None:
    """The annotated tree is the map: what it names exists, and every room is on it."""
    tree = next(block for _, block in blocks("text") if block.startswith("src/video_alchemist/"))
    lines = [line.split()[0] for line in tree.splitlines()]
    inside = {line.split()[0].rstrip("/") for line in tree.splitlines() if line.startswith("  ")}
    assert inside == {path.name for path in SOURCE.iterdir() if not path.name.startswith(("_", "."))}
    outside = [name for name in lines if name.rstrip("/") not in inside]
    assert all((ROOT / name).exists() for name in outside), outside
    tour = re.findall(r"^\d\. `([\w/]+\.py)`", TEXT["README.md"], flags=re.MULTILINE)
    assert len(tour) == 6 and all((SOURCE / name).exists() for name in tour)


@pytest.mark.parametrize(("page", "block"), blocks("python"))
def test_python_examples_compile_and_import(page: str, block: str) -> None:
    for node in ast.walk(ast.parse(block, page)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names), node.module
        if isinstance(node, ast.Constant) and str(node.value).startswith("docs/"):
            assert (ROOT / str(node.value)).exists(), node.value


def test_paper_map_names_symbols_and_tests_that_exist() -> None:
    """PAPER.md is worth nothing once it points at what was renamed or moved."""
    addresses = re.findall(r"`([\w/]+\.py)(?::([\w.]+))?`", TEXT["PAPER.md"])
    assert len(addresses) > 100
    for path, symbol in addresses:
        is_test = path.rpartition("/")[2].startswith("test_")
        file = (ROOT / "tests" if is_test else SOURCE) / path
        assert file.is_file(), path
        if not symbol:
            continue
        name = symbol.rpartition(".")[2]
        pattern = rf"^\s*(?:def|class) {name}\b|^{name}\b"
        assert re.search(pattern, file.read_text(), flags=re.MULTILINE), f"{path}:{symbol}"
