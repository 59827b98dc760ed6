"""nginx for one edge: its configuration, rendered from the templates in ``deploy/``, its process, its logs."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import urlsplit

from pneumoscan.edge.problems import HSTS, locations
from pneumoscan.errors import EdgeError
from pneumoscan.processes import Child
from pneumoscan.resources import resource

DEFAULT_UPSTREAM: Final = "http://127.0.0.1:8080"
# As max_request_size in config.properties: above it TorchServe 0.12.0 gives an empty 413.
BODY_MIB: Final = 64
_PLACE: Final = re.compile(r"@@([A-Z_]+)@@")
_HOST: Final = re.compile(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]")
_ORIGIN_HOST: Final = re.compile(r"(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
LOG_BYTES: Final = 10 * 1024 * 1024
LOGS_KEPT: Final = 3
_SYSLOG: Final = re.compile(r"^<\d+>\w{3} [ \d]\d [\d:]{8} ")
LEFT: Final = "tmp/left.log"  # nginx.conf's log of 499
_LEFT: Final = re.compile(r"[0-9a-f]{32}")
_FOLLOW_S: Final = 0.05
_QUIET_S: Final = 1.0
_UPSTREAM: Final = re.compile(r', upstream: "(?:https?://)?([^/"]+)')
# Before a film's path is asked. PUT is what "curl -T film.dcm" sends; TorchServe takes it for POST, so the edge does.
_TAKE: Final = """
            if ($edge_preflight) { rewrite ^ /_preflight last; }
            if ($request_method !~ ^(?:POST|PUT)$) { return 405; }
            if ($edge_unknown_query) { rewrite ^ /_problem/unknown-query last; }
            if ($edge_repeats) { rewrite ^ /_problem/repeated-option last; }
            if ($edge_is_form) { rewrite ^(.*)$ /_form$1 last; }
"""
_CORS: Final = """\
            add_header Access-Control-Allow-Origin $edge_origin always;
            add_header Access-Control-Expose-Headers "Retry-After, X-Request-Id, X-Upstream-Request-Id" always;
            add_header Vary Origin always;
"""
_TRIAL: Final = """\
            auth_request_set $edge_trial $upstream_http_x_trial;
            auth_request_set $edge_pair $upstream_http_x_pair;
            mirror /_trial;
"""
# Nothing of the shell: nginx needs none of it.
_ENVIRONMENT: Final = {"PATH": os.defpath, "LANG": "C"}


@dataclass(frozen=True)
class EdgeSettings:
    """What one edge is rendered from.

    Parameters
    ----------
    listen
        ``address:port`` of the only exposed port.
    upstreams
        ``host:port`` of each TorchServe.
    metrics
        ``host:port`` of the metrics ports that are passed on; none by default.
    metrics_allow
        Networks (CIDR) that may read them.
    connections
        Requests that one client address may have on their way.
    workers
        nginx's ``worker_processes``.
    origins
        Web pages, as ``https://host``, whose scripts may ask (CORS); none by default.
    """

    listen: str
    upstreams: tuple[str, ...]
    metrics: tuple[str, ...] = ()
    metrics_allow: tuple[str, ...] = ()
    connections: int = 256
    workers: str = "auto"
    origins: tuple[str, ...] = ()


def host_and_port(text: str, what: str) -> str:
    """``host:port`` of an address or URL.

    Raises
    ------
    EdgeError
        It is none, or an address that nginx would read as something else.
    """
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        port = parts.port
    except ValueError:
        port = None
    host = parts.netloc.rpartition(":")[0]
    if parts.scheme != "http" or not port or parts.path.strip("/") or parts.query or not _HOST.fullmatch(host):
        raise EdgeError(f"{what} {text!r} is no address: give it as host:port or http://host:port")
    # nginx would ask ::1 as well, where TorchServe does not listen.
    return f"{'127.0.0.1' if host == 'localhost' else host}:{port}"


def network(text: str) -> str:
    """A network in CIDR notation.

    Raises
    ------
    EdgeError
        It is none.
    """
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise EdgeError(f"--metrics-allow {text!r} is no network ({error}): give it as 10.0.0.0/8") from error


def origin(text: str) -> str:
    """An origin as a browser sends it (RFC 6454, section 6.2).

    Raises
    ------
    EdgeError
        It is none; "*" would let the scripts of every page ask.
    """
    parts = urlsplit(text)
    if parts.scheme not in ("https", "http") or not _ORIGIN_HOST.fullmatch(parts.netloc) or text != text.lower():
        raise EdgeError(f"--cors-origin {text!r} is no origin: give each page's as https://host or https://host:port")
    if text != f"{parts.scheme}://{parts.netloc}":
        raise EdgeError(f"--cors-origin {text!r} has more than an origin: give {parts.scheme}://{parts.netloc}")
    return text


def render_edge(settings: EdgeSettings) -> str:
    """The text of the edge's nginx.conf; every path in it counts from the run folder."""
    servers = [f"        server unix:films-{n}.sock max_fails=0;" for n in range(len(settings.upstreams))]
    cors = _CORS if settings.origins else ""
    parts = {
        "USER": _user(),
        "WORKERS": settings.workers,
        "LISTEN": settings.listen,
        "BODY_LIMIT": f"{BODY_MIB}m",
        "CONNECTIONS": str(settings.connections),
        # A server is asked twice only where there is no other: nginx could choose a stopped one both times.
        "FILM_SERVERS": "\n".join(servers * 2 if len(servers) == 1 else servers),
        "TAKE": f"{_TAKE}{_ask(cors, in_trial=True)}        ",
        "ASK": f"\n{_ask(cors, in_trial=True)}        ",
        "STABLE": f"\n{_ask(cors, in_trial=False)}        ",
        "ORIGINS": "".join(f'        "{one}" $http_origin;\n' for one in settings.origins),
        "CORS": cors,
        "METRICS": _metrics(settings),
        "PROBLEMS": locations(cors).replace("@@BODY_MIB@@", str(BODY_MIB)),
    }
    return _fill(_template("nginx.conf"), parts)


