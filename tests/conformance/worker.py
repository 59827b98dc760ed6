"""The program that answers requests with the handler of an unpacked archive: ``python -P worker.py FOLDER``.

It stands in for a TorchServe worker, with a small context of its own. It imports nothing of this repository:
`cxr_handler` and all behind it come from FOLDER. Each line of standard input is a batch, a JSON list of requests;
each gets a line of standard output with the replies and with what the handler printed.
"""

from __future__ import annotations

import base64
import importlib
import io
import json
import os
import sys
from itertools import chain
from pathlib import Path
from typing import Any


class Context:
    """What the handler asks TorchServe's context for, and what it tells it.

    Parameters
    ----------
    folder
        The unpacked archive.
    requests
        Those of one batch, each with its headers and its id.
    """

    def __init__(self, folder: Path, requests: list[dict[str, Any]]) -> None:
        self.system_properties = {"model_dir": str(folder), "gpu_id": None}
        self.manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text(encoding="utf-8"))
        self._requests = requests
        self.statuses: dict[int, int] = {}
        self.content_types: dict[int, str] = {}

    def get_all_request_header(self, idx: int) -> dict[str, str]:
        headers: dict[str, str] = self._requests[idx]["headers"]
        return headers

    def get_request_id(self, idx: int = 0) -> str:
        request_id: str = self._requests[idx]["id"]
        return request_id

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        assert phrase == ""
        self.statuses[idx] = code

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.content_types[idx] = value

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        assert idx in self.statuses
        assert (key, "\n" in value) == ("Cxr-Answer", False)


def value_of(part: dict[str, Any]) -> Any:
    """A part of a request as TorchServe hands it over: bytes, text or decoded JSON."""
    return bytearray(base64.b64decode(part["base64"])) if "base64" in part else part["json"]


def main(folder: Path) -> None:
    """Answer batch after batch until standard input ends."""
    wire = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not get between the replies
    sys.stdout = printed = io.StringIO()
    sys.path.insert(0, str(folder))
    handler = importlib.import_module("cxr_handler").CxrHandler()
    handler.initialize(Context(folder, []))
    answer: dict[str, Any] = {"replies": []}
    for line in chain(["[]"], iter(sys.stdin.readline, "")):
        requests = json.loads(line)
        if requests:
            context = Context(folder, requests)
            rows = [{name: value_of(part) for name, part in request["row"].items()} for request in requests]
            bodies = handler.handle(rows, context)
            assert len(bodies) == len(requests)
            answer["replies"] = [
                {
                    "status": context.statuses[i],
                    "content_type": context.content_types[i],
                    "body": base64.b64encode(body).decode(),
                }
                for i, body in enumerate(bodies)
            ]
        print(json.dumps({**answer, "printed": printed.getvalue()}), file=wire, flush=True)
        printed.seek(0)
        printed.truncate()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
