"""Archives whose handler answers at once, or does what a test needs to a film that asks for it; without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from tests.conformance.archives import environment
from tests.interrupts import hear_interrupts
from tests.places import REPOSITORY

VERSION: Final = "1.2.3"
# A film is a text: `fine N` gets the probability N, others end the process, hang, or fail in the ways that there are.
HANDLER: Final = """
import json, os, signal, time
from pathlib import Path
from types import SimpleNamespace as Named

class CxrHandler:
    def initialize(self, context):
        model = json.loads((Path(context.system_properties["model_dir"]) / "model.json").read_text())
        if model["start"] == "refuse":
            raise ValueError("the golden films get other answers")
        if model["start"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        identity = Named(version=context.manifest["model"]["modelVersion"], weights_sha256=model["weights_sha256"])
        self.service = Named(predictor=Named(engine=Named(name="none")), identity=identity)
        self.slow_s = model["slow_s"]

    def handle(self, rows, context):
        word, _, rest = rows[0]["body"].decode().partition(" ")
        headers = context.get_all_request_header(0)
        assert headers["Cxr-Cam"] == "none"
        print("[METRICS] of a server")
        os.write(1, b"a library prints\\n")
        time.sleep(self.slow_s)
        if word == "hang":
            time.sleep(1000)
        if word == "die" or (word == "once" and not Path(rest).exists() and not Path(rest).write_text("died")):
            os.kill(os.getpid(), signal.SIGSEGV)
        if word == "raise":
            raise RuntimeError(rest)
        status, code = {"bad": (415, "UNKNOWN_FORMAT"), "full": (507, "OUT_OF_MEMORY")}.get(word, (200, None))
        context.set_response_status(code=status, phrase="", idx=0)
        if code:
            return [json.dumps({"code": code, "detail": "a reason.", "status": status}).encode()]
        probability = float(rest) if word == "fine" else 0.5
        image = dict(format="PNG", width=3, height=2, bits=8, flags=["inverted"] if word == "odd" else [])
        image |= dict(photometric_interpretation=None, view_position=headers.get("Cxr-View"))
        return [json.dumps({
            "label": "PNEUMONIA" if probability >= 0.5 else "NORMAL",
            "probabilities": {"NORMAL": 1 - probability, "PNEUMONIA": probability},
            "decision": {"threshold": 0.5, "indeterminate": 0.4 <= probability <= 0.6},
            "image": image,
        }).encode()]
"""


def write_archive(path: Path, *, start: str = "", slow_s: float = 0.0) -> Path:
    """An archive with `HANDLER`; `start` is how loading it fails: ``refuse`` or ``die``."""
    model = {"weights_sha256": "0" * 64, "start": start, "slow_s": slow_s}
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": {"modelVersion": VERSION}}))
        packed.writestr("model.json", json.dumps(model))
        packed.writestr("cxr_handler.py", HANDLER)
    return path


def write_films(folder: Path, texts: Sequence[str]) -> Path:
    """A folder of films, ``0000.png`` and so on."""
    folder.mkdir(parents=True)
    for number, text in enumerate(texts):
        (folder / f"{number:04}.png").write_text(text, encoding="utf-8")
    return folder


def rows_in(out: Path) -> list[dict[str, Any]]:
    """The rows of all parts, as who reads the folder gets them."""
    rows: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    return rows


def parts_in(out: Path) -> dict[str, bytes]:
    """The parts of a job by name."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("part-*.parquet"))}


def start(words: Sequence[str]) -> subprocess.Popen[str]:
    """A process that scores."""
    return subprocess.Popen(
        [sys.executable, "-m", "pneumoscan", "score", *words],
        cwd=REPOSITORY,
        env=environment(PYTHONPATH=os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "handler")))),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    )


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The process ids of the workers of a process that scores."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        return [int(word) for word in children.read_text(encoding="ascii").split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
