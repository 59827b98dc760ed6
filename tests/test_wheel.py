"""The wheel: what the product is made of beside its code, and nothing else, built from a source distribution."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from pneumoscan.resources import resource
from tests.places import REPOSITORY

_BUILD = "import setuptools.build_meta as made, sys; print(made.{}(sys.argv[1]))"
_PACKAGES = {"cxr", "cxr_client", "cxr_training", "cxr_webapp", "pneumoscan"}
_DATA = {
    *("config.properties", "metrics.yaml", "log4j2.xml", "cxr_handler.py", "model-config.yaml"),
    *("nginx.conf", "nginx-adapter.conf", "nginx-ask.conf", "nginx-torchserve.conf"),
}


def build(what: str, source: Path, out: Path) -> Path:
    command = [sys.executable, "-c", _BUILD.format(what), str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "config.properties", "metrics.yaml", "log4j2.xml"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("handler", "training", "webapp", "cxr_client", "pneumoscan", "deploy", "scripts", "benchmarks"):
        ignored = shutil.ignore_patterns("__pycache__", "secrets")
        shutil.copytree(REPOSITORY / name, source / name, symlinks=True, ignore=ignored)
    with tarfile.open(build("build_sdist", source, folder)) as packed:
        packed.extractall(folder / "sdist")
    (unpacked,) = (folder / "sdist").iterdir()
    return build("build_wheel", unpacked, folder)


def test_the_wheel_has_our_packages_and_no_generic_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        first = {name.split("/")[0] for name in packed.namelist()}
    assert {name for name in first if not name.endswith(".dist-info")} == _PACKAGES


def test_the_wheel_has_every_module_and_template_of_the_checkout(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if ".dist-info/" not in name}
    there = set()
    for root in ("handler", "training", "webapp", "."):
        for package in _PACKAGES:
            for path in (REPOSITORY / root / package).rglob("*"):
                if path.is_file() and path.suffix != ".pyc" and not path.name.startswith("."):
                    there.add(path.relative_to(REPOSITORY / root).as_posix())
    assert names == there
    assert {f"{package}/py.typed" for package in _PACKAGES} <= names


def test_the_wheel_holds_the_configuration_as_it_stands_in_the_checkout(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        data = {name.removeprefix("pneumoscan/data/") for name in packed.namelist() if "pneumoscan/data/" in name}
        assert data == _DATA
        for name in data:
            assert packed.read(f"pneumoscan/data/{name}") == resource(name).read_bytes()
        for licence in ("LICENSE", "NOTICE"):
            assert any(name.endswith(f"licenses/{licence}") for name in packed.namelist())


def test_in_a_checkout_the_data_are_links_to_where_the_files_are_kept() -> None:
    links = {path for path in (REPOSITORY / "pneumoscan" / "data").iterdir() if path.name != "__pycache__"}
    assert {path.name for path in links} == _DATA
    for path in links:
        assert path.is_symlink(), path
        assert path.resolve().parent in (REPOSITORY, REPOSITORY / "deploy", REPOSITORY / "handler")
