"""The files that ship with the code and are none: TorchServe's settings, nginx's templates, the archive's entry.

They stand at the repository's top, in ``deploy/`` and in ``handler/``; ``pneumoscan/data/`` holds links to them, which
become the files themselves in a wheel.
"""

from __future__ import annotations

import functools
import subprocess
from importlib.resources import files
from pathlib import Path

from cxr import __version__


def resource(name: str) -> Path:
    """The path of a file in ``pneumoscan/data/``, whether the package is a checkout or an installed wheel."""
    return Path(str(files("pneumoscan"))) / "data" / name


def package_folder(name: str) -> Path:
    """The folder of an installed package."""
    return Path(str(files(name)))


@functools.cache
def code_version() -> str:
    """Version and commit, such as ``0.2.0+g1a2b3c4d5e6f`` (PEP 440), with ``.dirty`` where files were changed.

    A checkout asks git; a wheel has the commit it was built from in ``data/commit``, which `setup.py` writes. Where
    neither is known it is the version alone.
    """
    commit = resource("commit")
    if commit.is_file():
        return f"{__version__}+g{commit.read_text(encoding='ascii').strip()}"
    folder = package_folder("pneumoscan").parent
    if not (folder / ".git").exists():
        return __version__
    command = ["git", "-C", str(folder), "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=.dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout that it does not trust
        return __version__
    return f"{__version__}+g{done.stdout.strip()}"
