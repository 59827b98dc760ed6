from __future__ import annotations

import hashlib
import re
import socket
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from pneumoscan.commands import edge
from pneumoscan.edge import keys as key_file
from pneumoscan.edge.checker import key_of
from pneumoscan.edge.keys import KeyRing, add, match, read, revoke
from pneumoscan.edge.nginx import (
    LOGS_KEPT,
    EdgeSettings,
    host_and_port,
    network,
    render_adapter,
    render_edge,
    rotate,
    without_quotes,
)
from pneumoscan.edge.problems import PROBLEMS
from pneumoscan.edge.tls import link_certificate
from pneumoscan.errors import EdgeError, KeyFileError
from pneumoscan.options import as_argv, parse
from pneumoscan.server.options import ServeOptions
from pneumoscan.server.run_folder import RunDir
from tests.commands import run_command
from tests.ports import free_port
from tests.programs import NEEDS_NGINX

ROOT = Path(__file__).parents[3]
NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture(name="free_port")
def _free_port() -> int:
    return free_port()


# --- keys ---------------------------------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_kept_as_its_digest_for_its_owner_alone(keys: Path) -> None:
    text = add(keys, "reader")
    assert text not in keys.read_text()
    assert hashlib.sha256(text.encode()).hexdigest() in keys.read_text()
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert {path.name for path in keys.parent.iterdir()} == {"keys", "keys.lock"}


def test_two_keys_are_valid_at_once_until_one_is_revoked_or_ends(keys: Path) -> None:
    old, new = add(keys, "old", NOW + timedelta(days=1)), add(keys, "new")
    both = read(keys)
    assert [match(both, text, NOW) is not None for text in (old, new, old + "x", "")] == [True, True, False, False]
    assert match(both, old, NOW + timedelta(days=1)) is None
    revoke(keys, "old")
    assert [key.name for key in read(keys)] == ["new"]
    assert match(read(keys), old, NOW) is None


def test_every_key_is_compared_whichever_is_given(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [add(keys, f"k{i}") for i in range(3)]
    compared: list[int] = []
    real = key_file.hmac.compare_digest

    def counted(a: str, b: str) -> bool:
        compared[-1] += 1
        return bool(real(a, b))

    monkeypatch.setattr(key_file.hmac, "compare_digest", counted)
    for text in (*texts, "none of them"):
        compared.append(0)
        match(read(keys), text, NOW)
    assert compared == [3, 3, 3, 3]


@pytest.mark.parametrize(
    "line", ["reader", "reader abc never", f"reader {'0' * 64} tomorrow", f"reader {'0' * 64} 2026-01-01T00:00:00", "é"]
)
def test_a_file_with_one_bad_line_opens_nothing(keys: Path, line: str) -> None:
    text = add(keys, "reader")
    said: list[str] = []
    ring = KeyRing(keys, said.append)
    assert ring.match(text) is not None
    with keys.open("a") as file:
        file.write(line + "\n")
    assert ring.match(text) is None
    assert len(said) == 1
    with pytest.raises(KeyFileError):
        read(keys)


def test_a_change_of_a_damaged_file_is_refused_and_leaves_it(keys: Path) -> None:
    add(keys, "reader")
    keys.write_text("nonsense\n")
    with pytest.raises(KeyFileError, match="line 1 is no key"):
        add(keys, "other")
    assert keys.read_text() == "nonsense\n"


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "x" * 33, "é"])
def test_what_is_no_name_is_told(keys: Path, name: str) -> None:
    with pytest.raises(KeyFileError, match="is no name of a key"):
        add(keys, name)
    assert not keys.exists()


def test_the_command_line_makes_lists_and_revokes(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--keys", str(keys)]
    assert run_command("keys", [*where, "add", "a", "--days", "1"]) == 0
    text = capsys.readouterr().out.strip()
    assert re.fullmatch(r"pns_[A-Za-z0-9_-]{43}", text)
    assert run_command("keys", [*where, "add", "a"]) == 2
    assert "there is a key 'a'" in capsys.readouterr().err
    assert run_command("keys", [*where, "list"]) == 0
    listed = capsys.readouterr().out
    assert listed.startswith("a ")
    assert text not in listed
    assert run_command("keys", [*where, "revoke", "b"]) == 2
    assert "known are a" in capsys.readouterr().err
    assert run_command("keys", [*where, "revoke", "a"]) == 0


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "key"),
    [
        ("Bearer k", "", "k"),
        ("bearer  k ", "", "k"),
        ("", "k", "k"),
        ("Basic k", "", ""),
        ("Basic eA==", "k", "k"),
        ("k", "", ""),
        ("Bearer", "k", ""),
        ("Bearer a", "b", "a"),
    ],
)
def test_a_key_is_found_in_either_header(authorization: str, x_api_key: str, key: str) -> None:
    assert key_of(authorization, x_api_key) == key


