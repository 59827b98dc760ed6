"""``pneumoscan edge``: let others reach one or more servers, through nginx with TLS and keys."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

from pneumoscan.daemon import Notifier
from pneumoscan.edge.keys import add, read
from pneumoscan.edge.nginx import DEFAULT_UPSTREAM, EdgeSettings, find_nginx, host_and_port, network, origin
from pneumoscan.edge.run import EdgePlan, check_listen, daemon, reload, why_not_ready
from pneumoscan.edge.run import run as run_edge
from pneumoscan.edge.tls import link_certificate
from pneumoscan.errors import EdgeError
from pneumoscan.options import Option, as_argv, between, parse
from pneumoscan.server.capacity import cores
from pneumoscan.server.options import RUN_DIR, ServeOptions
from pneumoscan.server.run_folder import RunDir
from pneumoscan.server.torchserve import Addresses

_MOST_WORKERS: Final = 8


@dataclass(frozen=True, kw_only=True)
class Options:
    """Let others reach a server of `pneumoscan serve`: nginx with TLS, keys, limits and the documented paths alone.

    Without --detach it runs in the foreground until Ctrl-C or SIGTERM, then finishes what it is answering. Keys:
    pneumoscan keys. Arguments after -- go to pneumoscan serve, with --serve.
    """

    listen: Annotated[str, Option("where others reach it; a port over 1024 needs no root", "ADDRESS:PORT")] = (
        "0.0.0.0:8443"
    )
    upstream: Annotated[
        tuple[str, ...],
        Option(
            "inference address of a server; give it again for more (default: that of the server of --serve, else "
            f"{DEFAULT_UPSTREAM})",
            "HOST:PORT",
            repeated=True,
        ),
    ] = ()
    server_run_dir: Annotated[
        tuple[Path, ...],
        Option(
            "run folder of a server on this machine, for films whose clients left not to be computed; give it again "
            "for more (default: that of --serve, else run)",
            "DIR",
            repeated=True,
        ),
    ] = ()
    run_dir: Annotated[Path, Option("folder of this edge: keys, certificate, configuration, logs", "DIR")] = Path(
        "run/edge"
    )
    keys: Annotated[Path | None, Option("file of keys (default: keys in --run-dir)", "FILE")] = None
    tls_cert: Annotated[Path | None, Option("certificate chain, PEM (default: self-signed)", "FILE")] = None
    tls_key: Annotated[Path | None, Option("its key, PEM", "FILE")] = None
    metrics: Annotated[
        tuple[str, ...], Option("pass /metrics on to this metrics port", "HOST:PORT", repeated=True)
    ] = ()
    metrics_allow: Annotated[tuple[str, ...], Option("who may read it, as 10.0.0.0/8", "NETWORK", repeated=True)] = ()
    cors_origin: Annotated[
        tuple[str, ...],
        Option("let scripts of this web page ask, as https://viewer.example; again for more", "ORIGIN", repeated=True),
    ] = ()
    connections: Annotated[int, Option("requests of one address", "N", check=between(1, 65535))] = 256
    drain: Annotated[
        float,
        Option("how long a stop waits for requests on their way; a second signal ends it at once", "SECONDS"),
    ] = 150.0
    serve: Annotated[bool, Option("start pneumoscan serve as well, and stop it after the edge has drained")] = False
    detach: Annotated[bool, Option("start in the background and return once it listens", exclusive="mode")] = False
    stop: Annotated[bool, Option("drain and stop the edge of --run-dir; wait until it is gone", exclusive="mode")] = (
        False
    )
    reload: Annotated[bool, Option("take a renewed certificate", exclusive="mode")] = False
    ready: Annotated[bool, Option("exit 0 only if a film is answered behind it", exclusive="mode")] = False
    check: Annotated[bool, Option("write the configuration, let nginx read it, start nothing", exclusive="mode")] = (
        False
    )
    notify_fd: Annotated[int | None, Option(None)] = None  # how --detach hears from its child
    lock_fd: Annotated[int | None, Option(None)] = None  # the run folder's lock, which --detach hands down
    server: Annotated[tuple[str, ...], Option(None, "SERVE-ARGUMENT", positional=True)] = ()


OPTIONS = Options


def run(options: Options) -> int:
    """Run an edge, or do to a running one what is asked."""
    run_dir = RunDir(options.run_dir.absolute())
    if options.stop:
        return daemon(run_dir).stop()
    if options.reload:
        return reload(run_dir)
    if options.ready:
        return daemon(run_dir).ready(why_not_ready)
    run_dir.create()
    with run_dir.locked(options.lock_fd, "an edge") as lock:
        plan = make_plan(options, run_dir)
        if options.check:
            plan.write_configuration()
            print(f"nginx takes it: {plan.run_dir.path / 'nginx.conf'}")
            return 0
        show_first_key(plan)
        if options.detach:
            words = as_argv(in_background(options, plan))
            return daemon(run_dir).detach([sys.executable, "-m", "pneumoscan", "edge", *words], lock)
        return run_edge(plan, Notifier(options.notify_fd))


def make_plan(options: Options, run_dir: RunDir) -> EdgePlan:
    """Check everything that can be checked before a process is started.

    Raises
    ------
    EdgeError, KeyFileError
        Something is wrong; the message is one line with the remedy.
    """
    if options.server and not options.serve:
        raise EdgeError(f"{options.server[0]!r} is for pneumoscan serve: give --serve as well")
    if bool(options.metrics) != bool(options.metrics_allow):
        raise EdgeError("--metrics and --metrics-allow belong together: the one says what, the other who")
    if bool(options.tls_cert) != bool(options.tls_key):
        raise EdgeError("--tls-cert and --tls-key belong together: give both, or none for a self-signed certificate")
    served = parse(ServeOptions, options.server, "pneumoscan serve") if options.serve else None
    if served is not None and (served.detach or served.stop or served.ready):
        raise EdgeError("--detach, --stop and --ready go before the --, or to pneumoscan serve by itself")
    usual = DEFAULT_UPSTREAM if served is None else Addresses(served.port, served.metrics_port).url
    settings = EdgeSettings(
        listen=check_listen(options.listen),
        upstreams=tuple(host_and_port(one, "--upstream") for one in options.upstream or (usual,)),
        metrics=tuple(host_and_port(one, "--metrics") for one in options.metrics),
        metrics_allow=tuple(network(one) for one in options.metrics_allow),
        connections=options.connections,
        # A container's share and not the machine's cores, as "auto" would; what an edge does is little.
        workers=str(min(cores(), _MOST_WORKERS)),
        origins=tuple(origin(one) for one in options.cors_origin),
    )
    keys = options.keys.absolute() if options.keys else run_dir.path / "keys"
    if options.keys and not keys.exists():
        raise EdgeError(f"--keys {options.keys} is not there: pneumoscan keys --keys {options.keys} add NAME")
    server = None if served is None else tuple(as_argv(served))
    folders = options.server_run_dir or (RUN_DIR if served is None else served.run_dir,)
    given = (options.tls_cert, options.tls_key) if options.tls_cert and options.tls_key else None
    absolute = tuple(folder.absolute() for folder in folders)
    plan = EdgePlan(run_dir, settings, find_nginx(), options.drain, keys, server, absolute)
    if link_certificate(run_dir.path, given):
        print(
            f"The certificate is self-signed ({run_dir.path / 'self-signed.crt'}): clients have to be given it. "
            "For others, give --tls-cert and --tls-key.",
            file=sys.stderr,
        )
    if os.geteuid() == 0:
        print("The edge runs as root and needs not to: give it a user of its own.", file=sys.stderr)
    return plan


def in_background(options: Options, plan: EdgePlan) -> Options:
    """The options of the edge that ``--detach`` starts, with its server's as the plan has them."""
    # What its server writes to its console would go to a file that nobody rotates.
    server = () if plan.server is None else (*plan.server, "--quiet")
    return replace(options, detach=False, server=server, server_run_dir=plan.server_folders)


def show_first_key(plan: EdgePlan) -> None:
    """Make a key where there was never one; before anything goes to the background, so that no log holds it.

    Raises
    ------
    KeyFileError
        The file of keys cannot be believed.
    """
    if not plan.keys.exists():
        print(f"There was no key. The first one, shown this once:\n{add(plan.keys, 'first')}", file=sys.stderr)
    elif not read(plan.keys):
        print("There is no key, so nobody gets in: pneumoscan keys add NAME", file=sys.stderr)
