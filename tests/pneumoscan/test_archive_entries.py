"""Archives that Python and Java would read differently, or that may not be unpacked at all."""

from __future__ import annotations

import json
import re
import stat
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pneumoscan.errors import ArchiveRefused, StoreError
from pneumoscan.model_store import Archive, Version, check_archive, unpack_archive
from pneumoscan.server.torchserve import find_java
from tests.programs import NEEDS_JAVA

MODEL: dict[str, object] = {
    "modelName": "pneumonia",
    "modelVersion": "1.0.0",
    "handler": "cxr_handler.py",
    "serializedFile": "model.pth",
    "configFile": "model-config.yaml",
}
FILES: dict[str, bytes] = {
    "cxr_handler.py": b"def handle(data, context): ...\n",
    "cxr/__init__.py": b"__version__ = '1'\n" * 40,
    "model-config.yaml": b"# limits\nresponseTimeout: 120     # seconds\nstartupTimeout: 300\n\n",
    "model.pth": b"weights" * 100,
}


def archive(
    folder: Path,
    model: Mapping[str, object] = MODEL,
    files: Mapping[str, bytes] = FILES,
    then: Callable[[zipfile.ZipFile], object] = zipfile.ZipFile.namelist,
) -> Archive:
    path = folder / "pneumonia-1.0.0.mar"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as mar:
        mar.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model}))
        for name, data in files.items():
            mar.writestr(name, data)
        then(mar)
    return Archive(path, Version("1.0.0"))


def refused(of: Archive, why: str) -> None:
    with pytest.raises(ArchiveRefused, match=re.escape(why)) as caught:
        check_archive(of)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 1
    before = set(of.path.parent.iterdir())
    with pytest.raises(ArchiveRefused):
        unpack_archive(of.path, of.path.parent / "unpacked")
    assert set(of.path.parent.iterdir()) == before


def test_a_plain_archive_is_accepted_with_folders_and_times_of_a_zip_program(tmp_path: Path) -> None:
    def times(mar: zipfile.ZipFile) -> None:
        mar.mkdir("golden")
        entry = zipfile.ZipInfo("golden/a.png")
        entry.extra = struct.pack("<HHBI", 0x5455, 5, 1, 0)
        mar.writestr(entry, b"")

    check_archive(archive(tmp_path, then=times))


@pytest.mark.parametrize("name", ["../x.py", "cxr/../../x.py", "/etc/x", "./x", "a//b", "C:x", "a\\b", "a\nb", "é", ""])
def test_a_path_that_leads_elsewhere_or_is_read_differently_is_refused(tmp_path: Path, name: str) -> None:
    refused(archive(tmp_path, then=lambda mar: mar.writestr(zipfile.ZipInfo(name), b"x")), "which is no plain path")


def test_a_name_that_ends_for_python_at_a_zero_byte_is_refused(tmp_path: Path) -> None:
    of = archive(tmp_path, then=lambda mar: mar.writestr("cxr/x.pyZ..", b"x"))
    of.path.write_bytes(of.path.read_bytes().replace(b"x.pyZ..", b"x.py\0.."))
    refused(of, "which is no plain path")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_a_link_or_a_device_is_refused(tmp_path: Path, kind: int) -> None:
    entry = zipfile.ZipInfo("cxr/films")
    entry.external_attr = (kind | 0o777) << 16
    refused(archive(tmp_path, then=lambda mar: mar.writestr(entry, b"/etc")), "is a link or a device")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["cxr/__init__.py", "CXR/__init__.py", "cxr/__init__.py/"])
def test_a_name_that_is_there_twice_is_refused(tmp_path: Path, name: str) -> None:
    refused(archive(tmp_path, then=lambda mar: mar.writestr(name, b"")), "twice")


def test_a_file_that_is_a_folder_too_is_refused(tmp_path: Path) -> None:
    refused(archive(tmp_path, then=lambda mar: mar.writestr("model.pth/x", b"")), "as a file and as a folder")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    def bomb(mar: zipfile.ZipFile) -> None:
        with mar.open("zeros.bin", "w") as entry:
            for _ in range(200):
                entry.write(bytes(1 << 20))

    refused(archive(tmp_path, then=bomb), "would unpack to 210 MB from 0.2 MB")


