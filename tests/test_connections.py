"""No word leaves the machine: no command looks up a name or connects beyond loopback, no library tells of its use."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Final

import pytest

from cxr.model.parity import REFERENCE, Parity
from pneumoscan.archive import package
from tests.connections import HAS_NAMESPACES, NEEDS_NAMESPACE, Hooked, in_namespace
from tests.cxr.networks import save_model
from tests.cxr_training.folders import write_manifest
from tests.e2e.servers import free_ports
from tests.places import REPOSITORY
from tests.programs import NEEDS_JAVA

# By name of a library that tells its makers of each use unless it is imported in the one place where that is off.
ONLY_IN: Final = {
    "openvino": {"handler/cxr/engines/openvino.py", "training/cxr_training/quantise.py"},
    "nncf": {"training/cxr_training/quantise.py"},
    "mlflow": {"pneumoscan/tracking.py", "pneumoscan/versions/registry.py"},  # the latter for its types
}
_EXPERIMENT: Final = "mlflow.set_experiment('x'); mlflow.start_run(); mlflow.end_run()"
USES: Final = {
    "Predictor.load": "from cxr.predict import Path, Predictor; Predictor.load(Path('{run}'), 'cpu')",
    "the engine": "from cxr.engines.openvino import core; core()",
    "NNCF": "import cxr_training.quantise, cxr.engines.openvino, nncf",
    "MLflow": f"from pneumoscan.tracking import import_mlflow; mlflow = import_mlflow(); {_EXPERIMENT}",
}
ENGINES: Final = {"cpu": "openvino-float32", "cuda": REFERENCE}
PARITY: Final = {"openvino-float32": Parity(100, 0, 0.0, 1e-5, 0.99999, 0.999999, "x86_64")}
SMALL: Final = ("--arch", "resnet10", "--weights", "random", "--device", "cpu")


@pytest.fixture
def hooked(tmp_path: Path) -> Hooked:
    (tmp_path / "hooked").mkdir()
    return Hooked(tmp_path / "hooked")


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_that_tells_of_its_use_is_imported_where_that_is_off(library: str) -> None:
    found = set()
    for path in REPOSITORY.rglob("*.py"):
        name = path.relative_to(REPOSITORY).as_posix()
        if path.is_symlink() or name.startswith((".", "build/")):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name for module in modules if module.split(".")[0] == library}
    assert found == ONLY_IN[library]


@pytest.mark.parametrize("statement", ["import openvino", f"import mlflow; {_EXPERIMENT}"])
def test_these_libraries_would_tell_of_their_use(statement: str, hooked: Hooked) -> None:
    """What the other tests find to be off is on without us; should that change, the switch can go."""
    code = ["-c", f"{statement}; import time; time.sleep(1)"]
    _, printed, noted = hooked.run(code, REPOSITORY, **environment(hooked.folder))
    assert noted, printed


@pytest.mark.parametrize("use", USES)
def test_ours_do_not(use: str, hooked: Hooked, tmp_path: Path) -> None:
    save_model(tmp_path / "run", engines=ENGINES, parity=PARITY)
    code = ["-c", f"{USES[use].format(run=tmp_path / 'run')}; import time; time.sleep(1)"]
    status, printed, noted = hooked.run(code, REPOSITORY, **environment(tmp_path))
    assert (status, noted) == (0, []), printed
    assert not (hooked.folder / "home" / "intel").exists()


def whole(folder: Path) -> list[list[str]]:
    """Every command that makes a model or keeps it, on small films."""
    run, data, store = str(folder / "run"), str(folder / "data"), str(folder / "store")
    with_films = ["--run", run, "--data", data]
    registry = ["--registry", (folder / "registry").as_uri()]
    here = ["--run-dir", str(folder / "none")]
    return [
        ["train", *with_films, *SMALL, "--size", "64", "--epochs", "3", "--log", "mlflow"],
        ["quantise", *with_films, "--films", "8"],
        ["calibrate", *with_films, "--device", "cpu", "--engine", "openvino-float32", "--engine", "openvino-int8"],
        ["export", "--run", run, "--cpu-engine", "openvino-float32"],
        ["evaluate", *with_films, "--device", "cpu"],
        ["audit", *with_films, "--device", "cpu"],
        ["card", "--run", run],
        ["pack", "--run", run, "--version", "1.0.0", "--store", store],
        ["models", "list", "--store", store, *here],
        ["models", "export", "1.0.0", "--store", store, *registry, *here],
        ["models", "import", "1.0.0", "--store", str(folder / "other"), *registry, *here],
    ]


def environment(folder: Path) -> dict[str, str]:
    return {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_TRACKING_URI": (folder / "tracking").as_uri()}


@pytest.mark.slow
def test_a_model_is_made_and_kept_without_a_connection(hooked: Hooked, tmp_path: Path) -> None:
    write_manifest(tmp_path / "data", 12)
    for command in whole(tmp_path):
        ours = ["-m", "pneumoscan", *command]
        status, printed, noted = hooked.run(ours, REPOSITORY, alone=HAS_NAMESPACES, **environment(tmp_path))
        assert (status, noted) == (0, []), f"{command}: {printed}"
    assert not (hooked.folder / "home" / "intel").exists()


_SERVED: Final = """
import subprocess, sys, time, urllib.request

