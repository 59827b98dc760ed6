"""The measurements that need no server, on small networks; no figure is judged here."""

from __future__ import annotations

import ast
import io
import json
import os
import socket
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import peer_handler, screen_films
from benchmarks.client import Plan, drive
from benchmarks.films import DECODED, KINDS, colour_films, films_of, made_up_films, small_films
from benchmarks.host import Host, Tree, Watch, listener_of
from benchmarks.in_process import MODEL, SERVICE, Layout, load_service, team, unpack
from benchmarks.load import client_cost
from benchmarks.peer_handler import CONSTANT, answerer
from benchmarks.peer_servers import torchserve_command
from benchmarks.result import read_json
from benchmarks.servers import BenchmarkError, environment, process, wait_until
from benchmarks.steps import our_tensor, tutorial_tensor
from cxr.films.decode import decode
from cxr.model.spec import DECODES
from pneumoscan.errors import UsageError
from tests.commands import run_command
from tests.cxr.networks import save_model


def test_made_up_films_are_of_the_sizes_and_forms_that_are_sent() -> None:
    found = {name: decode(data) for name, data in made_up_films(1).items()}
    seen = {name.partition(" #")[0]: (film.info.format, film.pixels.shape) for name, film in found.items()}
    assert seen == {
        "JPEG 2000x2500": ("JPEG", (2500, 2000)),
        "PNG 1024x1024": ("PNG", (1024, 1024)),
        "DICOM 2000x2500": ("DICOM", (2500, 2000)),
        "JPEG 224x224": ("JPEG", (224, 224)),
    }
    assert len(made_up_films(1)["DICOM 2000x2500 #0"]) > 10_000_000  # sixteen bits for each pixel


def test_the_same_films_are_drawn_each_time_and_differ_from_each_other() -> None:
    assert small_films() == small_films()
    assert len(set(small_films().values())) == 4


def test_films_come_from_a_folder_where_one_is_given(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no film"):
        films_of(tmp_path)
    (tmp_path / "a.jpg").write_bytes(KINDS["JPEG 224x224"](0))
    assert films_of(tmp_path) == {str(tmp_path / "a.jpg"): KINDS["JPEG 224x224"](0)}


@pytest.mark.parametrize("kind", list(KINDS))
def test_both_ways_to_read_a_film_give_nearly_the_same_tensor(kind: str) -> None:
    """What is timed is the same work."""
    data = KINDS[kind](0)
    theirs = tutorial_tensor(data).numpy()
    for way in DECODES:
        ours = our_tensor(data, way).numpy()
        assert theirs.shape == ours.shape == (3, 224, 224)
        assert np.corrcoef(theirs.ravel(), ours.ravel())[0, 1] > 0.99


def test_reading_is_timed_for_each_kind_of_film(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("bench", ["decode", "--rounds", "2", "--json"]) == 0
    films = read_json(capsys.readouterr().out).rows("films")
    assert set(films) == set(DECODED)
    for one in films.values():
        for way in DECODES:
            first, second = one["tutorial_ms"].rounds, one[f"{way}_ms"].rounds
            assert one[f"{way}_ratio"].rounds == (first[0] / second[0], first[1] / second[1])
        assert one["tutorial_ms"].median > 0


@pytest.mark.slow
def test_every_syntax_is_timed_beside_a_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("bench", ["syntaxes", "--arch", "resnet10", "--rounds", "1", "--json"]) == 0
    found = read_json(capsys.readouterr().out).rows("syntaxes")
    assert len(found) == 11
    timed = {name: one for name, one in found.items() if one}
    assert len(timed) >= 9  # those that need no further encoder
    for one in timed.values():
        assert set(one) == {"bytes", *(f"{way}_{what}" for way in DECODES for what in ("ms", "share"))}
    assert timed["JPEG 2000, lossless"]["reduced_ms"].median < timed["JPEG 2000, lossless"]["exact_ms"].median


@pytest.mark.slow
def test_the_films_that_a_screen_refuses_are_counted_by_kind_and_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("toy", [str(tmp_path / "data"), "--patients", "40", "--size", "96"]) == 0
    capsys.readouterr()
    assert run_command("bench", ["screen", "--data", str(tmp_path / "data"), "--json"]) == 0
    found = read_json(capsys.readouterr().out).rows("screen")
    kinds = [kind for kind in found if "[" in kind]
    assert len(kinds) == len(screen_films.KINDS)
    assert found["as they are [answered]"]["films"].median == found["mirrored [answered]"]["films"].median
    assert found["as they are [answered]"]["refused"].median <= 0.2
    assert found["turned by 90 degrees [refused]"]["refused"].median >= 0.8


def test_the_map_is_timed_beside_another_library(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("bench", ["cam", "--arch", "resnet10", "--device", "cpu", "--rounds", "3", "--json"]) == 0
    found = read_json(capsys.readouterr().out)
    times = found.rows("times")
    assert list(times) == ["classification", "with our map", "with gradcam", "our map alone"]
    assert (found.settings["shapes"]["with our map"], found.settings["shapes"]["with gradcam"]) == ([7, 7], [224, 224])
    assert times["our map alone"]["ms"].median < times["classification"]["ms"].median


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder)
    return folder


def test_processes_without_a_server_answer_films_and_are_gone_at_the_end(model: Path) -> None:
    films = list(small_films(2).values())
    with team(model, films, Layout(processes=2, threads=1), "cpu") as rate_of:
        inside = len(Tree(os.getpid()).processes())
        assert rate_of(MODEL, 0.3) > 0
        assert rate_of(SERVICE, 0.3) > 0
    assert inside >= 3
    assert not [one for one in Tree(os.getpid()).processes()[1:] if "spawn_main" in " ".join(one.cmdline())]


def test_a_model_that_does_not_load_in_a_process_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="has ended"), team(tmp_path, [b"x"], Layout(1, 1), "cpu"):
        pass


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.mar").write_text("nothing")
    with pytest.raises(UsageError, match=r"no\.mar is not a model archive"):
        unpack(tmp_path / "no.mar", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "yes.mar", "w") as archive:
        archive.writestr("model.json", "{}")
    assert (unpack(tmp_path / "yes.mar", tmp_path / "out") / "model.json").read_text() == "{}"


def test_films_of_a_folder_are_saved_as_colour_jpeg_for_servers_that_read_no_other(tmp_path: Path) -> None:
    (tmp_path / "grey.png").write_bytes(KINDS["PNG 1024x1024"](0))
    (saved,) = colour_films(tmp_path).values()
    picture = Image.open(io.BytesIO(saved))
    assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (1024, 1024))


