"""The README and the docs promise only what is there: commands, flags, make targets, links, paths, imports."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer

from video_alchemist.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "PAPER.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page.name: page.read_text(encoding="utf-8") for page in PAGES}


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for name, text in TEXT.items():
        found += [(name, block) for block in re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)]
    return found


def commands() -> list[tuple[str, list[str]]]:
    """Shell commands of all pages, split into words; continued lines joined, comments dropped."""
    lines = []
    for name, block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                lines.append((name, words))
    return lines


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda value: value if isinstance(value, str) else value[0])
def test_commands_exist(page, words):
    """A flag that was renamed leaves a reader with an error on the first try."""
    program = Path(words[0]).name
    if program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert words[1] in targets
    elif program == "alchemist":
        command = typer.main.get_command(app)
        rest = words[1:]
        while hasattr(command, "commands"):
            command = command.commands[rest.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("-")} <= known
        for word in rest:
            path = word.partition("=")[2] or word
            if path.startswith("docs/"):
                assert (ROOT / path).exists()
    else:
        assert program == "python" and words[1] == "-m" and words[2].startswith("video_alchemist")
        module = ROOT / "src" / words[2].replace(".", "/")
        assert module.with_suffix(".py").exists() or (module / "__main__.py").exists()


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", TEXT[page.name]):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} -> {target}"


def test_tree_names_what_is_there():
    """The annotated tree is the map; a room that it lacks is never found."""
    tree = TEXT["README.md"].partition("\nsrc/video_alchemist/\n")[2].partition("```")[0]
    named = set(re.findall(r"^  ([\w.]+)/?\s", tree, flags=re.MULTILINE))
    source = ROOT / "src" / "video_alchemist"
    rooms = {path.name for path in source.iterdir() if not path.name.startswith(("_", "."))}
    assert named == rooms


def test_python_example_compiles_and_imports():
    import video_alchemist

    for _, block in blocks("python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "video_alchemist":
                assert all(hasattr(video_alchemist, alias.name) for alias in node.names)


def test_paper_map_names_files_and_tests_that_exist():
    """PAPER.md is worth nothing once it points at what was renamed."""
    source = ROOT / "src" / "video_alchemist"
    for path in re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)", TEXT["PAPER.md"]):
        candidates = [source / path, ROOT / "tests" / path, *ROOT.glob(f"tests/**/{path}")]
        assert any(candidate.exists() for candidate in candidates), path
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(?:[\w/]+\.py:)?(test_\w+)`", TEXT["PAPER.md"]):
        assert f"def {name}" in tests, name