def render_adapter(settings: EdgeSettings) -> str:
    """The text of the second nginx's configuration, with one socket for each TorchServe."""
    each = _template("nginx-torchserve.conf")
    servers = [_fill(each, {"N": str(n), "ADDRESS": address}) for n, address in enumerate(settings.upstreams)]
    parts = {"USER": _user(), "WORKERS": settings.workers, "ADAPTERS": "\n".join(servers)}
    return _fill(_template("nginx-adapter.conf"), parts)


def _ask(cors: str, *, in_trial: bool) -> str:
    """How TorchServe is asked: a version on trial where the checker says so, or the stable one whatever it says."""
    parts = {"TRIAL": _TRIAL, "VERSION": "$edge_trial_version", "ASKED": "$edge_trial_path"}
    parts = parts if in_trial else {"TRIAL": "", "VERSION": "", "ASKED": '""'}
    return _fill(_template("nginx-ask.conf"), parts | {"CORS": cors})


def _template(name: str) -> str:
    return resource(name).read_text(encoding="utf-8")


def _fill(template: str, parts: dict[str, str]) -> str:
    # One pass: what is put in is not looked at again.
    return _PLACE.sub(lambda found: parts[found.group(1)], template)


def _user() -> str:
    """Root's nginx would hand its workers to another user, who may not enter the run folder."""
    return f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""


def _metrics(settings: EdgeSettings) -> str:
    allowed = "".join(f" allow {one};" for one in settings.metrics_allow)
    paths = [(f"/{n}" if n else "", address) for n, address in enumerate(settings.metrics)]
    if paths:
        paths.append(("/edge", "checker"))  # what only the edge can count
    return "\n".join(
        f"        location = /metrics{n} {{ "
        "if ($request_method != GET) { return 405; } "
        'if ($edge_has_body) { return 413; } set $args "";'
        f"{allowed} deny all; proxy_pass http://{address}/metrics; proxy_pass_request_headers off; "
        f'add_header {HSTS[0]} "{HSTS[1]}" always; proxy_set_header Connection ""; proxy_intercept_errors on; }}'
        for n, address in paths
    )


def find_nginx() -> str:
    """The path of nginx.

    Raises
    ------
    EdgeError
        There is none.
    """
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise EdgeError("no nginx was found: install it (Debian and Ubuntu: nginx-light)")
    return found