# --- what nginx is told -------------------------------------------------------------------------------------------


@NEEDS_NGINX
@pytest.mark.parametrize("upstreams", [1, 3])
def test_nginx_takes_the_configuration(tmp_path: Path, free_port: int, upstreams: int) -> None:
    given = ["--listen", f"127.0.0.1:{free_port}", "--run-dir", str(tmp_path / "e"), "--check"]
    for number in range(upstreams):
        given += ["--upstream", f"127.0.0.1:{9000 + number}"]
    given += ["--metrics", "127.0.0.1:8082", "--metrics", "[::1]:8082", "--metrics-allow", "10.0.0.0/8"]
    assert run_command("edge", given) == 0
    assert not (tmp_path / "e" / "keys").exists()


def test_nothing_of_a_template_is_left_and_one_server_is_asked_twice_but_two_once() -> None:
    one, two = (EdgeSettings("0.0.0.0:8443", tuple(f"127.0.0.1:{n}" for n in range(1, 1 + count))) for count in (1, 2))
    for settings in (one, two):
        assert not re.findall(r"@@[A-Z_]+@@", render_edge(settings) + render_adapter(settings))
    assert render_edge(one).count("server unix:films-0.sock") == 2
    assert render_edge(two).count("server unix:films-0.sock") == 1
    assert render_edge(two).count("server unix:films-1.sock") == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:0",
        "host:99999",
        "https://host:1",
        "host:1/path",
        "ho;st:1",
        "h{:1",
        "unix:/x",
        "$host:80",
        "a b:1",
    ],
)
def test_an_address_that_nginx_would_read_as_something_else_is_refused(text: str) -> None:
    with pytest.raises(EdgeError, match="is no address"):
        host_and_port(text, "--upstream")


def test_localhost_is_where_torchserve_listens() -> None:
    assert host_and_port("http://localhost:8080", "--upstream") == "127.0.0.1:8080"


@NEEDS_NGINX
def test_a_server_that_is_started_as_well_is_the_one_that_is_asked_wherever_it_is_started(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--listen", f"127.0.0.1:{free_port}", "--run-dir", "e", "--detach"]
    given += ["--serve", "--", "--store", "store", "--run-dir", "run", "--port", "9999"]
    options = parse(edge.Options, given, "edge")
    run_dir = RunDir(options.run_dir.absolute())
    run_dir.create()
    plan = edge.make_plan(options, run_dir)
    assert plan.settings.upstreams == ("127.0.0.1:9999",)
    assert 1 <= int(plan.settings.workers) <= 8
    child = parse(edge.Options, as_argv(edge.in_background(options, plan)), "edge")
    server = parse(ServeOptions, child.server, "serve")
    assert not child.detach
    assert (child.run_dir, server.store, server.run_dir) == (tmp_path / "e", tmp_path / "store", tmp_path / "run")
    assert (server.port, server.quiet) == (9999, True)


def test_what_is_no_network_is_told() -> None:
    assert network("10.0.0.0/8") == "10.0.0.0/8"
    with pytest.raises(EdgeError, match="is no network"):
        network("10.0.0.0/8; allow all")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--listen", "8443"], "is no address"),
        (["--listen", "127.0.0.1:0"], "not between 1 and 65535"),
        (["--metrics", "127.0.0.1:1"], "belong together"),
        (["--tls-cert", "x.pem"], "belong together"),
        (["--upstream", "a;b"], "is no address"),
        (["--", "--port", "1"], "give --serve as well"),
        (["--serve", "--", "--stop"], "go before the --"),
        (["--cors-origin", "*"], "is no origin"),
        (["--cors-origin", "https://a.b; allow"], "is no origin"),
        (["--cors-origin", "https://Viewer.example"], "is no origin"),
        (["--cors-origin", 'https://a"b'], "is no origin"),
        (["--cors-origin", "https://viewer.example/"], "give https://viewer.example"),
    ],
)
def test_what_cannot_be_started_is_told_in_one_line(
    tmp_path: Path, free_port: int, capsys: pytest.CaptureFixture[str], given: list[str], why: str
) -> None:
    listen = [] if "--listen" in given else ["--listen", f"127.0.0.1:{free_port}"]
    assert run_command("edge", [*listen, "--run-dir", str(tmp_path / "e"), *given]) == 2
    said = capsys.readouterr().err
    assert why in said
    assert said.count("\n") == 1