def test_the_services_that_are_compared_answer_the_same_film(model: Path) -> None:
    film = next(iter(colour_films(None).values()))
    ours = json.loads(answerer("ours", model)(film))
    assert load_service(model, "cpu").identity.arch == "resnet10"
    said = [json.loads(answerer(service, model)(film)) for service in ("eager", "map")]
    for one in said:  # grey scale by another formula and colour after it: nearly the same film
        assert one["probabilities"][1] == pytest.approx(ours["probabilities"]["PNEUMONIA"], abs=0.05)
    assert np.shape(said[1]["cam"]) == (64, 64)  # of this model's input
    assert answerer("null", model)(film) == CONSTANT


def test_the_handler_that_is_packed_by_itself_imports_nothing_beside_cxr_and_has_one_class() -> None:
    tree = ast.parse(Path(str(peer_handler.__file__)).read_text(encoding="utf-8"))
    assert [node.name for node in tree.body if isinstance(node, ast.ClassDef)] == ["PeerHandler"]
    modules = [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in modules if name.startswith(("benchmarks", "pneumoscan", "cxr_training"))]


def test_the_clients_own_cost_is_measured_against_a_server_that_does_nothing() -> None:
    found = client_cost(b"x" * 5000, seconds=0.2)
    assert found["body_kb"].median == 5.0
    assert 0 < found["cpu_ms"].median <= found["p50_ms"].median * 3


def test_the_machine_is_named() -> None:
    host = Host.here()
    assert host.cores == len(os.sched_getaffinity(0))
    assert host.versions["torchserve"] == "0.12.0"
    assert f"{host.cores} cores" in str(host)


def test_what_a_process_and_its_children_use_is_counted(tmp_path: Path) -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    with process([sys.executable, "-c", program], tmp_path / "log", environment()) as started:
        tree = Tree(started.pid)
        deadline = time.monotonic() + 20
        while len(tree.processes()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        with Watch(tree) as watch:
            while tree.cpu_s() < watch._cpu_before + 0.2 and time.monotonic() < deadline:
                time.sleep(0.05)
        family = tree.processes()
    assert watch.cpu_s >= 0.2
    assert watch.peak_mb >= watch.before_mb > 0
    assert not any(one.is_running() for one in family)


def test_a_server_that_ends_while_starting_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        process([sys.executable, "-c", "print('no such model'); raise SystemExit(3)"], log, environment()) as started,
        pytest.raises(BenchmarkError, match=r"it ended with 3:\nno such model"),
    ):
        wait_until(lambda: False, started, log, "it")


def test_only_what_stands_for_our_server_has_its_logs_and_its_java(tmp_path: Path) -> None:
    ours, stock = (
        [
            word
            for word in torchserve_command(service, tmp_path, tmp_path, sys.executable)
            if word.startswith(("-Dlog4j", "-XX"))
        ]
        for service in ("null", "stock")
    )
    assert any(word.startswith("-Dlog4j.configurationFile=") for word in ours)
    assert "-XX:CompileThresholdScaling=0.1" in ours
    assert stock == []


def test_the_process_behind_a_port_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert listener_of(port) == os.getpid()
    assert listener_of(port) is None
    assert drive(("127.0.0.1", port), [b"x"], Plan((0.0,)))[0].status == 0
