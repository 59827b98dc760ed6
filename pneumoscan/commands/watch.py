"""Show what a running server's metrics say: ``python -m scripts.watch_metrics``.

Rates, outcomes, latencies, the mix of labels and drift since the last look, every few seconds until Ctrl-C; with
``--once`` the figures since the server started. With ``--export`` nothing is shown: the state of workers and queue,
which TorchServe tells on its management socket only, becomes series for Prometheus on a port of their own.

Exit codes: 0 done, 1 the server does not answer, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pneumoscan.errors import ExportError
from pneumoscan.options import positive

try:
    from cxr_client.metrics import MetricsClient, Snapshot
    from pneumoscan.metrics_report import lines_of, report_of
    from pneumoscan.server.worker_metrics import export_forever
except ModuleNotFoundError as missing:
    if missing.name is None or not missing.name.startswith("prometheus_client"):
        raise
    sys.exit("scripts.watch_metrics needs prometheus-client: pip install 'pneumoscan[metrics]'")

from cxr_client import ClientError

_CLEAR = "\x1b[H\x1b[2J"


def watch(client: MetricsClient, every_s: int, *, once: bool, as_json: bool) -> None:
    """Print a report, or one after each pause until the program is interrupted.

    Raises
    ------
    ClientError
        The first look fails. Later a server that is away is waited for, and told on stderr.
    """
    earlier = client.look()
    if once:
        _print(report_of(earlier, None), as_json)
        return
    while True:
        time.sleep(every_s)
        try:
            now = client.look()
        except ClientError as error:
            print(f"scripts.watch_metrics: {error}", file=sys.stderr, flush=True)
            continue
        _show_change(earlier, now, as_json)
        earlier = now


def _show_change(earlier: Snapshot, now: Snapshot, as_json: bool) -> None:
    if sys.stdout.isatty() and not as_json:
        print(_CLEAR, end="")
    _print(report_of(now.since(earlier), now.at - earlier.at), as_json)


def _print(report: dict[str, object], as_json: bool) -> None:
    print(json.dumps(report) if as_json else "\n".join(lines_of(report)), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts.watch_metrics", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8082", help="the metrics port (default %(default)s)")
    parser.add_argument("--every", type=positive, default=5, metavar="SECONDS", help="between two looks (default 5)")
    parser.add_argument("--once", action="store_true", help="one look: the figures since the server started")
    parser.add_argument("--json", action="store_true", help="one JSON object a look")
    parser.add_argument("--export", type=positive, metavar="PORT", help="serve the state of workers and queue instead")
    parser.add_argument("--run-dir", type=Path, default=Path("run"), help="the server's, for --export (default run)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.export is not None and (arguments.once or arguments.json):
        parser.error("--export shows nothing: leave out --once and --json")
    if not arguments.url.startswith(("http://", "https://")):
        parser.error(f"--url is {arguments.url!r}: an address like http://127.0.0.1:8082 is needed")
    try:
        if arguments.export is not None:
            export_forever(arguments.run_dir, arguments.export)
        with MetricsClient(arguments.url) as client:
            watch(client, arguments.every, once=arguments.once, as_json=arguments.json)
    except (ClientError, ExportError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
