"""``pneumoscan bench``: measure speed; the benchmarks come with the source and are never installed."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from pneumoscan.errors import UsageError
from pneumoscan.files import write_text, write_whole

_CHECKOUT: Final = Path(__file__).parents[2]  # of an installed wheel: site-packages


def _measurements() -> dict[str, type[Any]] | None:
    if not all((_CHECKOUT / name).is_file() for name in ("pyproject.toml", "benchmarks/settings.py")):
        return None
    if str(_CHECKOUT) not in sys.path:  # the console command's path is that of the environment alone
        sys.path.append(str(_CHECKOUT))
    from benchmarks.settings import MEASUREMENTS

    return MEASUREMENTS


OPTIONS: Final = _measurements()


def run(options: Any) -> int:
    """Run a measurement where there is a checkout, print the result and write what was requested.

    Raises
    ------
    UsageError
        If there is no checkout, or a file is there and not to be replaced.
    """
    if OPTIONS is None:
        raise UsageError("the benchmarks come with the source alone: run this in a checkout")
    from benchmarks.result import check_writable, json_of, text_of, write_result
    from benchmarks.serve import plot_load
    from benchmarks.settings import PageSettings

    if isinstance(options, PageSettings):
        return _fill_page(options.page, options.results)
    plot: Path | None = getattr(options, "plot", None)
    for path in (options.out, plot):
        check_writable(path, force=options.force)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers are stopped as after Ctrl-C
    try:
        result = _measurement_of(options)
    finally:
        signal.signal(signal.SIGTERM, before)
    if plot is not None:
        write_whole(plot, lambda path: plot_load(result, path))
    if options.out:
        write_result(options.out, result)
    print(json_of(result) if options.json else text_of(result))
    return 0


def _measurement_of(options: Any) -> Any:
    from benchmarks import peers, renderings, screen, serve, settings, steps, syntaxes, train

    measurements: dict[type[Any], Callable[[Any], Any]] = {
        settings.RawSettings: steps.benchmark_raw,
        settings.CamSettings: steps.benchmark_cam,
        settings.DecodeSettings: steps.benchmark_decode,
        settings.SyntaxSettings: syntaxes.benchmark_syntaxes,
        settings.RenderingSettings: renderings.benchmark_renderings,
        settings.ScreenSettings: screen.benchmark_screen,
        settings.TrainBenchmarkSettings: train.benchmark_training,
        settings.ServeSettings: serve.benchmark_serve,
        settings.PeerSettings: peers.benchmark_peers,
    }
    return measurements[type(options)](options)


def _fill_page(page: Path, results: Sequence[Path]) -> int:
    from benchmarks.result import page_with, read_result

    text = page_with(page.read_text(encoding="utf-8"), [read_result(path) for path in results])
    write_text(page, text)
    print(f"{page}: {len(results)} tables")
    return 0
