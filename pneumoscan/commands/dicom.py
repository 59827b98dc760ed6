"""``pneumoscan dicom``: answers as DICOM objects in the study of the film."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from cxr_client import InferenceClient
from pneumoscan.commands.predict import connect
from pneumoscan.errors import UsageError
from pneumoscan.film_files import find_dicom
from pneumoscan.options import Option, at_least

if TYPE_CHECKING:
    from pneumoscan.dicom.node import Tls


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is no address like 127.0.0.1:11112")
    return text


def _title(text: str) -> str:
    if not 0 < len(text.strip()) <= 16 or not text.isascii() or "\\" in text:
        raise ValueError(f"{text!r} is no AE title: up to 16 letters")
    return text


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How the server is asked."""

    url: Annotated[str, Option("inference address, or https:// of an edge, whose key is taken from PNEUMOSCAN_KEY")] = (
        "http://127.0.0.1:8080"
    )
    ca: Annotated[Path | None, Option("certificate of an edge that signed its own, PEM", "FILE")] = None
    model_version: Annotated[
        str | None, Option("version of the model (default: the server's default version)", "VERSION")
    ] = None
    refusals: Annotated[
        Literal["log", "sr"], Option("what a film that is refused gets: its reason in the log, or a report as well")
    ] = "log"
    jobs: Annotated[
        int, Option("films asked about at once, so that the server can batch them", "N", check=at_least(1))
    ] = 4
    timeout: Annotated[float, Option("how long one reply may take", "SECONDS")] = 60.0

    def connect(self) -> InferenceClient:
        """The client of the server."""
        return connect(self.url, self.ca, timeout_s=self.timeout, connections=self.jobs)


@dataclass(frozen=True, kw_only=True)
class Results(Asking):
    """Make DICOM results of films: a picture (Secondary Capture) and a structured report (TID 1500) for each.

    They belong to the study of their film and are to be sent where it came from. OUT also gets result.json, with what
    came of each file. Exit status 1 if one failed; a film that the server refuses, such as a lateral view, has its
    reason there and is no failure. Research use only, not a diagnosis.
    """

    source: Annotated[
        Path, Option("DICOM file, or folder searched for them by their first bytes", "IN", positional=True)
    ]
    out: Annotated[Path, Option("folder for the results, empty or new", "OUT", positional=True)]
    force: Annotated[bool, Option("replace the results in OUT")] = False
    json: Annotated[bool, Option("print what result.json holds")] = False


@dataclass(frozen=True, kw_only=True)
class Node(Asking):
    """Run a DICOM node: films come in by C-STORE, results go out by C-STORE, until it is stopped.

    A film is answered Success once it is safely in the spool; server and destinations may be away and are waited for.
    "status" shows what is in the spool of a node that runs or not; "retry" lets what failed be tried again.
    """

    action: Annotated[
        Literal["run", "status", "retry"], Option('"run" (default), "status" or "retry"', positional=True)
    ] = "run"
    spool: Annotated[Path, Option("folder that only this user reads: films, results, state", "DIR")] = Path("spool")
    listen: Annotated[str, Option("address for DICOM", "HOST:PORT", read=_address)] = "127.0.0.1:11112"
    ae: Annotated[str, Option("AE title of the node, which a caller has to call", "TITLE", read=_title)] = "PNEUMOSCAN"
    calling: Annotated[
        tuple[str, ...], Option("AE title that may call; all may without", "TITLE", repeated=True, read=_title)
    ] = ()
    to: Annotated[
        tuple[str, ...],
        Option("destination of results, such as PACS@pacs.example:104", "TITLE@HOST:PORT", repeated=True),
    ] = ()
    tls_cert: Annotated[
        Path | None, Option("the node's certificate, PEM: callers and destinations then have to speak TLS", "FILE")
    ] = None
    tls_key: Annotated[Path | None, Option("its key, PEM", "FILE")] = None
    tls_ca: Annotated[Path | None, Option("authority of the peers' certificates, PEM", "FILE")] = None
    keep: Annotated[
        float, Option("how long films and results stay in the spool after their end", "HOURS", check=at_least(0))
    ] = 24.0
    give_up: Annotated[
        float, Option("how long a destination is tried that does not take a result", "HOURS", check=at_least(0))
    ] = 72.0
    json: Annotated[bool, Option("status as JSON")] = False


