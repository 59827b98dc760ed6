"""Archives and a real server: the card a good one tells, and a damaged one that never serves."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxr_client import ManagementClient
from pneumoscan.archive import package
from tests.cxr.networks import save_model
from tests.e2e.servers import Server, fresh_server
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
