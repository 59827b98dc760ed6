"""What this installation is made of, as a CycloneDX bill of materials: ``python -m scripts.sbom``.

Exit codes: 0 done, 1 it could not be made, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import sys
import zipfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from scripts.jar_parts import parts_of

PRODUCT = "pneumoscan"


class SbomError(Exception):
    """It cannot be made; the message says why and what to do."""


def python_components() -> list[Component]:
    """Give the installed Python packages, sorted by name."""
    found: dict[str, Component] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"].lower().replace("_", "-").replace(".", "-")
        if name != PRODUCT:
            purl = PackageURL("pypi", name=name, version=distribution.version)
            found[name] = Component(
                name=name, version=distribution.version, type=ComponentType.LIBRARY, purl=purl, bom_ref=str(purl)
            )
    return [found[name] for name in sorted(found)]


def jar_components() -> Iterator[Component]:
    """Give each jar of the installed TorchServe with what is inside it.

    Raises
    ------
    SbomError
        TorchServe is not installed, or a jar cannot be read.
    """
    spec = importlib.util.find_spec("ts")
    if spec is None or not spec.submodule_search_locations:
        raise SbomError("torchserve is not installed in this environment: pip install 'pneumoscan[serve]'")
    jars = sorted((Path(spec.submodule_search_locations[0]) / "frontend").glob("*.jar"))
    if not jars:
        raise SbomError(f"there is no jar in {spec.submodule_search_locations[0]}/frontend: install torchserve again")
    for jar in jars:
        try:
            digest, parts = hashlib.sha256(jar.read_bytes()).hexdigest(), parts_of(jar)
        except (OSError, zipfile.BadZipFile) as error:
            raise SbomError(f"{jar} cannot be read ({error}): install torchserve again") from error
        inside = []
        for part in parts:
            purl = PackageURL("maven", part.group, part.name, part.version)
            inside.append(
                Component(
                    group=part.group,
                    name=part.name,
                    version=part.version,
                    type=ComponentType.LIBRARY,
                    purl=purl,
                    bom_ref=f"{jar.name}#{purl}",
                )
            )
        yield Component(
            name=jar.name,
            version=metadata.version("torchserve"),
            type=ComponentType.FILE,
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
            components=inside,
            bom_ref=f"file:{jar.name}",
        )


def make_bom() -> Bom:
    """Give the bill of materials of this environment.

    Raises
    ------
    SbomError
        See `jar_components`.
    """
    parts = [*python_components(), *jar_components()]
    product = Component(
        name=PRODUCT, version=metadata.version(PRODUCT), type=ComponentType.APPLICATION, bom_ref=PRODUCT
    )
    bom = Bom(components=parts)
    bom.metadata.component = product
    bom.register_dependency(product, parts)
    return bom


def build_parser() -> argparse.ArgumentParser:
    """Give the parser of this command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.sbom",
        description="Write what this installation is made of as CycloneDX 1.6 JSON: the Python packages, and the Java "
        "libraries inside TorchServe's jar. A library whose version the jar does not tell has none here.",
        epilog="Exit codes: 0 done, 1 it could not be made, 2 wrong usage.",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to (default: standard output)")
    parser.add_argument("--force", action="store_true", help="let --out replace a file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    args = build_parser().parse_args(argv)
    if args.out is not None and args.out.exists() and not args.force:
        print(f"scripts.sbom: {args.out} exists: give --force or another --out", file=sys.stderr)
        return 2
    try:
        text = JsonV1Dot6(make_bom()).output_as_string(indent=2) + "\n"
        if args.out is None:
            print(text, end="")
            return 0
        draft = args.out.with_name(f"{args.out.name}.{os.getpid()}.new")
        draft.write_text(text, encoding="utf-8")
        draft.replace(args.out)
    except (SbomError, OSError) as error:
        print(f"scripts.sbom: {error}", file=sys.stderr)
        return 1
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
