"""``pneumoscan watch``: show what a running server's metrics say."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from pneumoscan.errors import UsageError
from pneumoscan.options import Option, Port, at_least

if TYPE_CHECKING:
    from cxr_client.metrics import MetricsClient, Snapshot

_CLEAR: Final = "\x1b[H\x1b[2J"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Show what a running server's metrics say.

    Rates, outcomes, latencies, the mix of labels and drift since the last look, every few seconds until Ctrl-C; with
    --once the figures since the server started. With --export nothing is shown: the state of workers and queue, which
    TorchServe has on its management socket only, becomes series for Prometheus on a port of their own.
    """

    url: Annotated[str, Option("the metrics port")] = "http://127.0.0.1:8082"
    every: Annotated[int, Option("between two looks", "SECONDS", check=at_least(1))] = 5
    once: Annotated[bool, Option("one look: the figures since the server started")] = False
    json: Annotated[bool, Option("one JSON object a look")] = False
    export: Annotated[Port | None, Option("serve the state of workers and queue instead", "PORT")] = None
    run_dir: Annotated[Path, Option("the server's, for --export", "DIR")] = Path("run")


OPTIONS = Options


def run(options: Options) -> int:
    """Watch until Ctrl-C."""
    if options.export is not None and (options.once or options.json):
        raise UsageError("--export shows nothing: leave out --once and --json")
    if not options.url.startswith(("http://", "https://")):
        raise UsageError(f"--url is {options.url!r}: an address like http://127.0.0.1:8082 is needed")
    from cxr_client.metrics import MetricsClient
    from pneumoscan.server.worker_metrics import export_forever

    try:
        if options.export is not None:
            export_forever(options.run_dir, options.export)
        with MetricsClient(options.url) as client:
            watch(client, options.every, once=options.once, as_json=options.json)
    except (KeyboardInterrupt, BrokenPipeError):
        return 0
    return 0


def watch(client: MetricsClient, every_s: int, *, once: bool, as_json: bool) -> None:
    """Print a report, or one after each pause until the program is interrupted.

    Raises
    ------
    ClientError
        The first look fails. Later a server that is away is waited for, and told on stderr.
    """
    from cxr_client import ClientError
    from pneumoscan.metrics_report import report_of

    earlier = client.look()
    if once:
        _print(report_of(earlier, None), as_json)
        return
    while True:
        time.sleep(every_s)
        try:
            now = client.look()
        except ClientError as error:
            print(f"pneumoscan watch: {error}", file=sys.stderr, flush=True)
            continue
        _show_change(earlier, now, as_json)
        earlier = now


def _show_change(earlier: Snapshot, now: Snapshot, as_json: bool) -> None:
    from pneumoscan.metrics_report import report_of

    if sys.stdout.isatty() and not as_json:
        print(_CLEAR, end="")
    _print(report_of(now.since(earlier), now.at - earlier.at), as_json)


def _print(report: dict[str, object], as_json: bool) -> None:
    from pneumoscan.metrics_report import lines_of

    print(json.dumps(report) if as_json else "\n".join(lines_of(report)), flush=True)
