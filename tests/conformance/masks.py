"""What honestly differs between two runs of a command, put out of sight, and a command's run itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.conformance.archives import ROOT, environment

_PROGRESS: Final = re.compile(r"\d+%\||\d+/\d+ \[|^\s*\d+(film|batch|epoch)\S* \[")
_PATTERNS: Final = (
    (re.compile(r"\bin \d+(\.\d+)? s\b"), "in <seconds> s"),
    # The spec in the archive has the seconds of the training.
    (re.compile(r"\.mar \([\d.]+ MB, sha256 \w+…\)"), ".mar (<size>, <digest>)"),
    (re.compile(r"pns_[A-Za-z0-9_-]{43}"), "<key>"),
    (re.compile(r"conformance-\w{8}"), "<work>"),
    (re.compile(r"\b20\d\d-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?\S*)?"), "<date>"),
)
_TIMES: Final = frozenset({"elapsed_s"})
_SECONDS: Final = 300  # that one command may take


class Masks:
    """Puts names of folders, times and keys out of a text.

    Parameters
    ----------
    folders
        What is written in place of each folder.
    """

    def __init__(self, folders: Mapping[Path, str]) -> None:
        named = {**{str(path): name for path, name in folders.items()}, sys.executable: "<python>"}
        self._names = sorted(named.items(), key=lambda pair: -len(pair[0]))

    def text(self, text: str) -> list[str]:
        """The lines of a text, without progress bars."""
        for name, shown in self._names:
            text = text.replace(name, shown)
        for pattern, shown in _PATTERNS:
            text = pattern.sub(shown, text)
        lines = [line.rpartition("\r")[2] if "\r" in line else line for line in text.split("\n")]
        return [line.rstrip() for line in lines if line.strip() and not _PROGRESS.search(line)]

    def value(self, value: Any) -> Any:
        """Parsed JSON, its texts masked."""
        if isinstance(value, dict):
            return {key: "<seconds>" if key in _TIMES else self.value(one) for key, one in value.items()}
        if isinstance(value, list):
            return [self.value(one) for one in value]
        return "\n".join(self.text(value)) if isinstance(value, str) else value


def run(module: str, arguments: Sequence[str], masks: Masks) -> dict[str, Any]:
    """Run ``python -m MODULE ARGUMENTS`` at the root of the repository: exit status, and the lines it wrote."""
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return {"exit": f"none after {_SECONDS} s"}
    return {"exit": process.returncode, "stdout": masks.text(stdout), "stderr": masks.text(stderr)}
