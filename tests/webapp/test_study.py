"""Studies on the page: the films of a ZIP or a folder are found in the browser, and what was left out is counted."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.places import REPOSITORY

SCRIPT = REPOSITORY / "tests" / "webapp" / "scripts" / "study.mjs"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_a_study_is_unpacked_in_the_browser_and_what_is_no_film_is_counted(tmp_path: Path) -> None:
    study = tmp_path / "study.zip"
    with zipfile.ZipFile(study, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/IM0001", PNG + bytes(100_000))
        archive.writestr(zipfile.ZipInfo("b/stored.png"), PNG + b"\1\2\3")  # not compressed
        archive.writestr("b/report.txt", "no film" * 1000)
        archive.writestr("DICOMDIR", bytes(128) + b"DICM" + b"1.2.840.10008.1.3.10")
        archive.writestr("c/other.png", PNG, zipfile.ZIP_BZIP2)
        archive.writestr("__MACOSX/a/._IM0001", PNG)
    done = subprocess.run(
        ["node", "--test", str(SCRIPT)],
        env={**os.environ, "STUDY": str(study)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "# pass 5" in done.stdout