class Nginx:
    """One nginx in the foreground of a run folder; it ends with its parent.

    Parameters
    ----------
    program, folder
        nginx, and the folder from which all of its paths count.
    config
        Name of its configuration there.
    """

    def __init__(self, program: str, folder: Path, config: str) -> None:
        self._command = [program, "-p", str(folder), "-c", str(folder / config)]
        self._folder = folder
        self._process: Child | None = None

    def check(self) -> None:
        """Let nginx read its configuration.

        Raises
        ------
        EdgeError
            It does not take it; the message is nginx's own.
        """
        done = subprocess.run(
            [*self._command, "-e", "stderr", "-t", "-q"],
            cwd=self._folder,
            env=_ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or done.stderr:
            raise EdgeError(f"nginx does not take its configuration: {done.stderr.strip()}")

    def start(self) -> None:
        """Start it."""
        # nginx 1.22 writes every line to a file as well, whatever error_log says, and quotes requests in it.
        command = [*self._command, "-e", "/dev/null"]
        self._process = Child(command, environment=_ENVIRONMENT, folder=self._folder)

    @property
    def pid(self) -> int:
        """Process id of its master; 0 before it is started."""
        return self._process.pid if self._process else 0

    @property
    def exit_status(self) -> int | None:
        """What it ended with, or None while it runs."""
        return self._process.exit_status if self._process else None

    def signal(self, number: signal.Signals) -> None:
        """Send its master a signal: HUP to read its certificate again, USR1 to open its logs again."""
        if self._process:
            self._process.signal(number)

    def drain(self, patience_s: float, hurry: Callable[[], bool] = lambda: False) -> bool:
        """Take no new request, finish those on their way, end; give whether all of them were finished."""
        if self._process is None:
            return True
        self._process.signal(signal.SIGQUIT)
        finished = self._process.ends_within(patience_s, hurry)
        self._process.end(5.0)
        return finished


def without_quotes(line: str) -> str:
    """A line of nginx's error log without what it quotes of a request: path, query, header, host.

    Kept are the moment, what happened and which server it happened with.
    """
    line = _SYSLOG.sub("", line.strip())
    what, _, rest = line.partition(", client: ")
    upstream = _UPSTREAM.search(f", {rest}") if rest else _UPSTREAM.search(line)
    before, *quoted = what.split('"')
    # What is quoted may hold quotes itself, or be cut off: only after a single pair comes nginx's own text again.
    said = f'{before}"..."{quoted[1] if len(quoted) == 2 else ""}' if quoted else before
    return said + (f", server {upstream.group(1)}" if upstream else "")


class ErrorLog:
    """Takes what both nginx have to say from a unix socket and writes it down without what it quotes of requests."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "errors.sock"
        self._log = folder / "logs" / "error.log"
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._path))
        self._socket.settimeout(0.5)
        self._stop = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Add a line."""
        with self._writing, contextlib.suppress(OSError):  # a full disk must not end the edge
            rotate(self._log)
            with self._log.open("a", encoding="utf-8", errors="replace") as log:
                log.write(line + "\n")

    def stop(self) -> None:
        """Write what has come and stop."""
        self._stop.set()
        self._thread.join(timeout=5.0)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _read(self) -> None:
        while True:
            try:
                line = self._socket.recv(8192).decode("utf-8", "replace")
            except TimeoutError:
                if self._stop.is_set():
                    return
                continue
            self.write(without_quotes(line))


class Departures:
    """Passes on nginx's name of each request whose client left before its answer.

    By a file and not by the socket of errors: a socket holds ten lines, and many clients leave at once.
    """

    def __init__(self, folder: Path, left: Callable[[str], object]) -> None:
        self._path = folder / LEFT
        self._left = left
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._stop.set()
        self._thread.join(timeout=2.0)

    def _pass_on(self) -> None:
        for line in lines_of(self._path, self._stop):
            if _LEFT.fullmatch(line):
                self._left(line)


def lines_of(path: Path, stop: threading.Event) -> Iterator[str]:
    """The lines that are added to a log, also after it was moved away for a new one, until the event is set."""
    while not stop.wait(_FOLLOW_S):
        with contextlib.suppress(OSError), path.open("rb") as log:
            yield from _lines_of_one(path, log, stop)


def _lines_of_one(path: Path, log: BinaryIO, stop: threading.Event) -> Iterator[str]:
    rest, last = b"", time.monotonic()
    while not stop.wait(_FOLLOW_S):
        if data := log.read():
            last = time.monotonic()
            *lines, rest = (rest + data).split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in lines)
        elif time.monotonic() > last + _QUIET_S and path.stat().st_ino != os.fstat(log.fileno()).st_ino:
            return


def rotate(path: Path, limit: int = LOG_BYTES) -> bool:
    """Move a log that has grown past a limit out of the way, the oldest away; give whether it was."""
    try:
        if path.stat().st_size < limit:
            return False
    except OSError:
        return False
    for number in range(LOGS_KEPT - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    path.replace(path.with_name(f"{path.name}.1"))
    return True
