"""The two locks: of what develops and of what serves, with a hash for each file that may be installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = {"requirements.lock": "dev", "requirements-serve.lock": "serve"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def entries(name: str) -> list[tuple[Requirement, list[str]]]:
    """The requirements of a lock with their hashes."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", "")
    found = []
    for line in text.splitlines():
        wanted, *hashes = re.split(r"\s+--hash=", line.strip())
        found.append((Requirement(wanted), hashes))
    return found


def wanted(extra: str) -> list[Requirement]:
    """What pyproject.toml asks for, with the extras that an extra names."""
    found = [Requirement(line) for line in PROJECT["dependencies"]]
    for line in PROJECT["optional-dependencies"][extra]:
        one = Requirement(line)
        found += [each for inner in one.extras for each in wanted(inner)] if one.name == "pneumoscan" else [one]
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_each_line_names_one_version_and_its_hashes_and_no_place(name: str) -> None:
    found = entries(name)
    assert len(found) > 50
    for requirement, hashes in found:
        assert re.fullmatch(r"==[0-9][^,*]*", str(requirement.specifier)), requirement
        assert requirement.url is None
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), requirement
    assert not re.search(r"://|^-", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("name", "extra"), LOCKS.items())
def test_a_lock_holds_what_the_project_asks_for(name: str, extra: str) -> None:
    here = {
        canonicalize_name(one.name): str(one.specifier).removeprefix("==")
        for one, _ in entries(name)
        if one.marker is None or one.marker.evaluate()
    }
    for requirement in wanted(extra):
        assert requirement.specifier.contains(here[canonicalize_name(requirement.name)], prereleases=True), requirement


def test_what_serves_is_of_the_same_versions_and_hashes_as_what_is_tested_and_no_tool_of_development() -> None:
    # Without the markers, which say who asks for it and not what it is.
    develop, serve = ({f"{one.name}{one.specifier}": hashes for one, hashes in entries(name)} for name in LOCKS)
    assert serve.items() <= develop.items()
    names = {one.name for one, _ in entries("requirements-serve.lock")}
    assert not names & {"pytest", "mypy", "ruff", "selenium", "mlflow-skinny", "nncf", "matplotlib", "pip-audit"}


def test_a_changed_hash_stops_the_installation(tmp_path: Path) -> None:
    wheel = tmp_path / "thing-1.0-py3-none-any.whl"
    shutil.make_archive(str(tmp_path / "thing"), "zip", ROOT / "deploy" / "prometheus")
    (tmp_path / "thing.zip").rename(wheel)
    lock = tmp_path / "a.lock"
    lock.write_text(f"thing==1.0 --hash=sha256:{'0' * 64}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-index", "--find-links", str(tmp_path), "--dest"]
    done = subprocess.run(
        [*command, str(tmp_path / "out"), "--require-hashes", "-r", str(lock)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_the_image_and_the_environment_are_installed_from_the_locks_with_hashes() -> None:
    containerfile = (ROOT / "deploy" / "Containerfile").read_text(encoding="utf-8")
    assert "--require-hashes --requirement requirements-serve.lock" in containerfile
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "--require-hashes --requirement requirements.lock" in makefile
