"""The entries of a model archive, looked through before Java unpacks them.

Python reads a zip archive from the directory at its end; TorchServe 0.12.0 reads it as a stream from its first byte
(``java.util.zip.ZipInputStream``) and unpacks what it meets, whether the directory names it or not. So both readings
are made and have to be the same, byte by byte.

References
----------
PKWARE, APPNOTE.TXT 6.3.10: 4.3.7 local file header, 4.4.4 general purpose bit flag, 4.5.3 Zip64 extended information.
"""

from __future__ import annotations

import json
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

from pneumoscan.errors import ArchiveRefused, StoreError

MANIFEST: Final = "MAR-INF/MANIFEST.json"

_MOST_ENTRIES: Final = 2_000
# Weights do not compress and code is small: an archive of ours is 1.1 times its file when it is unpacked.
_FREE_BYTES: Final = 64 << 20
_MOST_RATIO: Final = 4
_MOST_BYTES: Final = 4 << 30
_MOST_TEXT_BYTES: Final = 1 << 20
_CHUNK: Final = 1 << 20

_LOCAL: Final = struct.Struct("<4sHHHHHIIIHH")
_ZIP64: Final = 0xFFFFFFFF
_KNOWN_FLAGS: Final = 0x0806  # level of compression, UTF-8; neither encryption nor sizes behind the data
_UNICODE_PATH: Final = 0x7075  # another name for the entry, which some readers prefer
# Java and Python agree about these whatever their character set is, and so does any file system.
_NAME: Final = re.compile(r"[A-Za-z0-9_+@=,.-]+(?:/[A-Za-z0-9_+@=,.-]+)*/?")

_MODEL_FIELDS: Final = {"modelName", "modelVersion", "handler", "serializedFile", "configFile"}
_HANDLER: Final = re.compile(r"\w+\.py")
# A grammar so small that SnakeYAML reads in it what we do. Workers, batches and queue belong to the machine.
_CONFIG_LINE: Final = re.compile(r"(?:(?:responseTimeout|startupTimeout): [0-9]{1,6})?[ ]*(?:#[ -~]*)?")


