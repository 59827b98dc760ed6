"""The edge before one or more servers, nginx with TLS and keys: ``python -m scripts.edge``.

Exit codes: 0 done, 1 the edge or its server failed or is not ready, 2 it cannot be started as asked.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pneumoscan.daemon import Notifier
from pneumoscan.edge.keys import add, read
from pneumoscan.edge.nginx import DEFAULT_UPSTREAM, EdgeSettings, find_nginx, host_and_port, network
from pneumoscan.edge.run import EdgePlan, check_listen, daemon, reload, run, why_not_ready
from pneumoscan.edge.tls import link_certificate
from pneumoscan.errors import AlreadyRunning, EdgeError, KeyFileError, RunFolderError
from pneumoscan.server import options
from pneumoscan.server.capacity import cores
from pneumoscan.server.run_folder import RunDir
from pneumoscan.server.torchserve import Addresses

_MOST_WORKERS: Final = 8


def build_parser() -> argparse.ArgumentParser:
    """Give the parser of this command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.edge",
        allow_abbrev=False,
        description="Let others reach a server of scripts.serve: nginx with TLS, keys, limits and the documented "
        "paths alone. Without --detach it runs in the foreground until Ctrl-C or SIGTERM, then finishes what it is "
        "answering.",
        epilog="Keys: python -m scripts.edge_keys. Arguments after -- go to scripts.serve with --serve. Exit codes: "
        "0 done, 1 the edge or its server failed or is not ready, 2 it cannot be started as asked.",
    )
    parser.add_argument(
        "--listen",
        default="0.0.0.0:8443",
        metavar="ADDRESS:PORT",
        help="where others reach it; a port over 1024 needs no root (default: %(default)s)",
    )
    parser.add_argument(
        "--upstream",
        action="append",
        metavar="HOST:PORT",
        help="inference address of a server; give it again for more (default: that of the server of --serve, else "
        f"{DEFAULT_UPSTREAM})",
    )
    parser.add_argument(
        "--run-dir",
        type=Path,
        default=Path("run/edge"),
        metavar="DIR",
        help="folder of this edge: keys, certificate, configuration, logs (default: %(default)s)",
    )
    parser.add_argument("--keys", type=Path, metavar="FILE", help="file of keys (default: keys in --run-dir)")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM (default: self-signed)")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its key, PEM")
    parser.add_argument(
        "--metrics", action="append", default=[], metavar="HOST:PORT", help="pass /metrics on to this metrics port"
    )
    parser.add_argument(
        "--metrics-allow", action="append", default=[], metavar="NETWORK", help="who may read it, as 10.0.0.0/8"
    )
    parser.add_argument(
        "--connections", type=_count, default=256, metavar="N", help="requests of one address (default: %(default)s)"
    )
    parser.add_argument(
        "--drain",
        type=float,
        default=150.0,
        metavar="SECONDS",
        help="how long a stop waits for requests on their way; a second signal ends it at once (default: %(default)g)",
    )
    parser.add_argument(
        "--serve", action="store_true", help="start scripts.serve as well, and stop it after the edge has drained"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--detach", action="store_true", help="start in the background and return once it listens")
    mode.add_argument("--stop", action="store_true", help="drain and stop the edge of --run-dir; wait until it is gone")
    mode.add_argument("--reload", action="store_true", help="take a renewed certificate")
    mode.add_argument("--ready", action="store_true", help="exit 0 only if a film is answered behind it")
    mode.add_argument("--check", action="store_true", help="write the configuration, let nginx read it, start nothing")
    parser.add_argument("--notify-fd", type=int, help=argparse.SUPPRESS)  # how --detach hears from its child
    parser.add_argument("server", nargs="*", metavar="SERVE-ARGUMENT", help=argparse.SUPPRESS)
    return parser


def _count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 65535")
    return count


def make_plan(args: argparse.Namespace) -> EdgePlan:
    """Check everything that can be checked before a process is started.

    Raises
    ------
    EdgeError, RunFolderError, KeyFileError
        Something is wrong; the message is one line with the remedy.
    """
    if args.server and not args.serve:
        raise EdgeError(f"{args.server[0]!r} is for scripts.serve: give --serve as well")
    if bool(args.metrics) != bool(args.metrics_allow):
        raise EdgeError("--metrics and --metrics-allow belong together: the one says what, the other who")
    if bool(args.tls_cert) != bool(args.tls_key):
        raise EdgeError("--tls-cert and --tls-key belong together: give both, or none for a self-signed certificate")
    served = options.build_parser().parse_args(args.server) if args.serve else None
    if served is not None and (served.detach or served.stop or served.ready):
        raise EdgeError("--detach, --stop and --ready go before the --, or to scripts.serve by itself")
    usual = DEFAULT_UPSTREAM if served is None else Addresses(served.port, served.metrics_port).url
    settings = EdgeSettings(
        listen=check_listen(args.listen),
        upstreams=tuple(host_and_port(one, "--upstream") for one in args.upstream or [usual]),
        metrics=tuple(host_and_port(one, "--metrics") for one in args.metrics),
        metrics_allow=tuple(network(one) for one in args.metrics_allow),
        connections=args.connections,
        # A container's share and not the machine's cores, as "auto" would; what an edge does is little.
        workers=str(min(cores(), _MOST_WORKERS)),
    )
    run_dir = RunDir(args.run_dir.absolute())
    run_dir.create()
    if run_dir.is_locked():
        raise AlreadyRunning(
            f"an edge already runs from {args.run_dir}: stop it with --stop, or give another --run-dir"
        )
    keys = args.keys.absolute() if args.keys else run_dir.path / "keys"
    if args.keys and not keys.exists():
        raise EdgeError(f"--keys {args.keys} is not there: python -m scripts.edge_keys --keys {args.keys} add NAME")
    server = None if served is None else tuple(options.arguments_of_child(served))
    plan = EdgePlan(run_dir, settings, find_nginx(), args.drain, keys, server)
    if link_certificate(run_dir.path, (args.tls_cert, args.tls_key) if args.tls_cert else None):
        print(
            f"The certificate is self-signed ({run_dir.path / 'self-signed.crt'}): clients have to be given it. "
            "For others, give --tls-cert and --tls-key.",
            file=sys.stderr,
        )
    if os.geteuid() == 0:
        print("The edge runs as root and needs not to: give it a user of its own.", file=sys.stderr)
    return plan


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
        print("There is no key, so nobody gets in: python -m scripts.edge_keys add NAME", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    args = build_parser().parse_args(argv)
    run_dir = RunDir(args.run_dir.absolute())
    try:
        if args.stop:
            return daemon(run_dir).stop()
        if args.reload:
            return reload(run_dir)
        if args.ready:
            return daemon(run_dir).ready(why_not_ready)
        plan = make_plan(args)
        if args.check:
            plan.write_configuration()
            print(f"nginx takes it: {plan.run_dir.path / 'nginx.conf'}")
            return 0
        show_first_key(plan)
        if args.detach:
            arguments = arguments_of_child(args, argv, plan.server)
            return daemon(run_dir).detach([sys.executable, "-m", "pneumoscan.commands.edge", *arguments])
        return run(plan, Notifier(args.notify_fd))
    except (EdgeError, RunFolderError, KeyFileError) as error:
        print(f"scripts.edge: {error}", file=sys.stderr)
        return 2


def arguments_of_child(
    args: argparse.Namespace, argv: Sequence[str] | None, server: tuple[str, ...] | None
) -> list[str]:
    """Give the command line of the edge that ``--detach`` starts, its paths absolute; `server` as the plan has it."""
    given = list(sys.argv[1:] if argv is None else argv)
    mine = given[: given.index("--")] if "--" in given else given
    mine.remove("--detach")
    # The last one counts: paths that hold wherever the child runs.
    mine += ["--run-dir", str(args.run_dir.absolute())]
    if args.keys:
        mine += ["--keys", str(args.keys.absolute())]
    if args.tls_cert:
        mine += ["--tls-cert", str(args.tls_cert.absolute()), "--tls-key", str(args.tls_key.absolute())]
    # What it has to say goes to a file that nobody rotates.
    return mine if server is None else [*mine, "--", *server, "--quiet"]


if __name__ == "__main__":
    sys.exit(main())