def test_a_bomb_whose_directory_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    of = archive(tmp_path, files=FILES | {"zeros.bin": bytes(90 << 20)})
    sizes = struct.pack("<I", 90 << 20)
    data = of.path.read_bytes()
    assert data.count(sizes) == 2
    of.path.write_bytes(data.replace(sizes, struct.pack("<I", 1000)))
    refused(of, "unpacks zeros.bin to more than its directory says")


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    refused(archive(tmp_path, files=FILES | {f"a/{at}": b"" for at in range(2000)}), "2005 files and 2000 are the most")


def local_entry(name: bytes, data: bytes, flags: int = 0) -> bytes:
    head = struct.pack(
        "<4sHHHHHIIIHH", b"PK\3\4", 20, flags, 0, 0, 0x21, zlib.crc32(data), len(data), len(data), len(name), 0
    )
    return head + name + data


def smuggled(of: Archive, entry: bytes) -> Archive:
    """An entry before the directory that the directory does not name: Java unpacks it, Python does not see it."""
    data = of.path.read_bytes()
    with zipfile.ZipFile(of.path) as mar:
        at = mar.start_dir
    end = data.rindex(b"PK\5\6")
    moved = struct.pack("<I", at + len(entry))
    of.path.write_bytes(data[:at] + entry + data[at : end + 16] + moved + data[end + 20 :])
    return of


EVIL = local_entry(b"cxr/__init__.py", b"open('/tmp/canary', 'w')\n")


def test_an_entry_that_the_directory_does_not_name_is_refused(tmp_path: Path) -> None:
    of = smuggled(archive(tmp_path), EVIL)
    with zipfile.ZipFile(of.path) as mar:  # as Python reads it, all is well
        assert mar.testzip() is None
        assert mar.read("cxr/__init__.py") == FILES["cxr/__init__.py"]
    refused(of, "has bytes before its directory that it does not name")


@NEEDS_JAVA
def test_java_would_have_unpacked_what_the_directory_does_not_name(tmp_path: Path) -> None:
    """Why the stream is read at all: a shell script of Java's own reader, for as long as the runtime has its jshell."""
    jshell = find_java().with_name("jshell")
    if not jshell.exists():
        pytest.skip("the Java runtime has no jshell")
    of = smuggled(archive(tmp_path), EVIL)
    script = tmp_path / "names.jsh"
    script.write_text(
        f'var zip = new java.util.zip.ZipInputStream(new java.io.FileInputStream("{of.path}"));\n'
        "for (var e = zip.getNextEntry(); e != null; e = zip.getNextEntry()) System.out.println(e.getName());\n/exit\n"
    )
    done = subprocess.run([jshell, "-s", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split().count("cxr/__init__.py") == 2


def test_an_entry_before_the_first_is_refused(tmp_path: Path) -> None:
    of = archive(tmp_path)
    of.path.write_bytes(EVIL + of.path.read_bytes())
    refused(of, "has bytes before MAR-INF/MANIFEST.json that its directory does not name")


def test_an_entry_hidden_between_two_is_refused(tmp_path: Path) -> None:
    of = archive(tmp_path, files=FILES | {"hole": EVIL})
    with zipfile.ZipFile(of.path) as mar:
        del mar.NameToInfo["hole"]
    data = of.path.read_bytes()
    at = data.rindex(b"PK\1\2")  # the last entry of the directory, whose data stays where it is
    end = data.rindex(b"PK\5\6")
    tail = bytearray(data[end:])
    count = struct.unpack_from("<H", tail, 10)[0] - 1
    size = struct.unpack_from("<I", tail, 12)[0] - (end - at)
    struct.pack_into("<HHI", tail, 8, count, count, size)
    of.path.write_bytes(data[:at] + tail)
    refused(of, "has bytes before its directory")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"cxr/__init__.py", b"cxr/__init__.pz"),  # another name for Java
        (struct.pack("<I", zlib.crc32(FILES["cxr/__init__.py"])), b"abcd"),
    ],
)
def test_a_header_that_differs_from_the_directory_is_refused(tmp_path: Path, old: bytes, new: bytes) -> None:
    of = archive(tmp_path)
    of.path.write_bytes(of.path.read_bytes().replace(old, new, 1))
    refused(of, "says one thing of cxr/__init__.py in its directory and another before the file")


