"""Known vulnerabilities of the installed Python packages: ``python -m scripts.audit``.

Exit codes: 0 none is known, 1 some are, or it was not checked, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

# A version with a vulnerability that everybody knows (CVE-2018-18074): who does not know it knows nothing.
_KNOWN: Final = "requests==2.19.0"
_OURS: Final = "pneumoscan"
_PATIENCE_S: Final = 300.0


@dataclass(frozen=True)
class Audit:
    """What came of an audit.

    Parameters
    ----------
    unchecked
        Why nothing was checked; None where it was.
    found
        One line for each vulnerability.
    """

    unchecked: str | None
    found: tuple[str, ...] = ()


def audit() -> Audit:
    """Ask pip-audit about this environment, after making sure that its service knows anything.

    A mirror of the package index, or a network that lets only some requests out, answers without any vulnerability and
    pip-audit then finds none: that is no result.
    """
    probe, why = _ask([_KNOWN])
    if probe is None:
        return Audit(why)
    if not _lines(probe):
        return Audit(f"the vulnerability service does not know the one of {_KNOWN}, so it knows nothing")
    report, why = _ask(installed())
    return Audit(why) if report is None else Audit(None, tuple(_lines(report)))


def installed() -> list[str]:
    """Every installed package but ours as a requirement.

    pip-audit could list them itself, but --strict fails on ours, which no index has, whether it is skipped or not.
    """
    found = {_normal(one.metadata["Name"]): one.version for one in metadata.distributions()}
    return [f"{name}=={version}" for name, version in sorted(found.items()) if name != _OURS]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _ask(requirements: Sequence[str]) -> tuple[dict[str, Any] | None, str]:
    command = [sys.executable, "-m", "pip_audit", "--strict", "--format", "json", "--progress-spinner", "off"]
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("\n".join(requirements) + "\n")
        return _run([*command, "--disable-pip", "--no-deps", "--requirement", str(listed)])


def _run(command: Sequence[str]) -> tuple[dict[str, Any] | None, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
        return dict(json.loads(done.stdout)), ""
    except subprocess.TimeoutExpired:
        return None, f"pip-audit had no answer within {_PATIENCE_S:g} s"
    except ValueError:
        return None, (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]


def _lines(report: dict[str, Any]) -> list[str]:
    return [
        f"{package['name']} {package['version']}: {one['id']}, fixed in {', '.join(one['fix_versions']) or 'none'}"
        for package in report.get("dependencies", ())
        for one in package.get("vulns", ())
    ]


def build_parser() -> argparse.ArgumentParser:
    """The parser of this command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.audit",
        description="Ask pip-audit about the installed Python packages. Where its service cannot be reached, or "
        "turns out to know nothing, the answer is 'not checked' and not 'none'. Java libraries: see scripts.sbom.",
        epilog="Exit codes: 0 none is known, 1 some are, or it was not checked, 2 wrong usage.",
    )
    parser.add_argument("--json", action="store_true", help="say it as JSON")
    parser.add_argument("--unchecked-is-fine", action="store_true", help="exit 0 where it was not checked")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    args = build_parser().parse_args(argv)
    result = audit()
    if args.json:
        print(json.dumps({"checked": result.unchecked is None, "why": result.unchecked, "found": result.found}))
    elif result.unchecked is not None:
        print(f"not checked: {result.unchecked}")
    else:
        print("\n".join(result.found) or "no known vulnerability")
    if result.unchecked is not None:
        return 0 if args.unchecked_is_fine else 1
    return 1 if result.found else 0


if __name__ == "__main__":
    sys.exit(main())
