"""Archives and a real server: the card a good one tells, and a damaged one that never serves."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxr_client import InferenceClient, ManagementClient
from pneumoscan.archive import package
from pneumoscan.model_store import Archive, Version
from pneumoscan.signatures import make_key, read_private_key, retire_key, sign, signature_file, trust_key
from tests.commands import run_command
from tests.cxr.networks import save_model
from tests.e2e.servers import Server, fresh_server
from tests.e2e.test_server_life import HANDLER, pack
from tests.films import encoded, film
from tests.pneumoscan.test_archive_entries import EVIL, smuggled
from tests.programs import NEEDS_JAVA

pytestmark = [pytest.mark.e2e, NEEDS_JAVA]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    save_model(tmp_path / "run")
    with fresh_server() as server:
        package(tmp_path / "run", "1.0.0", server.store)
        yield server


def test_the_management_api_tells_the_model_card(server: Server) -> None:
    started = server.call("--detach", "--device", "cpu")
    assert started.returncode == 0, started.stderr
    with ManagementClient(server.run_dir.socket) as management:
        card = management.card("pneumonia")
    assert card["model"]["version"] == "1.0.0"
    assert card["notice"] == "Research use only. Not a diagnosis."
    assert card["evaluation"] == {}
    assert card["shortcuts"] == []


def test_a_byte_flipped_in_the_archive_file_is_told_before_anything_starts(server: Server) -> None:
    path = server.store / "pneumonia-1.0.0.mar"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4  # in the weights, which fill most of it
    path.write_bytes(data)
    refused = server.call("--detach")
    assert refused.returncode == 2
    assert "model.pth has another checksum than when it was packed" in refused.stderr
    assert server.processes() == []


@pytest.mark.parametrize("file", ["model.pth", "model.json"])
def test_a_file_changed_inside_the_archive_never_becomes_ready(server: Server, file: str) -> None:
    """The archive itself is whole, as after a change with a zip program."""
    path = server.store / "pneumonia-1.0.0.mar"
    with zipfile.ZipFile(path) as packed:
        content = {name: packed.read(name) for name in packed.namelist()}
    changed = bytearray(content[file])
    changed[len(changed) // 3] ^= 1
    content[file] = bytes(changed)
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in content.items():
            packed.writestr(name, data)
    failed = server.call("--detach", "--device", "cpu", "--timeout", "60")
    assert failed.returncode == 1
    assert f"{file} is damaged: its sha256 is not the one in SHA256SUMS" in failed.stderr
    assert server.processes() == []


def files_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if not path.is_socket()}


def test_no_line_of_an_archive_runs_that_nobody_trusted_vouches_for(tmp_path: Path) -> None:
    """At register, start and restart; the canary is a file that the handler writes when it is imported."""
    canary, signers = tmp_path / "canary", tmp_path / "signers"
    for name in ("mine", "old", "stranger"):
        make_key(tmp_path / name)
    mine, old, stranger = (read_private_key(tmp_path / name) for name in ("mine", "old", "stranger"))
    trust_key(signers, "mine", tmp_path / "mine.pub")
    trust_key(signers, "old", tmp_path / "old.pub")
    retire_key(signers, "old")
    with fresh_server() as server:
        pack(server.store, "1.0.0", HANDLER)
        sign(server.store / "pneumonia-1.0.0.mar", mine)
        start = ("--detach", "--device", "cpu", "--workers", "1", "--trust", str(signers))
        started = server.call(*start)
        assert started.returncode == 0, started.stderr
        assert "1.0.0 signed by mine" in started.stderr

        pack(server.store, "1.1.0", f"open({str(canary)!r}, 'w')\n{HANDLER}")
        path = server.store / "pneumonia-1.1.0.mar"
        new, whole = Archive(path, Version("1.1.0")), path.read_bytes()
        register = ["register", "1.1.0", "--run-dir", str(server.run_dir.path), "--workers", "1"]
        before = files_in(server.run_dir.path / "tmp")

        def refuse() -> None:
            assert run_command("models", register) == 1
            assert not canary.exists()
            assert files_in(server.run_dir.path / "tmp") == before

        refuse()  # unsigned
        for key in (stranger, old):
            sign(path, key)
            refuse()
        sign(path, mine)
        path.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
        refuse()
        path.write_bytes(whole)
        sign(smuggled(new, EVIL).path, mine)  # by who is trusted, and yet Java would unpack what Python does not see
        refuse()
        path.write_bytes(whole)
        signature_file(path).unlink()
        with InferenceClient(server.url) as client:
            assert client.predict(encoded(film()))["model"]["version"] == "1.0.0"

        assert server.call("--stop").returncode == 0
        refused = server.call(*start)  # all archives of the store, as nothing is declared
        assert (refused.returncode, "is not signed" in refused.stderr, canary.exists()) == (1, True, False)
        path.rename(tmp_path / path.name)
        assert server.call(*start).returncode == 0
        path.write_bytes(whole)
        sign(path, mine)
        assert run_command("models", register) == 0
        assert canary.exists()  # the good one is served

        canary.unlink()
        assert server.call("--stop").returncode == 0
        sign(path, stranger)
        refused = server.call(*start)
        assert (refused.returncode, "is signed by nobody" in refused.stderr, canary.exists()) == (1, True, False)
        assert server.processes() == []