def test_sizes_behind_the_data_are_refused(tmp_path: Path) -> None:
    """With those a stream's reader looks for the end of an entry by itself."""

    class Unseekable:
        def __init__(self, path: Path) -> None:
            self.file = path.open("wb")
            self.write, self.flush, self.close = self.file.write, self.file.flush, self.file.close

    path = tmp_path / "pneumonia-1.0.0.mar"
    target = Unseekable(path)
    with zipfile.ZipFile(target, "w") as mar:  # type: ignore[call-overload]
        mar.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": MODEL}))
    target.close()
    refused(Archive(path, Version("1.0.0")), "without its size")


def test_bytes_behind_a_compressed_stream_are_refused(tmp_path: Path) -> None:
    of = archive(tmp_path, files=FILES | {"last.txt": b"x" * 5000})
    data = of.path.read_bytes()
    with zipfile.ZipFile(of.path) as mar:
        entry, start = mar.getinfo("last.txt"), mar.start_dir
    old, new = struct.pack("<I", entry.compress_size), struct.pack("<I", entry.compress_size + len(EVIL))
    head, directory = data[:start], data[start:]
    at, there = head.rindex(b"PK\3\4") + 18, directory.rindex(b"PK\1\2") + 20
    assert (head[at : at + 4], directory[there : there + 4]) == (old, old)
    head = head[:at] + new + head[at + 4 :] + EVIL
    directory = directory[:there] + new + directory[there + 4 :]
    end = directory.rindex(b"PK\5\6") + 16
    of.path.write_bytes(head + directory[:end] + struct.pack("<I", len(head)) + directory[end + 4 :])
    refused(of, "has bytes after last.txt")


@pytest.mark.parametrize(
    "line",
    [
        "minWorkers: 8",
        "maxWorkers: 8",
        "batchSize: 64",
        "jobQueueSize: 1",
        "deviceType: gpu",
        "parallelType: pp",
        "'minWorkers': 8",
        "{minWorkers: 8}",
        "responseTimeout: !!javax.script.ScriptEngineManager []",
        "responseTimeout: 120\u2028minWorkers: 8",
        "responseTimeout: 1\rminWorkers: 8",
        "responseTimeout: &a 1",
        "--- !x",
    ],
)
def test_a_configuration_that_overrules_the_server_is_refused(tmp_path: Path, line: str) -> None:
    config = f"responseTimeout: 120\n{line}\n".encode()
    of = archive(tmp_path, files=FILES | {"model-config.yaml": config})
    refused(of, "where only responseTimeout and startupTimeout may stand")


@pytest.mark.parametrize(
    ("field", "why"),
    [
        ({"handler": "image_classifier"}, "names the handler"),
        ({"handler": "../x.py"}, "names the handler"),
        ({"handler": "other.py"}, "names the handler"),
        ({"serializedFile": "/etc/passwd"}, "names the weights"),
        ({"configFile": "../config.yaml"}, "names the configuration"),
        ({"requirementsFile": "requirements.txt"}, "has a manifest with 'requirementsFile'"),
        ({"envelope": "body"}, "has a manifest with 'envelope'"),
    ],
)
def test_a_manifest_that_names_what_is_not_in_it_or_asks_for_more_is_refused(
    tmp_path: Path, field: dict[str, str], why: str
) -> None:
    refused(archive(tmp_path, model=MODEL | field), why)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("stored.bin")
    of = archive(tmp_path, then=lambda mar: mar.writestr(entry, b"0123456789" * 9))
    of.path.write_bytes(of.path.read_bytes().replace(b"0123456789", b"0123456788", 1))
    with pytest.raises(StoreError, match=r"stored\.bin has another checksum than when it was packed"):
        check_archive(of)
