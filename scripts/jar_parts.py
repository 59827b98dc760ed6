"""The Java libraries inside a jar that was built with everything in it, by what the jar says of itself."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_POM: Final = re.compile(r"META-INF/maven/.+/pom\.properties")
_NETTY: Final = "META-INF/io.netty.versions.properties"
_GROOVY: Final = "META-INF/groovy-release-info.properties"
_DEPENDENCIES: Final = "META-INF/DEPENDENCIES"
_COORDINATES: Final = re.compile(r"([\w.-]+):([\w.-]+):jar:([\w.-]+)")
# Libraries that TorchServe 0.12.0's jar holds and that left no version in it, by a class of each.
_BY_CLASS: Final = {
    "com/google/common/collect/ImmutableList.class": ("com.google.guava", "guava"),
    "com/google/gson/Gson.class": ("com.google.code.gson", "gson"),
    "com/google/protobuf/Message.class": ("com.google.protobuf", "protobuf-java"),
    "com/lmax/disruptor/RingBuffer.class": ("com.lmax", "disruptor"),
    "io/grpc/Server.class": ("io.grpc", "grpc-api"),
    "io/grpc/netty/shaded/io/netty/channel/Channel.class": ("io.grpc", "grpc-netty-shaded"),
    "io/prometheus/client/Collector.class": ("io.prometheus", "simpleclient"),
    "org/apache/commons/cli/Option.class": ("commons-cli", "commons-cli"),
    "org/apache/commons/io/FileUtils.class": ("commons-io", "commons-io"),
    "org/apache/logging/log4j/core/Logger.class": ("org.apache.logging.log4j", "log4j-core"),
    "org/apache/logging/slf4j/Log4jLogger.class": ("org.apache.logging.log4j", "log4j-slf4j-impl"),
    "org/codehaus/groovy/Version.class": ("org.codehaus.groovy", "groovy"),
    "org/junit/Test.class": ("junit", "junit"),
    "org/pytorch/serve/ModelServer.class": ("org.pytorch", "torchserve"),
    "org/testng/TestNG.class": ("org.testng", "testng"),
    "org/yaml/snakeyaml/Yaml.class": ("org.yaml", "snakeyaml"),
}


@dataclass(frozen=True, order=True)
class JarPart:
    """One library in a jar; no version where the jar tells none."""

    group: str
    name: str
    version: str | None


def parts_of(jar: Path) -> list[JarPart]:
    """Give the libraries of a jar, sorted.

    A build that packs all libraries into one jar overwrites the files that name them, and drops most; what is left is
    ``pom.properties``, Netty's and Groovy's own lists and Apache's dependency notes. Libraries that are recognised by a
    class alone have no version, which is less than a guessed one and more than silence.

    Raises
    ------
    OSError, zipfile.BadZipFile
        The jar cannot be read.
    """
    found: dict[tuple[str, str], str | None] = {}
    with zipfile.ZipFile(jar) as archive:
        names = set(archive.namelist())
        for marker, key in _BY_CLASS.items():
            if marker in names:
                found[key] = None
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
