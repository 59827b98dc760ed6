"""The digests of everything in an archive, which a worker compares before it runs on any of it.

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
    """Compare every file of an unpacked archive with the list.

    Raises
    ------
    ModelError
        Naming the first file that is missing or has other bytes than when it was packed.
    """
    path = folder / SUMS_FILE
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is missing or damaged: pack the archive again from its run") from error
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None:
            raise ModelError(f"{path} is damaged: pack the archive again from its run")
        digest, name = found.groups()
        if not (folder / name).is_file():
            raise ModelError(f"{name} is missing from the archive: pack it again from its run")
        if sha256_of(folder / name) != digest:
            raise ModelError(f"{name} is damaged: its sha256 is not the one in {SUMS_FILE}; copy the archive again")
