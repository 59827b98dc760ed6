from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian, JPEGLosslessSV1, RLELossless

from cxr_client import InferenceClient
from pneumoscan.dicom import spool as spool_module
from pneumoscan.dicom.node import Destination, Node, Settings
from pneumoscan.dicom.results import ResultMaker
from pneumoscan.dicom.spool import Spool
from tests import films
from tests.commands import run_command
from tests.e2e.servers import free_ports
from tests.film_server import FilmServer, problem, serving
from tests.places import REPOSITORY
from tests.pneumoscan.dicom.archive import SUCCESS, Archive, certificate_in, listening, send, until
from tests.pneumoscan.dicom.model_server import chest_film, model_server
from tests.programs import NEEDS_DICOM_TOOLS

PAIR = Counter({"OT": 1, "SR": 1})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FilmServer]:
    with model_server(tmp_path_factory.mktemp("model")) as server:
        yield server


@pytest.fixture
def archive() -> Iterator[Archive]:
    with listening(Archive()) as archive:
        yield archive


class Running:
    """A node in this process, its spool and its log."""

    def __init__(self, node: Node, spool: Spool, log: list[str]) -> None:
        self.node, self.spool, self.log = node, spool, log

    @property
    def port(self) -> int:
        return self.node.port

    @property
    def states(self) -> dict[str, int]:
        return {state: count for state, count in self.spool.status().films.items() if count}


@contextmanager
def running(folder: Path, url: str, *destinations: str, **settings: object) -> Iterator[Running]:
    spool, log = Spool(folder), list[str]()
    plain = Settings("PNEUMOSCAN", "127.0.0.1", 0, tuple(map(Destination.parse, destinations)), jobs=2)
    chosen = replace(plain, **{"first_pause_s": 0.05, **settings})  # type: ignore[arg-type]
    with InferenceClient(url) as client, spool.held(AssertionError("it is held")):
        node = Node(chosen, spool, ResultMaker(client, spool.results), log.append)
        node.start()
        try:
            yield Running(node, spool, log)
        finally:
            node.stop()
    spool.close()


def several() -> list[bytes]:
    """Films of several patients in several transfer syntaxes."""
    return [
        chest_film(1),
        films.compressed(chest_film(2), RLELossless),
        films.compressed(chest_film(3), JPEGLosslessSV1),
        chest_film(4, syntax=ImplicitVRLittleEndian),
    ]


# --- the loop -----------------------------------------------------------------------------------------------------


def test_each_film_ends_in_one_picture_and_one_report_in_its_study_however_often_it_is_sent(
    tmp_path: Path, server: FilmServer, archive: Archive
) -> None:
    with running(tmp_path, server.url, archive.address) as node:
        assert send(node.port, several()) == [SUCCESS] * 4
        until(lambda: node.states == {"sent": 4})
        assert send(node.port, several()) == [SUCCESS] * 4
        assert node.states == {"sent": 4}
        assert len(archive.received) == 8
    assert list(archive.kinds_by_study.values()) == [PAIR] * 4
    patients = {one.StudyInstanceUID: one.PatientID for one in archive.received}
    assert sorted(patients.values()) == ["PID-1", "PID-2", "PID-3", "PID-4"]


