"""Who may import whom, and what a module may look like."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "torchvision", "ts", "numpy", "cxr", "training"}


def imports(path: Path) -> Iterator[str]:
    """Full names of all modules a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module


def packages_of(folder: str) -> dict[Path, set[str]]:
    """First parts of the imports of each file of a folder."""
    found = {path: {name.split(".")[0] for name in imports(path)} for path in (ROOT / folder).rglob("*.py")}
    assert found, folder
    return found


@pytest.mark.parametrize(
    ("folder", "banned"),
    [
        ("handler/cxr", {"ts", "training", "requests", "django", "scripts", "cxr_client", "matplotlib", "handler"}),
        ("training", {"ts", "scripts", "cxr_client", "requests", "handler"}),
        ("cxr_client", HEAVY | {"scripts", "PIL", "handler"}),
        ("scripts", {"handler"}),
        ("webapp", HEAVY | {"scripts", "requests", "pydicom", "handler"}),
    ],
)
def test_nobody_imports_what_its_folder_may_not(folder: str, banned: set[str]) -> None:
    assert {str(path): names & banned for path, names in packages_of(folder).items() if names & banned} == {}


def test_inside_cxr_there_are_no_cycles() -> None:
    graph = {
        f"cxr.{path.stem}": {name for name in imports(path) if name.startswith("cxr.")}
        for path in (ROOT / "handler" / "cxr").glob("[!_]*.py")
    }
    done: set[str] = set()
    while ready := {name for name, needs in graph.items() if name not in done and needs <= done}:
        done |= ready
    assert done == set(graph)


def test_the_handler_imports_cxr_and_nothing_of_ours_beside_it() -> None:
    names = {name.split(".")[0] for name in imports(ROOT / "handler" / "cxr_handler.py")}
    assert names <= {"__future__", "os", "pathlib", "sys", "threading", "typing", "cxr"}


@pytest.mark.parametrize("folder", ["handler", "training", "cxr_client", "scripts", "webapp"])
def test_no_module_has_grown_past_one_subject(folder: str) -> None:
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 320} == {}
