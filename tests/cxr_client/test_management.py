from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxr_client import AnswerLost, ManagementClient, ManagementFailed, ServerUnreachable, VersionState, WorkerState
from tests.film_server import Answer, Asked, Management, described, serving_socket


@pytest.fixture
def socket_path() -> Iterator[Path]:
    # Not tmp_path: a unix socket's path has 107 bytes. Capitals and a space, since URLs tend to lose them.
    with tempfile.TemporaryDirectory(prefix="Cxr Test-", dir="/tmp") as folder:
        yield Path(folder) / "Management.sock"


@pytest.fixture
def server(socket_path: Path) -> Iterator[Management]:
    server = Management()
    with serving_socket(server, socket_path):
        yield server


@pytest.fixture
def client(server: Management, socket_path: Path) -> Iterator[ManagementClient]:  # noqa: ARG001 (it has to listen)
    with ManagementClient(socket_path) as client:
        yield client


def test_models_are_listed(client: ManagementClient) -> None:
    assert client.list_models() == [{"modelName": "pneumonia", "modelUrl": "pneumonia-1.0.0.mar"}]


def test_a_version_is_described(server: Management, client: ManagementClient) -> None:
    server.versions = [described("1.0.0", "READY")]
    assert client.describe("pneumonia", "1.0.0")[0]["modelVersion"] == "1.0.0"
    assert server.asked[0].path == "/models/pneumonia/1.0.0"


def test_readiness_names_every_version_and_worker(server: Management, client: ManagementClient) -> None:
    server.versions = [described("1.1.0", "READY", "UNLOADING"), described("1.0.0", "READY")]
    state = client.ready("pneumonia")
    assert state.versions == (
        VersionState("1.1.0", True, 1, (WorkerState("9000", "READY", 100), WorkerState("9001", "UNLOADING", 101))),
        VersionState("1.0.0", False, 1, (WorkerState("9000", "READY", 100),)),
    )
    assert state.is_ready
    assert state.summary == "pneumonia 1.1.0 (default): 1/2 READY; pneumonia 1.0.0: 1/1 READY"


def test_a_ready_version_does_not_help_when_the_default_one_is_not(
    server: Management, client: ManagementClient
) -> None:
    server.versions = [described("1.1.0", "UNLOADING"), described("1.0.0", "READY")]
    assert not client.ready("pneumonia").is_ready


@pytest.mark.parametrize(
    ("statuses", "min_workers", "is_ready"),
    [
        ([], 0, False),
        ([], 1, False),
        (["UNLOADING"], 1, False),
        (["READY"], 1, True),
        (["READY"], 0, True),
        (["READY", "UNLOADING"], 2, False),
        (["READY", "READY"], 2, True),
    ],
)
def test_a_version_is_ready_with_as_many_ready_workers_as_it_asks_for(
    server: Management, client: ManagementClient, statuses: list[str], min_workers: int, is_ready: bool
) -> None:
    server.versions = [described("1.0.0", *statuses, min_workers=min_workers)]
    assert client.ready("pneumonia").is_ready is is_ready


def test_a_model_that_is_not_registered_is_not_ready(client: ManagementClient) -> None:
    state = client.ready("pneumonia")
    assert not state.is_ready
    assert state.summary == "pneumonia: no version is registered"


def test_an_unknown_model_is_refused_with_the_servers_words(client: ManagementClient) -> None:
    with pytest.raises(ManagementFailed, match="Model not found: lung") as caught:
        client.describe("lung")
    assert caught.value.status == 404


def test_a_reply_that_is_no_json_is_a_failure(server: Management, client: ManagementClient) -> None:
    server.answer = lambda _: Answer(body=b"hello")
    with pytest.raises(ManagementFailed, match="JSON"):
        client.list_models()


def test_a_server_error_is_a_failure_and_not_the_absence_of_a_model(
    server: Management, client: ManagementClient
) -> None:
    server.answer = lambda _: Answer(500, b'{"message": "disk full"}')
    with pytest.raises(ManagementFailed, match="disk full"):
        client.ready("pneumonia")


def test_a_socket_where_nobody_listens_is_named(socket_path: Path) -> None:
    with ManagementClient(socket_path) as client, pytest.raises(ServerUnreachable, match=str(socket_path)):
        client.ready("pneumonia")


def test_registering_asks_for_workers_and_batches_and_does_not_wait(
    server: Management, client: ManagementClient
) -> None:
    server.answer = lambda _: Answer(202, b'{"status": "Processing worker updates..."}')
    client.register("pneumonia", "pneumonia-1.1.0.mar", workers=2, batch_size=8, batch_delay_ms=20)
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/models")
    assert asked.query == {
        "url": ["pneumonia-1.1.0.mar"],
        "model_name": ["pneumonia"],
        "initial_workers": ["2"],
        "batch_size": ["8"],
        "max_batch_delay": ["20"],
        "synchronous": ["false"],
    }


def test_the_default_is_switched_and_a_version_unregistered_by_name(
    server: Management, client: ManagementClient
) -> None:
    server.answer = lambda _: Answer(200, b"{}")
    client.set_default("pneumonia", "1.1.0-rc.1")
    client.unregister("pneumonia", "1.0.0")
    assert [(asked.method, asked.path) for asked in server.asked] == [
        ("PUT", "/models/pneumonia/1.1.0-rc.1/set-default"),
        ("DELETE", "/models/pneumonia/1.0.0"),
    ]


def test_what_torchserve_refuses_is_told_in_its_words(server: Management, client: ManagementClient) -> None:
    said = b'{"code": 403, "message": "Cannot remove default version for model pneumonia"}'
    server.answer = lambda _: Answer(403, said)
    with pytest.raises(ManagementFailed, match=r"DELETE .*: 403 Cannot remove default version") as caught:
        client.unregister("pneumonia", "1.0.0")
    assert caught.value.status == 403


def test_requests_that_wait_are_counted(server: Management, client: ManagementClient) -> None:
    server.versions = [described("1.0.0", "READY")]
    server.versions[0]["jobQueueStatus"] = {"remainingCapacity": 57, "pendingRequests": 7}
    assert client.ready("pneumonia").versions[0].waiting == 7


def test_a_server_that_takes_too_long_is_not_one_that_is_gone(socket_path: Path, server: Management) -> None:
    release = threading.Event()

    def wait(_: Asked) -> Answer:
        release.wait(10)
        return Answer(200, b"{}")

    server.answer = wait
    with ManagementClient(socket_path, timeout_s=0.1) as client, pytest.raises(AnswerLost, match=r"within 0\.1 s"):
        client.set_default("pneumonia", "1.0.0")
    release.set()
