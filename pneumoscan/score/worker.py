"""The program of a worker: ``python -P worker.py FOLDER HEADERS`` answers film after film with the archive in FOLDER.

It imports nothing of ours but what lies in FOLDER, the unpacked archive, whose own `cxr_handler` does the checks and
the scoring; it stands in for a TorchServe worker with a context of its own. HEADERS are those of each request, as JSON.

It says in a line of JSON which model is ready, or what keeps it from that. Then each line of standard input, a JSON
list of a file's path and, in a ZIP, the member's name, gets two lines: the file's digest as soon as it is known, so
that it is there for a film that ends the process, and the reply. It ends with its standard input.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import lzma
import os
import stat
import sys
import traceback
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, Final

MAX_BYTES: Final = 64 * 1024 * 1024  # of a request to the server, `max_request_size` in config.properties
_CHUNK: Final = 1 << 20
# What zipfile raises besides `BadZipFile` over damage, and (RuntimeError) over what is encrypted or compressed in a way
# it does not know; as in pneumoscan.film_files.
_DAMAGE: Final = (zlib.error, lzma.LZMAError, EOFError, RuntimeError)


class Context:
    """What the handler asks TorchServe's context for, and what it reports to it; of one request.

    Parameters
    ----------
    folder
        The unpacked archive.
    headers
        Of the request.
    """

    def __init__(self, folder: Path, headers: dict[str, str]) -> None:
        self.system_properties = {"model_dir": str(folder), "gpu_id": None}
        self.manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text(encoding="utf-8"))
        self._headers = headers
        self.status = 0

    def get_all_request_header(self, idx: int) -> dict[str, str]:
        """The request's headers."""
        del idx
        return self._headers

    def get_request_id(self, idx: int = 0) -> str:
        """No id: nobody asks again by it."""
        del idx
        return ""

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Take the reply's HTTP status."""
        del phrase, idx
        self.status = code

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Nothing depends on it: without a picture every reply is JSON."""

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Nothing depends on it: the header is for an edge."""


class Files:
    """The bytes and the digest of files, in folders and in ZIPs; the last ZIP stays open for its other members."""

    def __init__(self) -> None:
        self._zip: tuple[str, zipfile.ZipFile] | None = None

    def read(self, path: str, member: str | None) -> tuple[bytes | None, int, str]:
        """The content, None where it is more than `MAX_BYTES`; its size; its SHA-256.

        Raises
        ------
        OSError, ValueError, zipfile.BadZipFile
            It cannot be read.
        """
        if member is None:
            if not stat.S_ISREG(Path(path).stat().st_mode):  # reading a pipe would wait for who writes to it
                raise ValueError("not a regular file")
            with Path(path).open("rb") as stream:
                return _content(stream)
        try:
            with self._opened(path).open(member) as stream:
                return _content(stream)
        except (KeyError, *_DAMAGE) as error:  # KeyError: it is gone
            raise ValueError(f"the ZIP does not give it ({type(error).__name__})") from error

    def _opened(self, path: str) -> zipfile.ZipFile:
        if self._zip is None or self._zip[0] != path:
            if self._zip is not None:
                self._zip[1].close()
            self._zip = path, zipfile.ZipFile(path)
        return self._zip[1]


def _content(stream: IO[bytes]) -> tuple[bytes | None, int, str]:
    digest, chunks, size = hashlib.sha256(), list[bytes](), 0
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
        if size <= MAX_BYTES:
            chunks.append(chunk)
        else:
            chunks.clear()
    return (b"".join(chunks) if size <= MAX_BYTES else None), size, digest.hexdigest()


class Worker:
    """An archive's handler, loaded, and where its replies go."""

    def __init__(self, folder: Path, headers: dict[str, str], wire: IO[str]) -> None:
        self._folder, self._headers, self._wire, self._files = folder, headers, wire, Files()
        self._handler = importlib.import_module("cxr_handler").CxrHandler()
        self._handler.initialize(Context(folder, {}))
        service = self._handler.service
        self.send(
            engine=service.predictor.engine.name,
            version=service.identity.version,
            weights_sha256=service.identity.weights_sha256,
        )

    def send(self, **message: Any) -> None:
        """Write one line."""
        print(json.dumps(message), file=self._wire, flush=True)

    def answer(self, path: str, member: str | None = None) -> None:
        """Score one file."""
        try:
            data, size, digest = self._files.read(path, member)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            text = (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
            self.send(status=500, body={"code": "UNREADABLE", "detail": f"the file cannot be read: {text}."})
            return
        self.send(sha256=digest)
        if data is None:  # more than the server takes
            detail = f"{size:,} bytes; at most {MAX_BYTES:,} are read. Compress the film."
            self.send(status=413, body={"code": "TOO_MANY_BYTES", "detail": detail})
            return
        # Text that looks like a request would be read as one; a file is a film and nothing else.
        is_like_request = data.lstrip()[:1] == b"{"
        body: Any = {"data": base64.b64encode(data).decode("ascii")} if is_like_request else data
        context = Context(self._folder, self._headers)
        try:
            (reply,) = self._handler.handle([{"body": body}], context)
        except Exception as error:
            traceback.print_exc()
            detail = f"{type(error).__name__} in the archive's handler; the workers' log says where."
            self.send(status=500, body={"code": "INTERNAL", "detail": detail})
            return
        self.send(status=context.status, body=json.loads(reply))


def main(folder: Path, headers: dict[str, str]) -> None:
    """Answer until standard input ends."""
    wire = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what a library prints must not get between the replies
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - metrics are a server's
    sys.path.insert(0, str(folder))
    try:
        worker = Worker(folder, headers, wire)
    except Exception as error:
        traceback.print_exc()
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=wire, flush=True)
        sys.exit(1)
    for line in iter(sys.stdin.readline, ""):
        worker.answer(*json.loads(line))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
