"""The loop with a real archive: dcmtk sends, Orthanc keeps."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import requests
from pydicom.uid import ImplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, RLELossless

from tests import films
from tests.e2e.servers import free_ports
from tests.pneumoscan.dicom.archive import until
from tests.pneumoscan.dicom.model_server import chest_film, model_server
from tests.pneumoscan.dicom.test_node import running
from tests.programs import NEEDS_DICOM_TOOLS, NEEDS_ORTHANC, find

pytestmark = pytest.mark.slow
TITLE: Final = "ORTHANC"


class Orthanc:
    """A running Orthanc on loopback, empty at first."""

    def __init__(self, dicom_port: int, url: str) -> None:
        self.dicom_port, self.url = dicom_port, url

    @property
    def address(self) -> str:
        return f"{TITLE}@127.0.0.1:{self.dicom_port}"

    def get(self, path: str) -> Any:
        return requests.get(f"{self.url}{path}", timeout=10).json()

    def modalities_by_study(self) -> dict[str, Counter[str]]:
        found: dict[str, Counter[str]] = {}
        for instance in self.get("/instances"):
            tags = self.get(f"/instances/{instance}/simplified-tags")
            found.setdefault(tags["StudyInstanceUID"], Counter())[tags["Modality"]] += 1
        return found


@contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    """Run Orthanc until the block ends."""
    dicom_port, http_port = free_ports(2)
    folder.mkdir()
    settings = {
        **{"Name": "test", "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "Plugins": []},
        **{"DicomAet": TITLE, "DicomPort": dicom_port, "HttpPort": http_port, "DicomAlwaysAllowStore": True},
        **{"RemoteAccessAllowed": False, "AuthenticationEnabled": False},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    program = str(find("Orthanc"))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
    running = Orthanc(dicom_port, f"http://127.0.0.1:{http_port}")

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return bool(running.get("/system"))
        except requests.RequestException:
            return False

    try:
        until(answers)
        yield running
    finally:
        process.terminate()
        process.wait(30)


@NEEDS_ORTHANC
@NEEDS_DICOM_TOOLS
def test_of_twenty_films_orthanc_has_one_picture_and_one_report_in_the_study_of_each(tmp_path: Path) -> None:
    syntaxes = [RLELossless, JPEGLosslessSV1, JPEG2000Lossless]
    folder = tmp_path / "films"
    folder.mkdir()
    for number in range(20):
        plain = chest_film(number, name="orthanc", **({"syntax": ImplicitVRLittleEndian} if number % 5 == 4 else {}))
        data = films.compressed(plain, syntaxes[number % 5]) if number % 5 < 3 else plain
        (folder / f"{number}.dcm").write_bytes(data)

    def store(port: int, called: str) -> None:
        # It offers one compression in an association.
        for rest, option in enumerate(("-xr", "-xs", "-xv", "-xe", "-xi")):
            names = [str(folder / f"{number}.dcm") for number in range(rest, 20, 5)]
            command = ["storescu", option, "-aec", called, "127.0.0.1", str(port), *names]
            subprocess.run(command, check=True, capture_output=True)

    with (
        model_server(tmp_path / "model") as server,
        orthanc(tmp_path / "orthanc") as archive,
        running(tmp_path / "spool", server.url, archive.address) as node,
    ):
        store(archive.dicom_port, TITLE)
        for _ in range(2):
            store(node.port, "PNEUMOSCAN")
            until(lambda: node.states == {"sent": 20})
            assert list(archive.modalities_by_study().values()) == [Counter({"CR": 1, "OT": 1, "SR": 1})] * 20