def make(options: Results) -> int:
    """Write the results of all films; 1 if one failed."""
    # Here and not above, since --help needs none of it.
    from pneumoscan.dicom.results import RECORD_FILE, FilmResult, ResultMaker, document, plan_all, write_record
    from pneumoscan.dicom.source import quiet_libraries

    quiet_libraries()
    files = _find(options)
    client = options.connect()
    maker = ResultMaker(client, options.out, options.model_version, options.refusals == "sr")
    root = options.source if options.source.is_dir() else options.source.parent
    results: list[FilmResult] = []
    with client:
        for result in maker.make_all(plan_all(files, root), files, options.jobs):
            print(f"pneumoscan dicom results: {result.line}", file=sys.stderr, flush=True)
            results.append(result)
    write_record(options.out, results)
    counts = Counter(result.state for result in results)
    if options.json:
        print(document(results), end="")
    else:
        print(f"{', '.join(f'{count} {state}' for state, count in counts.items())}: {options.out / RECORD_FILE}")
    return 1 if counts["failed"] else 0


def _find(options: Results) -> list[Path]:
    out = options.out.resolve()
    try:
        files = [path for path in find_dicom(options.source) if not path.resolve().is_relative_to(out)]
    except OSError as error:
        raise UsageError(str(error)) from error
    if not files:
        raise UsageError(f"no DICOM file in {options.source}")
    if options.out.exists() and not options.out.is_dir():
        raise UsageError(f"{options.out} is no folder")
    if not options.force and options.out.is_dir() and any(options.out.iterdir()):
        raise UsageError(f"{options.out} is not empty: give --force or another folder")
    options.out.mkdir(parents=True, exist_ok=True)
    return files


def run_node(options: Node) -> int:
    """Run the node, or look after its spool."""
    from pneumoscan.dicom.node import Destination, Settings
    from pneumoscan.dicom.node import Node as RunningNode
    from pneumoscan.dicom.results import ResultMaker
    from pneumoscan.dicom.source import quiet_libraries
    from pneumoscan.dicom.spool import Spool

    if options.action != "run":
        return _look_after(options)
    try:
        destinations = tuple(Destination.parse(text) for text in options.to)
    except ValueError as error:
        raise UsageError(f"--to {error}") from error
    if not destinations:
        raise UsageError("--to is needed: where do results go?")
    quiet_libraries()
    os.umask(0o077)
    spool = Spool(options.spool)
    host, _, port = options.listen.rpartition(":")
    settings = Settings(
        *(options.ae, host.strip("[]"), int(port), destinations, options.calling, options.jobs),
        keep_s=options.keep * 3600.0,
        give_up_s=options.give_up * 3600.0,
        tls=_tls(options),
    )
    with options.connect() as client, spool.held(UsageError(f"a node has the spool {options.spool}")):
        maker = ResultMaker(client, spool.results, options.model_version, options.refusals == "sr")
        node = RunningNode(settings, spool, maker, _say)
        node.start()
        _say(f"{options.ae} listens on {host}:{node.port}")
        stopped = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        stopped.wait()
        node.stop()
    spool.close()
    return 0


def _tls(options: Node) -> Tls | None:
    from pneumoscan.dicom.node import Tls

    files = [path for path in (options.tls_cert, options.tls_key, options.tls_ca) if path is not None]
    if not files:
        return None
    if len(files) < 3:
        raise UsageError("--tls-cert, --tls-key and --tls-ca go together")
    tls = Tls(*files)
    try:
        tls.listening()
    except OSError as error:
        raise UsageError(f"certificate, key or authority cannot be used: {error.strerror or error}") from error
    return tls


def _look_after(options: Node) -> int:
    from pneumoscan.dicom.spool import Spool

    if not options.spool.is_dir():
        raise UsageError(f"no spool in {options.spool}")
    spool = Spool(options.spool)
    if options.action == "retry":
        print(f"{spool.retry()} to be tried again")
        return 0
    status = spool.status()
    if options.json:
        print(json.dumps(asdict(status), indent=2))
        return 0
    print(", ".join(f"{count} {state}" for state, count in status.films.items()))
    print(f"the oldest film that waits: {status.oldest_s:.0f} s")
    for destination, count in status.to_send.items():
        print(f"{count} to be sent to {destination}")
    for failure in status.failures:
        print(f"film {failure.film}: {failure.what}: {failure.reason}")
    return 0


def _say(text: str) -> None:
    print(f"pneumoscan dicom node: {text}", file=sys.stderr, flush=True)


_COMMANDS: Final[dict[str, tuple[type[Asking], Callable[[Any], int]]]] = {
    "results": (Results, make),
    "node": (Node, run_node),
}
OPTIONS: Final = {name: options for name, (options, _) in _COMMANDS.items()}
_RUN: Final = dict(_COMMANDS.values())


def run(options: Asking) -> int:
    """Do what was asked for."""
    return _RUN[type(options)](options)