def ours(*words):
    subprocess.run([sys.executable, "-m", "pneumoscan", *words], check=True)

folder, port, metrics, page = sys.argv[1:]
start = ["--store", folder + "/store", "--run-dir", folder + "/r", "--port", port, "--metrics-port", metrics]
ours("serve", *start, "--device", "cpu", "--workers", "1", "--detach")
url = "http://127.0.0.1:" + port
try:
    ours("models", "list", "--store", folder + "/store", "--run-dir", folder + "/r")
    ours("pack", "--run", folder + "/run", "--version", "2.0.0", "--store", folder + "/store")
    ours("models", "register", "2.0.0", "--store", folder + "/store", "--run-dir", folder + "/r")
    ours("predict", "--url", url, "--json", folder + "/data")
    web = subprocess.Popen([sys.executable, "-m", "pneumoscan", "web", "--port", page, "--url", url,
                            "--run-dir", folder + "/r"])
    try:
        for _ in range(300):
            try:
                with urllib.request.urlopen("http://127.0.0.1:" + page, timeout=5) as reply:
                    assert reply.status == 200
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise SystemExit("no page")
    finally:
        web.terminate()
        web.wait(30)
finally:
    ours("serve", "--run-dir", folder + "/r", "--stop")
"""


@pytest.mark.e2e
@NEEDS_JAVA
@NEEDS_NAMESPACE
def test_a_model_is_served_asked_and_shown_without_a_connection_of_any_process(tmp_path: Path) -> None:
    """Java and its workers included: where nothing but loopback is, the kernel counts what had no way out."""
    write_manifest(tmp_path / "data", 2)
    save_model(tmp_path / "run", engines=ENGINES, parity=PARITY)
    package(tmp_path / "run", "1.0.0", tmp_path / "store")
    command = [sys.executable, "-c", _SERVED, str(tmp_path), *map(str, free_ports(3))]
    status, printed, counted = in_namespace(command, REPOSITORY, tmp_path)
    assert status == 0, printed
    assert not any(counted.values()), f"{counted}: {printed}"
    assert not (tmp_path / "home" / "intel").exists()


@NEEDS_NAMESPACE
@pytest.mark.parametrize("code", ["socket.create_connection(('192.0.2.1', 80))", "socket.getaddrinfo('a.example', 80)"])
def test_the_kernel_counts_what_has_no_way_out(code: str, tmp_path: Path) -> None:
    status, printed, counted = in_namespace([sys.executable, "-c", f"import socket; {code}"], REPOSITORY, tmp_path)
    assert status == 1, printed
    assert sum(counted.values()) > 0
