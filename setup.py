"""Puts the commit into what is built, `pneumoscan/data/commit`; everything else stands in pyproject.toml."""

from __future__ import annotations

import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithCommit(build_py):
    """Copies the packages and writes the commit of the checkout, where it is one."""

    def run(self) -> None:
        """Build; an editable installation asks git itself."""
        super().run()
        if self.editable_mode:
            return
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            (Path(self.build_lib) / "pneumoscan" / "data" / "commit").write_text(done.stdout, encoding="ascii")


setup(cmdclass={"build_py": BuildWithCommit})
