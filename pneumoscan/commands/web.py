"""``pneumoscan web``: show the reading page in a browser.

It asks the inference server that is there; where none is on this machine, it starts one and stops it at the end.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Final, Literal, NoReturn
from urllib.parse import urlsplit

from cxr_client.inference import without_password
from pneumoscan.errors import CommandError
from pneumoscan.options import Option, Port, web_address
from pneumoscan.processes import Child

_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_THREADS: Final = 48  # films on their way at once, also those that come in slowly; the server batches them
_SHM: Final = Path("/dev/shm")
_MINE: Final = 0o077  # a history is for nobody else on this machine
_STOP_S: Final = 40.0  # gunicorn gives what it is answering 30
_STOPPING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _serve(*arguments: str) -> int:
    # As a command and not by an import: the page's environment has nothing of what a server needs.
    command = [sys.executable, "-m", "pneumoscan", "serve", *arguments]
    return subprocess.run(command, check=False, start_new_session=True).returncode


class Stopped(Exception):
    """A signal to stop came."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Show the reading page on the loopback interface, in front of an inference server.

    Where none answers at --url, and that is this machine, one is started on the archives of --store and stopped at the
    end. Settings of the page come from the environment, see docs/webapp.md.
    """

    port: Annotated[Port, Option("port of the page")] = 8000
    url: Annotated[
        str | None, Option("inference server (default: PNEUMOSCAN_URL, else http://127.0.0.1:8080)", "URL")
    ] = None
    store: Annotated[Path, Option("archives of a server that has to be started", "DIR")] = Path("model_store")
    run_dir: Annotated[
        Path, Option("folder of the inference server; its management.sock has the model card", "DIR")
    ] = Path("run")
    metrics_port: Annotated[Port, Option("of a server that has to be started", "PORT")] = 8082
    device: Annotated[Literal["auto", "cpu", "cuda"], Option("likewise")] = "auto"

    @property
    def server_url(self) -> str:
        """The address of the inference server."""
        return web_address(self.url or os.environ.get("PNEUMOSCAN_URL") or "http://127.0.0.1:8080")


OPTIONS = Options


def answers(url: str) -> bool:
    """Whether anybody listens at an address."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=3):
            return True
    except (OSError, ValueError):  # a port such as 99999 is no number of a port
        return False


@contextmanager
def inference_server(options: Options) -> Iterator[None]:
    """The server at ``--url``, started and stopped here where there was none.

    Raises
    ------
    CommandError
        If there is none and none can be started.
    """
    if answers(options.server_url):
        yield
        return
    parts = urlsplit(options.server_url)
    shown = without_password(options.server_url)
    if parts.hostname not in _LOOPBACK:
        raise CommandError(f"nobody answers at {shown}, which is not this machine: start the server there")
    run_dir = ("--run-dir", str(options.run_dir.absolute()))
    here = ["--store", str(options.store.absolute()), *run_dir]
    ports = ["--port", str(parts.port or 80), "--metrics-port", str(options.metrics_port)]
    print(f"Starting an inference server on {shown} (some seconds) ...", file=sys.stderr, flush=True)
    try:
        if _serve(*here, *ports, "--device", options.device, "--detach"):
            raise CommandError("the inference server did not start, see above")
    except (KeyboardInterrupt, Stopped):
        _hear_no_more()
        _serve(*run_dir, "--stop")
        raise
    try:
        yield
    finally:
        _hear_no_more()
        _serve(*run_dir, "--stop")


def environment(options: Options) -> dict[str, str]:
    """The page's environment: what the caller set, and for what is left what suits a page on this machine alone."""
    here = {
        "PNEUMOSCAN_SECRET_KEY": secrets.token_urlsafe(48),  # sessions end with this process
        "PNEUMOSCAN_HTTPS": "no",
        "PNEUMOSCAN_SOCKET": str((options.run_dir / "management.sock").absolute()),
        "PNEUMOSCAN_EXAMPLES": str((options.run_dir / "examples").absolute()),
    }
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if "PNEUMOSCAN_SECRET_KEY_FILE" in ours:
        del here["PNEUMOSCAN_SECRET_KEY"]
    ours.pop("PNEUMOSCAN_URL_FILE", None)  # --url is what was looked for
    return here | ours | {"PNEUMOSCAN_URL": options.server_url}


def draw_examples(folder: Path) -> None:
    """Draw the films that the page has to click on; without what draws them it has none, and that is said."""
    try:
        from pneumoscan.drawn_films import write_examples

        write_examples(folder)
    except (ModuleNotFoundError, OSError) as error:
        why = f"{error}; they are drawn with: pip install 'pneumoscan[training]'"
        print(f"note: the page has no example films ({why})", file=sys.stderr)


def page_command(port: int) -> list[str]:
    """The command line of the page's server: one process, so that its memory of the model card is one."""
    settings = ["--worker-class", "gthread", "--workers", "1", "--threads", str(_THREADS), "--timeout", "120"]
    quiet = ["--no-control-socket", "--log-level", "warning"]
    # Its heartbeat is a file; on a disk that stalls it would kill a worker that is well.
    beat = ["--worker-tmp-dir", str(_SHM)] if _SHM.is_dir() else []
    bind = ["--bind", f"127.0.0.1:{port}"]
    return [sys.executable, "-m", "gunicorn", "cxr_webapp.wsgi", *bind, *settings, *beat, *quiet]


def show(options: Options) -> int:
    """Serve the page until it is stopped; the exit code.

    Raises
    ------
    CommandError
        If the port is taken, or the history cannot be made.
    """
    ours = environment(options)
    if answers(f"http://127.0.0.1:{options.port}"):
        raise CommandError(
            f"port {options.port} cannot be used: something listens there. Give another: make web PORT=8001"
        )
    if ours.get("PNEUMOSCAN_HISTORY") or ours.get("PNEUMOSCAN_HISTORY_FILE"):
        migrate = [sys.executable, "-m", "cxr_webapp.manage", "migrate", "--verbosity", "0"]
        if subprocess.run(migrate, env=ours, umask=_MINE, check=False).returncode:
            raise CommandError("the history's tables could not be made, see above")
    if "PNEUMOSCAN_EXAMPLES" not in os.environ:
        draw_examples(Path(ours["PNEUMOSCAN_EXAMPLES"]))
    # In a session of its own: a terminal that is closed means "reload" to gunicorn.
    page = Child(page_command(options.port), environment=ours, umask=_MINE)
    try:
        print(f"The reading page: http://127.0.0.1:{options.port}/   (Ctrl-C stops it)", flush=True)
        code = page.wait()
    except (KeyboardInterrupt, Stopped):
        return 0
    finally:
        _hear_no_more()
        page.end(_STOP_S)
    return 1 if code else 0


def run(options: Options) -> int:
    """Show the page until a signal comes."""
    for number in _STOPPING:
        signal.signal(number, _stop)
    try:
        with inference_server(options):
            return show(options)
    except (KeyboardInterrupt, Stopped):
        return 0


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Stopped


def _hear_no_more() -> None:
    """A second signal must not end the tidying up."""
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)
