"""What deploys the server: that a manifest is none, or names what is not there, is found without a container engine."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pneumoscan.commands import edge
from pneumoscan.edge import keys as key_file
from pneumoscan.edge.run import read_state
from pneumoscan.options import parse
from pneumoscan.server.options import ServeOptions
from pneumoscan.server.readiness import START_S
from pneumoscan.server.run_folder import GRACE_S, RunDir
from tests.e2e.edges import Edge
from tests.e2e.servers import clean_environment
from tests.e2e.test_server_life import HANDLER, pack
from tests.ports import free_ports
from tests.programs import NEEDS_JAVA, NEEDS_NGINX

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
SCHEMA = "1.31"


def instruction(name: str) -> list[str]:
    """The JSON of an instruction of the Containerfile; of the last one, as an engine does."""
    return list(json.loads(re.findall(rf"^{name} (\[.*\])$", CONTAINERFILE, re.MULTILINE)[-1]))


def manifests(path: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / path).read_text(encoding="utf-8")))


def pods() -> Iterator[dict[str, Any]]:
    yield manifests("kubernetes/pneumoscan.yaml")[0]["spec"]["template"]["spec"]
    yield manifests("kserve/pneumoscan.yaml")[0]["spec"]


def test_every_kubernetes_manifest_is_one() -> None:
    kinds = []
    for manifest in manifests("kubernetes/pneumoscan.yaml"):
        kubernetes_validate.validate(manifest, SCHEMA, strict=True)
        kinds.append(manifest["kind"])
    assert kinds == ["Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "HorizontalPodAutoscaler"]
    broken = manifests("kubernetes/pneumoscan.yaml")[0]
    broken["spec"]["template"]["spec"]["containers"][0]["readinessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, SCHEMA, strict=True)


def test_the_pods_of_the_kserve_runtime_are_pods() -> None:
    runtime, service = manifests("kserve/pneumoscan.yaml")
    names = ("containers", "volumes")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x"},
        "spec": {name: runtime["spec"][name] for name in names},
    }
    kubernetes_validate.validate(pod, SCHEMA, strict=True)
    assert service["spec"]["predictor"]["model"]["runtime"] == runtime["metadata"]["name"]
    model_format = service["spec"]["predictor"]["model"]["modelFormat"]
    assert any(one.items() >= model_format.items() for one in runtime["spec"]["supportedModelFormats"])
    assert runtime["spec"]["containers"][0]["name"] == "kserve-container"
    # What a ServingRuntime cannot say of its pods: they could not read their keys, and would be killed as they drain.
    spec = {"containers": pod["spec"]["containers"]} | {
        name: value for name, value in service["spec"]["predictor"].items() if name not in ("model", "minReplicas")
    }
    kubernetes_validate.validate(pod | {"spec": pod["spec"] | spec}, SCHEMA, strict=True)
    deployed = manifests("kubernetes/pneumoscan.yaml")[0]["spec"]["template"]["spec"]
    assert spec["securityContext"]["fsGroup"] == deployed["securityContext"]["fsGroup"]
    assert spec["terminationGracePeriodSeconds"] == deployed["terminationGracePeriodSeconds"]


def test_every_argument_in_a_manifest_is_one_of_the_command_line() -> None:
    commands = [instruction("CMD"), *(pod["containers"][0]["args"] for pod in pods())]
    for arguments in commands:
        args = parse(edge.Options, arguments, "pneumoscan edge")
        assert args.serve
        assert args.keys == Path("/run/secrets/pneumoscan/keys")
        server = parse(ServeOptions, args.server, "pneumoscan serve")
        assert server.run_dir == Path("/run/pneumoscan/server")
        assert server.run_dir != args.run_dir


def test_probes_ask_the_server_that_is_started() -> None:
    for pod in pods():
        container = pod["containers"][0]
        for probe in ("startupProbe", "readinessProbe"):
            command = container[probe]["exec"]["command"]
            assert command[:4] == ["python", "-m", "pneumoscan", "serve"]
            asked = parse(ServeOptions, command[4:], "pneumoscan serve")
            assert asked.ready
            assert f"--run-dir={asked.run_dir}" in container["args"]
    health = json.loads(CONTAINERFILE.rsplit("CMD ", 1)[1])
    assert parse(ServeOptions, health[4:], "pneumoscan serve").ready


def test_no_container_is_root_or_may_write_anywhere_but_to_memory() -> None:
    assert re.search(r"^FROM \S+@sha256:[0-9a-f]{64}$", CONTAINERFILE, re.MULTILINE)
    assert re.search(r"^USER 10001:10001$", CONTAINERFILE, re.MULTILINE)
    for pod in pods():
        container = pod["containers"][0]
        security = pod.get("securityContext", {}) | container["securityContext"]
        assert security["runAsNonRoot"]
        assert security["runAsUser"] == 10001
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for mount in container["volumeMounts"]:
            assert mount.get("readOnly") or volumes[mount["name"]]["emptyDir"]["medium"] == "Memory"
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for service in services.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
    run, *_ = (options for place, options in (one.split(":") for one in services["server"]["tmpfs"]) if "run/" in place)
    assert {"exec", "uid=10001"} <= set(run.split(","))  # Netty's native library is loaded from there


def test_autoscaling_looks_at_the_metric_that_the_adapter_makes_of_declared_ones() -> None:
    scaler = manifests("kubernetes/pneumoscan.yaml")[-1]
    rule = manifests("kubernetes/prometheus-adapter.yaml")[0]["rules"]["custom"][0]
    assert scaler["spec"]["metrics"][0]["pods"]["metric"]["name"] == rule["name"]["as"]
    declared = (ROOT / "metrics.yaml").read_text(encoding="utf-8")
    for name in re.findall(r"\b(ts_\w+)", rule["seriesQuery"] + rule["metricsQuery"]):
        assert f"- name: {name}\n" in declared


def test_what_the_image_and_compose_copy_is_there() -> None:
    copied = [source for line in re.findall(r"^COPY (.*)$", CONTAINERFILE, re.M) for source in shlex.split(line)[:-1]]
    for source in copied:
        assert list(ROOT.glob(source)), source
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in sent
    assert {line[1:] for line in sent if line.startswith("!")} == set(copied)
    for service in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith(".") and source != "./secrets":  # made before the first start
                assert (DEPLOY / source).exists(), source


@pytest.mark.e2e
@NEEDS_JAVA
@NEEDS_NGINX
def test_the_command_of_the_container_serves_a_store_and_ends_upon_its_signal() -> None:
    with tempfile.TemporaryDirectory(prefix="cxr-", dir="/tmp") as name:
        folder = Path(name)
        ports = free_ports(3)
        places = {
            "/run/pneumoscan": str(folder / "run"),
            "/run/secrets/pneumoscan": str(folder / "secrets"),
            "/models": str(folder / "models"),
            "0.0.0.0:8443": f"127.0.0.1:{ports[0]}",
            "127.0.0.1:8080": f"127.0.0.1:{ports[1]}",
        }
        exact = {"python": sys.executable, "8080": str(ports[1]), "8082": str(ports[2])}

        def here(word: str) -> str:
            for there, place in places.items():
                word = word.replace(there, place)
            return exact.get(word, word)

        (folder / "models").mkdir()
        pack(folder / "models", "1.0.0", HANDLER)
        edge = Edge(folder / "run", (), ports[0])
        edge.key = key_file.add(folder / "secrets" / "keys", "test")
        command = [here(word) for word in (*instruction("ENTRYPOINT"), *instruction("CMD"))]
        health = [here(word) for word in json.loads(CONTAINERFILE.rsplit("CMD ", 1)[1])]
        with subprocess.Popen(
            command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as container:
            assert container.stdout is not None
            assert container.stdout.readline() == f"ready: {edge.url}\n"
            assert read_state(edge.run_dir) is not None
            assert subprocess.run(health, cwd=ROOT, check=False, capture_output=True).returncode == 0
            assert edge.ask("POST", "/predictions/pneumonia", data=b"film").json()["label"] == "NORMAL"
            container.terminate()
            assert container.wait(timeout=90) == 0
        assert edge.processes() == []
        assert RunDir(folder / "run" / "server").read_state() is None
        assert subprocess.run(health, cwd=ROOT, check=False, capture_output=True).returncode == 1


UNIT = (DEPLOY / "pneumoscan.service").read_text(encoding="utf-8")


def test_the_unit_of_systemd_starts_the_server_with_arguments_that_it_takes_and_waits_as_long_as_it_may_take() -> None:
    settings = dict(line.split("=", 1) for line in UNIT.splitlines() if "=" in line and not line.startswith("#"))
    program, command, *arguments = shlex.split(settings["ExecStart"])
    assert (Path(program).name, command) == ("pneumoscan", "serve")
    options = parse(ServeOptions, arguments, "serve")
    state = Path("/var/lib") / settings["StateDirectory"]
    assert (options.run_dir.parent, options.store.parent, options.detach) == (state, state, False)
    assert float(settings["TimeoutStartSec"]) > (options.timeout or START_S)
    assert float(settings["TimeoutStopSec"]) > GRACE_S
    assert (settings["Type"], settings["Restart"]) == ("notify", "always")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    # It looks whether the program and the user are there.
    text = UNIT.replace("/opt/pneumoscan/bin/pneumoscan", sys.executable).replace("User=pneumoscan\n", "User=root\n")
    unit = tmp_path / "pneumoscan.service"
    unit.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