def test_a_lateral_view_a_ct_and_a_report_are_taken_and_have_a_reason_and_no_result(
    tmp_path: Path, server: FilmServer, archive: Archive
) -> None:
    given = [
        chest_film(1, ViewPosition="LL"),
        chest_film(2, Modality="CT", SOPClassUID=CTImageStorage),
        chest_film(3, Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.22"),
        chest_film(4),
    ]
    with running(tmp_path, server.url, archive.address) as node:
        assert send(node.port, given) == [SUCCESS] * 4
        until(lambda: node.states == {"refused": 3, "sent": 1})
        log = "\n".join(node.log)
    assert re.findall(r"film \d: refused: (\w+)", log).count("NOT_A_RADIOGRAPH") == 2
    assert "refused: NOT_FRONTAL" in log
    assert len(archive.received) == 2


def test_own_results_that_come_back_are_not_answered(tmp_path: Path, server: FilmServer, archive: Archive) -> None:
    with running(tmp_path, server.url, archive.address) as node:
        send(node.port, [chest_film()])
        until(lambda: node.states == {"sent": 1})
        back = [path.read_bytes() for path in node.spool.results.glob("*.dcm")]
        assert send(node.port, back) == [SUCCESS] * 2
        until(lambda: node.states == {"sent": 1, "refused": 2})
    assert len(archive.received) == 2


def test_several_destinations_get_the_same(tmp_path: Path, server: FilmServer, archive: Archive) -> None:
    with listening(Archive("OTHER")) as other, running(tmp_path, server.url, archive.address, other.address) as node:
        send(node.port, [chest_film()])
        until(lambda: node.states == {"sent": 1})
        assert {one.SOPInstanceUID for one in archive.received} == {one.SOPInstanceUID for one in other.received}


@NEEDS_DICOM_TOOLS
def test_dcmtk_sends_to_the_node(tmp_path: Path, server: FilmServer, archive: Archive) -> None:
    for number, film in enumerate(several()):
        (tmp_path / f"{number}.dcm").write_bytes(film)
    with running(tmp_path / "spool", server.url, archive.address) as node:
        address = ["-aec", "PNEUMOSCAN", "127.0.0.1", str(node.port)]
        assert subprocess.run(["echoscu", *address], check=False).returncode == 0
        names = [str(path) for path in sorted(tmp_path.glob("*.dcm"))]
        done = subprocess.run(["storescu", "-R", "-xs", *address, names[0], names[2]], check=False)
        assert done.returncode == 0
        assert subprocess.run(["storescu", "-R", *address, names[3]], check=False).returncode == 0
        until(lambda: node.states == {"sent": 3})
    assert list(archive.kinds_by_study.values()) == [PAIR] * 3


# --- who may call -------------------------------------------------------------------------------------------------


def test_only_who_is_listed_may_call_and_only_by_the_nodes_name(
    tmp_path: Path, server: FilmServer, archive: Archive
) -> None:
    with running(tmp_path, server.url, archive.address, calling=("CT1",)) as node:
        assert send(node.port, [chest_film()]) == [-1]
        assert send(node.port, [chest_film()], calling="CT1", called="SOMEBODY") == [-1]
        assert node.states == {}
        assert send(node.port, [chest_film()], calling="CT1") == [SUCCESS]


def test_with_tls_only_peers_with_a_certificate_of_the_authority_take_part(tmp_path: Path, server: FilmServer) -> None:
    tls, foreign = certificate_in(tmp_path / "ours"), certificate_in(tmp_path / "theirs")
    stranger = replace(foreign, authority=tls.authority)  # believes us, and is not believed
    with (
        listening(Archive(), tls.listening()) as archive,
        listening(Archive("OTHER"), replace(stranger, authority=foreign.authority).listening()) as other,
        running(tmp_path / "spool", server.url, archive.address, other.address, tls=tls) as node,
    ):
        assert send(node.port, [chest_film()]) == [-1]
        assert send(node.port, [chest_film()], tls=stranger.calling()) == [-1]
        assert node.states == {}
        assert send(node.port, [chest_film()], tls=tls.calling()) == [SUCCESS]
        until(lambda: list(archive.kinds_by_study.values()) == [PAIR])
        until(lambda: f"not sent to {other.address}" in "\n".join(node.log))
        assert other.received == []


def test_a_peer_that_stalls_before_tls_is_agreed_does_not_stop_the_others(tmp_path: Path, server: FilmServer) -> None:
    tls = certificate_in(tmp_path / "ours")
    with (
        listening(Archive(), tls.listening()) as archive,
        running(tmp_path / "spool", server.url, archive.address, tls=tls) as node,
        socket.create_connection(("127.0.0.1", node.port)),
    ):
        assert send(node.port, [chest_film()], tls=tls.calling()) == [SUCCESS]


@pytest.mark.parametrize(
    ("given", "told"),
    [(["--tls-cert", "a"], "go together"), (["--tls-cert", "a", "--tls-key", "b", "--tls-ca", "c"], "cannot be used")],
)
def test_files_of_tls_that_cannot_be_used_are_a_usage_error(
    tmp_path: Path, given: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("dicom", ["node", "--spool", str(tmp_path), "--to", "PACS@127.0.0.1:104", *given]) == 2
    assert told in capsys.readouterr().err


# --- what fails ---------------------------------------------------------------------------------------------------


def test_films_wait_for_a_server_that_is_away(tmp_path: Path, server: FilmServer, archive: Archive) -> None:
    (port,) = free_ports(1)
    with running(tmp_path, f"http://127.0.0.1:{port}", archive.address) as node:
        assert send(node.port, [chest_film(1), chest_film(2)]) == [SUCCESS] * 2
        until(lambda: sum("UNREACHABLE" in line for line in node.log) > 4)
        assert node.states == {"waiting": 2}
        with serving(FilmServer(server.answer), port):
            until(lambda: node.states == {"sent": 2})
    assert list(archive.kinds_by_study.values()) == [PAIR] * 2


def test_a_film_that_the_server_fails_on_is_given_up_and_tried_again_when_asked_for(
    tmp_path: Path, server: FilmServer, archive: Archive
) -> None:
    fails = [True]
    broken = FilmServer(lambda asked: problem(500, "INTERNAL", "It failed.") if fails else server.answer(asked))
    with serving(broken), running(tmp_path, broken.url, archive.address) as node:
        send(node.port, [chest_film()])
        until(lambda: node.states == {"failed": 1})
        (failure,) = node.spool.status().failures
        assert (failure.what, failure.reason) == ("film", "INTERNAL: It failed.")
        fails.clear()
        assert node.spool.retry() == 1
        until(lambda: node.states == {"sent": 1})


def test_results_wait_for_a_destination_that_is_away_or_full(
    tmp_path: Path, server: FilmServer, archive: Archive
) -> None:
    (port,) = free_ports(1)
    late = Archive("LATE", port)
    answers = iter([0xA700, 0xA700, 0x0110])
    archive.answer = lambda _: next(answers, SUCCESS)
    with running(tmp_path, server.url, archive.address, late.address) as node:
        send(node.port, [chest_film()])
        until(lambda: len(archive.received) == 2)
        assert node.states == {"scored": 1}
        with listening(late):
            until(lambda: node.states == {"sent": 1})
    assert list(late.kinds_by_study.values()) == [PAIR]
    assert "A700H" in "\n".join(node.log)


def test_an_object_that_a_destination_refuses_is_given_up_and_the_other_one_sent(
    tmp_path: Path, server: FilmServer, archive: Archive
) -> None:
    def no_reports(dataset: Dataset) -> int:
        return 0xC001 if dataset.Modality == "SR" else SUCCESS

    archive.answer = no_reports
    with running(tmp_path, server.url, archive.address) as node:
        send(node.port, [chest_film()])
        until(lambda: len(node.spool.status().failures) == 1)
        (failure,) = node.spool.status().failures
        assert failure.what == f"SR to {archive.address}"
        assert failure.reason == "it answered C001H"
        assert [one.Modality for one in archive.received] == ["OT"]
        archive.answer = lambda _: SUCCESS
        assert node.spool.retry() == 1
        until(lambda: node.states == {"sent": 1})
    assert list(archive.kinds_by_study.values()) == [PAIR]


def test_a_film_that_cannot_be_kept_is_not_answered_success(
    tmp_path: Path, server: FilmServer, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with running(tmp_path, server.url, archive.address) as node:
        with monkeypatch.context() as patched:
            patched.setattr(spool_module, "write_bytes", full)
            assert send(node.port, [chest_film()]) == [0xA700]
        assert node.states == {}
        assert send(node.port, [chest_film()]) == [SUCCESS]
        until(lambda: node.states == {"sent": 1})


@pytest.mark.slow
def test_no_film_is_lost_or_answered_twice_when_the_node_is_killed_again_and_again(
    tmp_path: Path, server: FilmServer, archive: Archive
) -> None:
    given = {number: chest_film(1 + number % 5, name=str(number)) for number in range(24)}
    (port,) = free_ports(1)
    words = ["dicom", "node", "--url", server.url, "--listen", f"127.0.0.1:{port}", "--to", archive.address]
    command = [sys.executable, "-m", "pneumoscan", *words, "--spool", str(tmp_path / "spool"), "--jobs", "2"]
    chance, log = random.Random(0), tmp_path / "log"

    def start() -> subprocess.Popen[bytes]:
        with log.open("w") as fresh:
            process = subprocess.Popen(command, stderr=fresh, cwd=REPOSITORY)
        until(lambda: "listens" in log.read_text())
        return process

    answered: set[int] = set()
    process = start()
    try:
        for number, film in given.items():
            if send(port, [film]) == [SUCCESS]:
                answered.add(number)
            if number % 6 == 5:
                threading.Event().wait(chance.random() * 0.5)
                process.kill()
                process.wait()
                process = start()
        for number in set(given) - answered:
            assert send(port, [given[number]]) == [SUCCESS]
        until(lambda: list(archive.kinds_by_study.values()) == [PAIR] * len(given), 120)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
    spool = Spool(tmp_path / "spool")
    until(lambda: spool.status().films["sent"] == len(given))
    spool.close()


# --- the spool ----------------------------------------------------------------------------------------------------


def test_the_most_urgent_film_is_next_and_then_the_oldest(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for number, urgency in enumerate([1, 2, 0, 1, 0]):
        assert spool.receive(f"1.{number}", b"film", "CT1", urgency)
    claimed = [spool.claim_film() for _ in range(6)]
    assert [film and film.path.stem for film in claimed] == ["1.2", "1.4", "1.0", "1.3", "1.1", None]


def test_a_film_that_many_send_at_once_is_taken_once_and_whole(tmp_path: Path) -> None:
    spool, data = Spool(tmp_path), bytes(range(256)) * 4000
    with ThreadPoolExecutor(8) as senders:
        for number in range(5):
            taken = list(senders.map(lambda _, uid=f"1.{number}": spool.receive(uid, data, "CT1", 1), range(8)))
            assert sorted(taken) == [False] * 7 + [True]
            assert (spool.films / f"1.{number}.dcm").read_bytes() == data
    assert spool.status().films["waiting"] == 5


def test_a_film_that_failed_and_is_sent_again_is_tried_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.receive("1.2", b"film", "CT1", 1)
    film = spool.claim_film()
    assert film is not None
    spool.postpone_film(film, "INTERNAL", "It failed.", None)
    assert spool.claim_film() is None
    assert not spool.receive("1.2", b"film", "CT1", 1)
    assert spool.claim_film() == film


def test_only_its_user_reads_the_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.receive("1.2", b"film", "CT1", 1)
    for path in (tmp_path / "spool").rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700


def test_a_film_whose_row_was_not_written_before_a_kill_is_found(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    (spool.films / "1.2.3.dcm").write_bytes(b"film")
    (spool.films / ".1.2.4.dcm.99.partial").write_bytes(b"half a film")
    with spool.held(AssertionError()):
        assert spool.status().films["waiting"] == 1
        film = spool.claim_film()
        assert film is not None
        assert film.path.read_bytes() == b"film"
    assert [path.name for path in spool.films.iterdir()] == ["1.2.3.dcm"]


def test_what_came_to_its_end_is_removed_after_a_while(tmp_path: Path, server: FilmServer, archive: Archive) -> None:
    with running(tmp_path, server.url, archive.address) as node:
        send(node.port, [chest_film()])
        until(lambda: node.states == {"sent": 1})
        assert node.spool.clean(3600.0) == 0
        assert node.spool.clean(0.0) == 1
        assert [path for folder in (node.spool.films, node.spool.results) for path in folder.iterdir()] == []
        assert node.states == {}


def test_status_and_log_hold_nothing_of_the_patient(
    tmp_path: Path, server: FilmServer, archive: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    tags = dict.fromkeys(("PatientName", "PatientID", "AccessionNumber", "StudyID", "StudyDescription"), "CANARY")
    with running(tmp_path, server.url, archive.address) as node:
        send(node.port, [chest_film(1, **tags), chest_film(2, ViewPosition="LL", **tags)])
        until(lambda: node.states == {"sent": 1, "refused": 1})
        assert run_command("dicom", ["node", "status", "--spool", str(tmp_path)]) == 0
        assert run_command("dicom", ["node", "status", "--spool", str(tmp_path), "--json"]) == 0
    text, _, document = capsys.readouterr().out.partition("{")
    assert "1 sent, 1 refused, 0 failed" in text
    assert json.loads("{" + document)["films"] == {"waiting": 0, "scored": 0, "sent": 1, "refused": 1, "failed": 0}
    told = "\n".join([text, document, *node.log])
    assert "CANARY" not in told
    assert not re.search(r"\d\.\d+\.\d+\.\d+\.\d{3}", told.replace("127.0.0.1", ""))  # no UID


def test_a_second_node_does_not_get_the_spool(
    tmp_path: Path, server: FilmServer, archive: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(tmp_path, server.url, archive.address):
        mask = os.umask(0o077)
        words = ["node", "--spool", str(tmp_path), "--to", archive.address, "--listen", "127.0.0.1:0"]
        assert run_command("dicom", words) == 2
        os.umask(mask)
    assert "a node has the spool" in capsys.readouterr().err


@pytest.mark.parametrize("to", ["PACS", "PACS@host", "@host:104", "A_TITLE_TOO_LONG_@host:104", "PACS@host:0"])
def test_a_destination_has_title_host_and_port(tmp_path: Path, to: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("dicom", ["node", "--spool", str(tmp_path), "--to", to]) == 2
    assert "is no destination like PACS@pacs.example:104" in capsys.readouterr().err


# --- other peers --------------------------------------------------------------------------------------------------


def test_stalled_and_malicious_peers_do_not_stop_the_others(
    tmp_path: Path, server: FilmServer, archive: Archive
) -> None:
    giant = b"\x01\x00\xff\xff\xff\xf0" + b"\x00\x01" * 1000  # an association request of 4 GB
    with running(tmp_path, server.url, archive.address) as node, ExitStack() as held:
        for said in (b"", b"", giant, giant, b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5000, b"\x04\x00\x00\x00\x00\x02ab"):
            peer = held.enter_context(socket.create_connection(("127.0.0.1", node.port)))
            with suppress(OSError):  # some are shown the door at once
                peer.sendall(said)
        assert send(node.port, several()) == [SUCCESS] * 4
        until(lambda: node.states == {"sent": 4})


def test_a_sender_that_breaks_off_in_the_middle_leaves_nothing(
    tmp_path: Path, server: FilmServer, archive: Archive
) -> None:
    with running(tmp_path, server.url, archive.address) as node, relay(node.port, stops_after=60_000) as port:
        assert send(port, [chest_film()]) == [-1]
        assert node.states == {}
        assert list(node.spool.films.iterdir()) == []
        assert send(node.port, [chest_film()]) == [SUCCESS]


@pytest.mark.slow
def test_several_senders_at_once_lose_nothing(tmp_path: Path, server: FilmServer, archive: Archive) -> None:
    batches = [[chest_film(film, name=str(sender)) for film in range(3)] for sender in range(10)]
    with running(tmp_path, server.url, archive.address) as node, ThreadPoolExecutor(10) as senders:
        assert list(senders.map(lambda batch: send(node.port, batch), batches)) == [[SUCCESS] * 3] * 10
        until(lambda: node.states == {"sent": 30})
    assert list(archive.kinds_by_study.values()) == [PAIR] * 30


@contextmanager
def relay(port: int, stops_after: int) -> Iterator[int]:
    """A port that passes on so many bytes to another one, and then breaks off."""

    def pass_on(source: socket.socket, target: socket.socket, most: int) -> None:
        with suppress(OSError):
            while most > 0 and (data := source.recv(min(most, 4096))):
                target.sendall(data)
                most -= len(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(("127.0.0.1", port)) as onward,
        ThreadPoolExecutor(2) as pool,
    ):

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                back = threading.Thread(target=pass_on, args=(onward, client, 1 << 30))
                back.start()
                pass_on(client, onward, stops_after)
                back.join()

        pool.submit(serve)
        yield listener.getsockname()[1]
