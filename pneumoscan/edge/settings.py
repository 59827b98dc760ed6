"""nginx's configuration for one edge, rendered from the templates in ``deploy/``."""

from __future__ import annotations

import ipaddress
import os
import pwd
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from pneumoscan.edge.problems import locations
from pneumoscan.errors import EdgeError
from pneumoscan.resources import resource

DEFAULT_UPSTREAM: Final = "http://127.0.0.1:8080"
# As max_request_size in config.properties: above it TorchServe 0.12.0 gives an empty 413.
BODY_MIB: Final = 64
_PLACE: Final = re.compile(r"@@([A-Z_]+)@@")
_HOST: Final = re.compile(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]")


@dataclass(frozen=True)
class EdgeSettings:
    """What one edge is rendered from.

    Attributes
    ----------
    listen : str
        ``address:port`` of the only exposed port.
    upstreams : tuple of str
        ``host:port`` of each TorchServe.
    metrics : tuple of str
        ``host:port`` of the metrics ports that are passed on; none by default.
    metrics_allow : tuple of str
        Networks (CIDR) that may read them.
    connections : int
        Requests that one client address may have on their way.
    workers : str
        nginx's ``worker_processes``.
    """

    listen: str
    upstreams: tuple[str, ...]
    metrics: tuple[str, ...] = ()
    metrics_allow: tuple[str, ...] = ()
    connections: int = 256
    workers: str = "auto"


def host_and_port(text: str, what: str) -> str:
    """Give ``host:port`` of an address or URL.

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
    """Give a network in CIDR notation.

    Raises
    ------
    EdgeError
        It is none.
    """
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise EdgeError(f"--metrics-allow {text!r} is no network ({error}): give it as 10.0.0.0/8") from error


def render_edge(settings: EdgeSettings) -> str:
    """Give the text of the edge's nginx.conf; every path in it counts from the run folder."""
    servers = [f"        server unix:films-{n}.sock max_fails=0;" for n in range(len(settings.upstreams))]
    parts = {
        "USER": _user(),
        "WORKERS": settings.workers,
        "LISTEN": settings.listen,
        "BODY_LIMIT": f"{BODY_MIB}m",
        "CONNECTIONS": str(settings.connections),
        # A server is asked twice only where there is no other: nginx could choose a stopped one both times.
        "FILM_SERVERS": "\n".join(servers * 2 if len(servers) == 1 else servers),
        "ASK": f"\n{_template('nginx-ask.conf')}        ",
        "METRICS": _metrics(settings),
        "PROBLEMS": locations().replace("@@BODY_MIB@@", str(BODY_MIB)),
    }
    return _fill(_template("nginx.conf"), parts)


def render_adapter(settings: EdgeSettings) -> str:
    """Give the text of the second nginx's configuration, with one socket for each TorchServe."""
    each = _template("nginx-torchserve.conf")
    servers = [_fill(each, {"N": str(n), "ADDRESS": address}) for n, address in enumerate(settings.upstreams)]
    parts = {"USER": _user(), "WORKERS": settings.workers, "ADAPTERS": "\n".join(servers)}
    return _fill(_template("nginx-adapter.conf"), parts)


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
    return "\n".join(
        f"        location = /metrics{f'/{n}' if n else ''} {{ "
        "if ($request_method != GET) { return 405; } "
        'if ($edge_has_body) { return 413; } set $args "";'
        f"{allowed} deny all; proxy_pass http://{address}/metrics; proxy_pass_request_headers off; "
        'proxy_set_header Connection ""; proxy_intercept_errors on; }'
        for n, address in enumerate(settings.metrics)
    )
