"""``pneumoscan pack``: bundle a run with the handler into a model archive."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pneumoscan.options import Option


@dataclass(frozen=True, kw_only=True)
class Options:
    """Bundle a run's exported model with the handler into a model archive, STORE/pneumonia-VERSION.mar.

    The same model and the same code always give the same bytes.
    """

    run: Annotated[Path, Option("a run folder that was calibrated and exported", "DIR")]
    version: Annotated[str, Option("version of the archive, e.g. 1.0.0")]
    store: Annotated[Path, Option("model store", "DIR")] = Path("model_store")
    sign: Annotated[
        Path | None, Option("sign it with this private key, into the archive's name with .sig behind", "KEY")
    ] = None
    force: Annotated[bool, Option("replace another archive of this version")] = False


OPTIONS = Options


def run(options: Options) -> int:
    """Pack, and say what came of it."""
    from cxr.model.spec import sha256_of
    from pneumoscan.archive import package
    from pneumoscan.signatures import read_private_key, sign, signature_file

    key = None if options.sign is None else read_private_key(options.sign)  # before the work
    path = package(options.run, options.version, options.store, force=options.force)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB, sha256 {sha256_of(path)[:12]}…)")
    if key is not None:
        print(f"signed: {sign(path, key)}")
    elif signature_file(path).exists():
        print(f"note: {signature_file(path)} was left as it is: give --sign to write it again", file=sys.stderr)
    return 0
