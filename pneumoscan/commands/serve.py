"""``pneumoscan serve``: serve the archives of a model store with TorchServe."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace

from pneumoscan.options import as_argv
from pneumoscan.server.options import ServeOptions

OPTIONS = ServeOptions


def run(options: ServeOptions) -> int:
    """Serve, or do to a running server what is asked."""
    from pneumoscan.daemon import Notifier
    from pneumoscan.serve import make_plan, serve
    from pneumoscan.server.readiness import why_not_ready
    from pneumoscan.server.run_folder import RunDir, daemon

    run_dir = RunDir(options.run_dir.absolute())
    if options.stop:
        return daemon(run_dir).stop()
    if options.ready:
        return daemon(run_dir).ready(lambda server: why_not_ready(run_dir, server.url))
    plan = make_plan(options)
    if options.notify_fd is None:
        print(f"{plan.device}: {plan.capacity.summary}", file=sys.stderr)
    if options.detach:
        command = [sys.executable, "-m", "pneumoscan", "serve", *as_argv(replace(options, detach=False))]
        stop_it = f"pneumoscan serve --run-dir {shlex.quote(str(run_dir.path))} --stop"
        return daemon(run_dir).detach(command, f"logs: {run_dir.logs}; stop: {stop_it}")
    return serve(plan, Notifier(options.notify_fd))
