"""The digests of everything in an archive, which a worker compares before it says it is ready.

The list has the form that ``sha256sum --check SHA256SUMS`` reads, so that an unpacked archive can be checked by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cxr.errors import ModelError
from cxr.spec import sha256_of

SUMS_FILE: Final = "SHA256SUMS"
_LINE: Final = re.compile(r"([0-9a-f]{64})  (\S.*)")


def sums_text(digests: Mapping[str, str]) -> str:
    """The content of the list: SHA-256 by file name, relative to the archive's root."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))


def check(folder: Path) -> None:
    """Compare the files of an unpacked archive with the list: damage is seen, whoever packs the archive is trusted.

    Raises
    ------
    ModelError
        Naming the first file that is missing, is not on the list or has other bytes than when it was packed.
    """
    digests = _read_list(folder / SUMS_FILE)
    there = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    for name in sorted(digests.keys() - there):
        raise ModelError(f"{name} is missing from the archive: pack it again from its run")
    for name in sorted(there - digests.keys() - {SUMS_FILE}):
        raise ModelError(f"{name} is in the archive and not in {SUMS_FILE}: pack it again from its run")
    for name, digest in digests.items():
        if sha256_of(folder / name) != digest:
            raise ModelError(f"{name} is damaged: its sha256 is not the one in {SUMS_FILE}; copy the archive again")


def _read_list(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is missing or damaged: pack the archive again from its run") from error
    found = [_LINE.fullmatch(line) for line in lines]
    if not all(found):
        raise ModelError(f"{path} is damaged: pack the archive again from its run")
    return {line[2]: line[1] for line in found if line}