def test_a_port_in_use_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        assert run_command("edge", ["--listen", listen, "--run-dir", str(tmp_path / "e")]) == 2
    assert f"--listen {listen} cannot be used" in capsys.readouterr().err


def test_stopping_and_asking_what_does_not_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--run-dir", str(tmp_path / "none")]
    assert run_command("edge", [*where, "--stop"]) == 0
    assert run_command("edge", [*where, "--ready"]) == 1
    assert run_command("edge", [*where, "--reload"]) == 1
    assert "no edge runs from" in capsys.readouterr().err


# --- certificate --------------------------------------------------------------------------------------------------


def test_a_first_start_signs_its_own_certificate_and_keeps_it(tmp_path: Path) -> None:
    assert link_certificate(tmp_path)
    first = (tmp_path / "tls.crt").read_bytes()
    made = x509.load_pem_x509_certificate(first)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    assert stat.S_IMODE((tmp_path / "tls.key").stat().st_mode) == 0o600
    link_certificate(tmp_path)
    assert (tmp_path / "tls.crt").read_bytes() == first
    (tmp_path / "self-signed.key").write_text("damaged")
    link_certificate(tmp_path)
    assert (tmp_path / "tls.crt").read_bytes() != first


def test_a_given_certificate_is_used_where_it_lies_and_its_key_is_for_nobody_else(tmp_path: Path) -> None:
    theirs, folder = tmp_path / "theirs", tmp_path / "edge"
    theirs.mkdir()
    folder.mkdir()
    link_certificate(theirs)
    certificate, key = theirs / "self-signed.crt", theirs / "self-signed.key"
    assert not link_certificate(folder, (certificate, key))
    assert (folder / "tls.crt").readlink() == certificate
    key.chmod(0o644)
    with pytest.raises(EdgeError, match="is open to every user"):
        link_certificate(folder, (certificate, key))
    with pytest.raises(EdgeError, match="cannot be read"):
        link_certificate(folder, (tmp_path / "none", key))


# --- logs ---------------------------------------------------------------------------------------------------------


def test_a_line_of_nginx_loses_what_it_quotes_and_keeps_what_happened() -> None:
    line = (
        '<187>Nov 24 12:00:01 edge: 2026/11/24 12:00:01 [error] 7#7: *1 open() "/Jane" failed (111: Refused) '
        'while connecting to upstream, client: 10.1.2.3, server: _, request: "POST /Jane?Doe HTTP/1.1", upstream: '
        '"http://127.0.0.1:8080/Jane", host: "Doe"'
    )
    assert without_quotes(line) == (
        'edge: 2026/11/24 12:00:01 [error] 7#7: *1 open() "..." failed (111: Refused) while connecting to '
        "upstream, server 127.0.0.1:8080"
    )
    for hiding in ('an unfinished "Jane', 'a header "X: "Jane"" here', 'a header "X: "a" Jane'):
        assert "Jane" not in without_quotes(f"<187>Nov  4 12:00:01 edge: [error] {hiding}")


def test_logs_have_a_bounded_size(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    for number in range(LOGS_KEPT + 3):
        log.write_text(str(number) * 10)
        assert rotate(log, limit=10)
    assert not rotate(log, limit=10)
    assert len(list(tmp_path.iterdir())) == LOGS_KEPT
    assert (tmp_path / "access.log.1").read_text() == "5" * 10


# --- documents ----------------------------------------------------------------------------------------------------


def test_every_answer_of_the_edge_is_documented_with_its_status() -> None:
    rows = (ROOT / "docs" / "edge.md").read_text(encoding="utf-8").splitlines()
    for problem in PROBLEMS:
        row = next(row for row in rows if row.startswith(f"| `{problem.code}` |"))
        assert f"| {problem.status} |" in row


@pytest.fixture(autouse=True)
def _no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)  # no word about root in what is one line
