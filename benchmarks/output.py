"""Where results go: files that are written whole or not at all, and that replace nothing unless asked to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.servers import WrongUsage
from pneumoscan.files import write_text


def may_write(path: Path | None, *, force: bool) -> None:
    """Check before anything is measured that a result can be put there.

    Raises
    ------
    WrongUsage
        There is a file already, or no folder.
    """
    if path is None:
        return
    if path.exists() and not force:
        raise WrongUsage(f"{path} exists: choose another name, or --force")
    if not path.absolute().parent.is_dir():
        raise WrongUsage(f"{path.parent} is not a folder: make it first")


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result as JSON."""
    write_text(path, json.dumps(result, indent=1) + "\n")


def read_result(path: Path) -> dict[str, Any]:
    """A result that `write_result` wrote.

    Raises
    ------
    WrongUsage
        It is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WrongUsage(f"{path} is not JSON: give a file that --out wrote") from error
    if not isinstance(found, dict) or "machine" not in found:
        raise WrongUsage(f"{path} is no result of scripts.benchmark: give a file that --out wrote")
    return found
