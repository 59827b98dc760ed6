"""The files that ship with the code and are none: TorchServe's settings, nginx's templates, the archive's entry.

They stand at the repository's top, in ``deploy/`` and in ``handler/``; ``pneumoscan/data/`` holds links to them, which
become the files themselves in a wheel.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def resource(name: str) -> Path:
    """Give the path of a file in ``pneumoscan/data/``, whether the package is a checkout or an installed wheel."""
    return Path(str(files("pneumoscan"))) / "data" / name


def package_folder(name: str) -> Path:
    """Give the folder of an installed package."""
    return Path(str(files(name)))
