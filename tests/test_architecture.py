"""Who may import whom, and what a module may look like."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).parents[1]
# Where each package's folder lies; the name of the package is the folder's last part.
PACKAGES: Final = {
    "cxr": "handler",
    "cxr_client": "",
    "cxr_training": "training",
    "cxr_webapp": "webapp",
    "pneumoscan": "",
    "benchmarks": "",
}
HEAVY: Final = {"torch", "torchvision", "ts", "numpy", "cxr", "cxr_training"}
COMMANDS: Final = {"scripts", "benchmarks", "training", "webapp", "handler"}  # folders, never imported by what ships

# From the ground up: a wing imports those named before it, and of its package nothing else.
WINGS: Final = {
    "cxr": ["errors", "json_records", "films", "model", "engines", "predict", "serving"],
    "cxr_training": ["errors", "data", "runs", "fit", "measure", "pages"],
    "pneumoscan": [
        *(
            "errors",
            "files",
            "processes",
            "progress",
            "daemon",
            "resources",
            "options",
            "archive_entries",
            "model_store",
            "signatures",
            "film_files",
            "drawn_films",
            "outcomes",
            "tracking",
        ),
        "metrics_report",
        *("server", "versions", "edge", "dicom", "score", "archive", "cli", "pipeline", "commands"),
    ],
}
# What stands beside the wings: thin commands and what only they use. They import any wing and no wing imports them.
BESIDE: Final = {
    "cxr": set[str](),
    "cxr_training": {
        *("train", "calibrate", "export", "evaluate", "audit", "compare", "quantise", "drift", "site"),
    },
    "pneumoscan": {"__main__"},
}


def modules(package: str) -> dict[str, Path]:
    """The files of a package by full name."""
    root = ROOT / PACKAGES[package]
    found = {}
    for path in (root / package).rglob("*.py"):
        if path.is_symlink():  # data of the wheel
            continue
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    assert found, package
    return found


def imports(path: Path) -> Iterator[str]:
    """Full names of all modules a file imports, wherever in the file; of ``from a import b`` both a and a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph(package: str) -> dict[str, set[str]]:
    """Which modules of a package each of them imports."""
    files = modules(package)
    return {name: {other for other in imports(path) if other in files} - {name} for name, path in files.items()}


@pytest.mark.parametrize(
    ("package", "banned"),
    [
        ("cxr", COMMANDS | {"ts", "cxr_training", "pneumoscan", "cxr_client", "requests", "django", "matplotlib"}),
        ("cxr_training", COMMANDS | {"ts", "cxr_client", "requests", "cxr_webapp"}),
        ("cxr_client", COMMANDS | HEAVY | {"PIL", "pneumoscan", "cxr_webapp"}),
        ("cxr_webapp", COMMANDS | HEAVY | {"pneumoscan", "requests", "pydicom"}),
        ("pneumoscan", {"scripts", "training", "webapp", "handler", "ts"}),
    ],
)
def test_nobody_imports_what_its_package_may_not(package: str, banned: set[str]) -> None:
    found = {name: {first.split(".")[0] for first in imports(path)} for name, path in modules(package).items()}
    assert {name: names & banned for name, names in found.items() if names & banned} == {}


def test_training_knows_the_ground_floor_of_the_commands_alone() -> None:
    """Errors, files and options stand below everything and import nothing heavy; a server is no matter of training."""
    found = {other for path in modules("cxr_training").values() for other in imports(path)}
    wings = {name.split(".")[1] for name in found if name.startswith("pneumoscan.")}
    assert wings <= {"errors", "files", "options", "resources", "tracking"}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    TopologicalSorter(graph(package)).prepare()


@pytest.mark.parametrize("package", WINGS)
def test_no_wing_imports_a_later_one(package: str) -> None:
    order = WINGS[package]
    upward = []
    for name, others in graph(package).items():
        wing = ".".join(name.split(".")[1:2])
        for other in others:
            its = ".".join(other.split(".")[1:2])
            if wing and wing not in BESIDE[package] and its and its != wing and its not in order[: order.index(wing)]:
                upward.append(f"{name} imports {other}")
    assert sorted(upward) == []


@pytest.mark.parametrize("package", WINGS)
def test_every_module_belongs_to_a_wing_or_stands_beside_them(package: str) -> None:
    first = {name.split(".")[1] for name in modules(package) if "." in name}
    assert first == {*WINGS[package], *BESIDE[package]}


def test_the_handler_imports_cxr_and_nothing_of_ours_beside_it() -> None:
    names = {name.split(".")[0] for name in imports(ROOT / "handler" / "cxr_handler.py")}
    assert names <= {"__future__", "os", "pathlib", "sys", "threading", "typing", "cxr"}


def test_the_program_of_a_scoring_worker_imports_nothing_of_ours() -> None:
    """What it scores with is the archive's own code, which it finds where it unpacked it."""
    names = {name.split(".")[0] for name in imports(ROOT / "pneumoscan" / "score" / "worker.py")}
    assert names & {*PACKAGES, *COMMANDS, "ts", "torch"} == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_has_grown_past_one_subject(package: str) -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules(package).items()}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_a_short_module_with_one_importer_joins_it() -> None:
    """Fewer than 80 lines that one module alone uses are a part of that module, not a room of their own."""
    files = {name: path for package in PACKAGES for name, path in modules(package).items()}
    importers: dict[str, set[str]] = defaultdict(set)
    for name, path in files.items():
        for other in {*imports(path)} & files.keys() - {name}:
            importers[other].add(name)
    lengths = {
        name: len(path.read_text(encoding="utf-8").splitlines())
        for name, path in files.items()
        if path.name != "__init__.py"
    }
    alone = {name for name, length in lengths.items() if length < 80 and len(importers[name]) == 1}
    # A module a command, however short: its options there, what it does here.
    thin = {name for name in alone if name.startswith("pneumoscan.commands.")}
    thin |= {f"cxr_training.{name}" for name in BESIDE["cxr_training"]}
    assert alone - thin == set()


@pytest.mark.parametrize("folder", ["scripts", "training"])
def test_an_entry_is_a_few_lines(folder: str) -> None:
    """`pneumoscan serve` and its like only call the product; what developers run alone may be longer."""
    developers = {"scripts/sbom.py", "scripts/licences.py", "scripts/audit.py"}
    for path in (ROOT / folder).glob("*.py"):
        if path.relative_to(ROOT).as_posix() not in developers:
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 15, path