def look_through(mar: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    """Check each entry of an open archive; gives its manifest.

    Raises
    ------
    ArchiveRefused
        It holds something that may not be unpacked, or that would be served otherwise than asked; one line.
    StoreError
        The bytes of an entry are not those that were packed.
    """
    entries = sorted(mar.infolist(), key=lambda entry: entry.header_offset)
    _check_names(path, entries)
    _check_sizes(path, entries)
    with path.open("rb") as stream:
        for entry in entries:
            if stream.tell() != entry.header_offset:
                raise _refused(path, f"has bytes before {entry.filename} that its directory does not name")
            _check_local_header(path, stream, entry)
            _check_data(path, stream, entry)
        if stream.tell() != mar.start_dir:
            raise _refused(path, "has bytes before its directory that it does not name")
    files = {entry.filename for entry in entries if not entry.is_dir()}
    return _check_manifest(path, mar, files)


def _refused(path: Path, why: str) -> ArchiveRefused:
    return ArchiveRefused(f"{path} is refused, it {why}: pack it again with pneumoscan pack, or move it away")


def _check_names(path: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    if len(entries) > _MOST_ENTRIES:
        raise _refused(path, f"holds {len(entries)} files and {_MOST_ENTRIES} are the most")
    seen: set[str] = set()
    files: set[str] = set()
    for entry in entries:
        name = entry.orig_filename
        parts = name.rstrip("/").split("/")
        if not _NAME.fullmatch(name) or {".", ".."} & set(parts):
            raise _refused(path, f"holds {name[:100]!r}, which is no plain path within it")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(path, f"holds {name[:100]!r}, which is a link or a device and not a file")
        # As on a file system that does not tell upper from lower case.
        if (folded := name.rstrip("/").lower()) in seen:
            raise _refused(path, f"holds {name[:100]!r} twice")
        seen.add(folded)
        if not name.endswith("/"):
            files.add(folded)
    for name in seen:
        parts = name.split("/")
        if above := files & {"/".join(parts[:end]) for end in range(1, len(parts))}:
            raise _refused(path, f"holds {min(above)!r} as a file and as a folder")


def _check_sizes(path: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    unpacked, packed = sum(entry.file_size for entry in entries), path.stat().st_size
    most = min(_MOST_BYTES, _FREE_BYTES + _MOST_RATIO * packed)
    if unpacked > most:
        raise _refused(
            path, f"would unpack to {unpacked / 1e6:.0f} MB from {packed / 1e6:.1f} MB (at most {most / 1e6:.0f})"
        )


def _check_local_header(path: Path, stream: IO[bytes], entry: zipfile.ZipInfo) -> None:
    """Read the header before the data, as the stream's reader does, and compare it with the directory's."""
    head = stream.read(_LOCAL.size)
    if len(head) < _LOCAL.size:
        raise _refused(path, f"ends within {entry.filename}")
    magic, _, flags, method, _, _, crc, packed, unpacked, name_length, extra_length = _LOCAL.unpack(head)
    name, extra = stream.read(name_length), stream.read(extra_length)
    fields, others = _extra_fields(extra), _extra_fields(entry.extra)
    if fields is None or others is None or _UNICODE_PATH in {*fields, *others}:
        raise _refused(path, f"has an extra field with {entry.filename} that not every reader reads alike")
    if _ZIP64 in (packed, unpacked):
        field = fields.get(1, b"")
        if len(field) < 16 or packed != unpacked:
            raise _refused(path, f"has no sizes before {entry.filename}")
        unpacked, packed = struct.unpack("<QQ", field[:16])
    if flags & ~_KNOWN_FLAGS or method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refused(path, f"holds {entry.filename} encrypted, without its size, or packed in an unusual way")
    here = (magic, name, method, crc, packed, unpacked)
    directory = (
        entry.orig_filename.encode("ascii"),
        entry.compress_type,
        entry.CRC,
        entry.compress_size,
        entry.file_size,
    )
    if here != (b"PK\x03\x04", *directory):
        raise _refused(path, f"says one thing of {entry.filename} in its directory and another before the file")


def _extra_fields(extra: bytes) -> dict[int, bytes] | None:
    """The extra fields by number; None where they cannot be read or one is there twice."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(extra):
        if at + 4 > len(extra):
            return None
        number, length = struct.unpack_from("<HH", extra, at)
        if number in found or at + 4 + length > len(extra):
            return None
        found[number] = extra[at + 4 : at + 4 + length]
        at += 4 + length
    return found


def _check_data(path: Path, stream: IO[bytes], entry: zipfile.ZipInfo) -> None:
    """Read an entry's data in bounded memory: it ends where its size says, and it has its checksum."""
    crc, size = 0, 0
    try:
        for data in _unpacked(path, stream, entry):
            crc, size = zlib.crc32(data, crc), size + len(data)
            if size > entry.file_size:
                raise _refused(path, f"unpacks {entry.filename} to more than its directory says")
        damaged = (crc, size) != (entry.CRC, entry.file_size)
    except zlib.error:
        damaged = True
    if damaged:
        raise StoreError(
            f"{path} is damaged ({entry.filename} has another checksum than when it was packed): copy or pack it "
            "again, or move it away"
        )


def _unpacked(path: Path, stream: IO[bytes], entry: zipfile.ZipInfo) -> Iterator[bytes]:
    left = entry.compress_size
    if entry.compress_type == zipfile.ZIP_STORED:
        while left and (chunk := stream.read(min(left, _CHUNK))):
            left -= len(chunk)
            yield chunk
        return
    inflate, waiting = zlib.decompressobj(-zlib.MAX_WBITS), b""
    while not inflate.eof:
        if not waiting and left:
            waiting = stream.read(min(left, _CHUNK))
            left = left - len(waiting) if waiting else 0
        data = inflate.decompress(waiting, _CHUNK)
        waiting = inflate.unconsumed_tail
        if not data and not waiting and not left and not inflate.eof:
            return  # it is cut off, which its checksum tells
        yield data
    if left or inflate.unused_data:
        raise _refused(path, f"has bytes after {entry.filename} that its directory does not name")


def _check_manifest(path: Path, mar: zipfile.ZipFile, files: set[str]) -> dict[str, Any]:
    """Check what TorchServe takes from the manifest: handler, weights and limits of time, and nothing beyond them."""
    manifest = json.loads(_text(path, mar, MANIFEST), object_pairs_hook=lambda pairs: _once(path, pairs))
    model = manifest["model"]
    if unknown := set(model) - _MODEL_FIELDS:
        raise _refused(path, f"has a manifest with {min(unknown)[:50]!r}, which no archive of ours has")
    if manifest.get("runtime", "python") != "python":
        raise _refused(path, f"asks for the runtime {str(manifest['runtime'])[:50]!r} and not for python")
    handler = model.get("handler")
    if handler is not None and (not _HANDLER.fullmatch(handler) or handler not in files):
        raise _refused(path, f"names the handler {handler[:50]!r}, which is not in it")
    weights = model.get("serializedFile")
    if weights is not None and weights not in files:
        raise _refused(path, f"names the weights {weights[:50]!r}, which are not in it")
    config = model.get("configFile")
    if config is not None:
        if config not in files:
            raise _refused(path, f"names the configuration {config[:50]!r}, which is not in it")
        for line in _text(path, mar, config).splitlines():
            if not _CONFIG_LINE.fullmatch(line):
                raise _refused(
                    path,
                    f"has {line[:60]!r} in {config}, where only responseTimeout and startupTimeout may stand (workers, "
                    "batches and the queue are the server's)",
                )
    return dict(manifest)


def _text(path: Path, mar: zipfile.ZipFile, name: str) -> str:
    if mar.getinfo(name).file_size > _MOST_TEXT_BYTES:
        raise _refused(path, f"has a {name} of more than {_MOST_TEXT_BYTES >> 20} MiB")
    return mar.read(name).decode("utf-8")


def _once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, none of whose names is there twice: readers differ in which one counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _refused(path, "has a manifest with a name twice")
    return found
