"""Results as text: for the terminal, and for docs/performance.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from benchmarks import raw
from benchmarks.servers import WrongUsage

Result = Mapping[str, Any]


def table_of(result: Result) -> str:
    """A result as text, the machine first.

    Raises
    ------
    WrongUsage
        It is of no kind that this module knows.
    """
    what = str(result.get("what", "raw" if "cam_share" in result else ""))
    if what not in _TABLES:
        raise WrongUsage(f"the result is of {what!r}: known are {', '.join(_TABLES)}")
    return f"{_machine(result['machine'])}\n{_TABLES[what](result)}"


def page_with(page: str, results: Sequence[Result]) -> str:
    """The text of a page with each result between its marks, ``<!-- bench:serve -->`` and ``<!-- /bench -->``.

    Raises
    ------
    WrongUsage
        The page has no place for one.
    """
    for result in results:
        what = str(result.get("what", "raw"))
        place = re.compile(rf"<!-- bench:{what} -->.*?<!-- /bench -->", re.DOTALL)
        times = len(place.findall(page))
        if times != 1:
            raise WrongUsage(f"the page has {times} places for {what}: one '<!-- bench:{what} -->' is needed")
        start, end = next(place.finditer(page)).span()
        block = f"<!-- bench:{what} -->\n```text\n{table_of(result)}\n```\n<!-- /bench -->"
        page = page[:start] + block + page[end:]
    return page


def _machine(machine: Result) -> str:
    versions = machine.get("versions") or {"torch": machine.get("torch", "?")}
    size = f", {machine['cores']} cores, {machine['memory_gb']:.0f} GB" if "cores" in machine else ""
    gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
    return f"{machine['processor']}{size}{gpu}; " + ", ".join(f"{name} {version}" for name, version in versions.items())


def _serve(result: Result) -> str:
    layout = result["layout"]
    lines = [
        f"{layout['processes']} workers x {layout['threads']} threads, {len(result['films'])} films in turn, "
        f"{result['settings']['seconds']:g} s each; ms from when a film was due",
        f"{'':22s} {'sent':>6s} {'films/s':>8s} {'p50':>8s} {'p95':>8s} {'p99':>8s} {'refused':>8s} {'p99':>7s} "
        f"{'errors':>6s} {'CPU s':>7s} {'MB peak':>8s}",
    ]
    lines += [_load_row(f"closed, {row['clients']} clients", row) for row in result["closed"]]
    lines += [_load_row(f"open, {row['part']:g} x capacity", row) for row in result["open"]]
    if "lone_client" in result:
        lone = result["lone_client"]
        lines.append(
            f"lone client, {lone['pairs']} pairs: served {lone['served_p50_ms']:.1f} ms, in process "
            f"{lone['called_p50_ms']:.1f} ms, overhead {lone['overhead_p50_ms']:.2f} ms at p50"
        )
        lines += [f"  {name:28s} overhead {one['overhead_p50_ms']:8.2f} ms" for name, one in lone["by_film"].items()]
    if "without_server" in result:
        beside = result["without_server"]
        lines.append(f"in turn, medians of {len(beside['rounds'])} rounds, films/s (_224: JPEG films of 224x224)")
        lines += [f"  {name:28s} {value:10.2f}" for name, value in beside["films_per_s"].items()]
        lines += [
            f"  {name.replace('_', ' '):28s} {one['median']:10.3f} ({one['lowest']:.3f} to {one['highest']:.3f})"
            for name, one in beside["ratios"].items()
        ]
    for one in result["client"]:
        lines.append(f"the client: {one['cpu_ms']} ms of processor time for a request of {one['body_kb']:g} kB")
    return "\n".join(lines)


def _load_row(name: str, row: Result) -> str:
    latency, refused = row["latency_ms"], row["refused"]
    cells = [f"{latency[p]:8.1f}" if latency else f"{'-':>8s}" for p in ("p50", "p95", "p99")]
    cpu = row.get("cpu_s_per_film")
    return (
        f"{name:22s} {row['sent']:6d} {row['films_per_s']:8.2f} {' '.join(cells)} {refused['count']:8d} "
        + (f"{refused['latency_ms']['p99']:7.1f}" if refused["count"] else f"{'-':>7s}")
        + f" {sum(row['errors'].values()):6d} "
        + (f"{cpu:7.4f}" if cpu is not None else f"{'-':>7s}")
        + (f" {row['memory_mb']['peak']:8.0f}" if "memory_mb" in row else "")
    )


def _peers(result: Result) -> str:
    lines = [
        f"{result['cores']} workers x 1 thread each, {result['settings']['seconds']:g} s in each of "
        f"{result['settings']['rounds']} rounds, in turn; medians"
    ]
    for part in result["parts"].values():
        lines.append(f"{part['title']}, {part['clients']} clients")
        lines.append(
            f"  {'':24s} {'per s':>9s} {'p50 ms':>8s} {'p99 ms':>8s} {'errors':>6s} {'idle CPU':>8s}  ours / it"
        )
        for name, one in part["servers"].items():
            if "failed" in one:
                lines.append(f"  {name:24s} {str(one['failed']).splitlines()[0]}")
                continue
            beside = one.get("ours_over_it")
            shown = f"{beside['median']:.3f} ({beside['lowest']:.3f} to {beside['highest']:.3f})" if beside else ""
            lines.append(
                f"  {name:24s} {one['per_s']:9.2f} {one['p50_ms']:8.2f} {one['p99_ms']:8.2f} {one['errors']:6d} "
                f"{one['idle_cpu']:8.2%}  {shown}"
            )
    return "\n".join(lines)


def _decode(result: Result) -> str:
    lines = [
        f"from bytes to tensor on one thread, medians of {result['rounds']} rounds in turn, ms",
        f"  {'':20s} {'tutorial':>9s} {'exact':>8s}  times as fast           {'reduced':>8s}  times as fast",
    ]
    for kind, one in result["films"].items():
        ours = (
            f" {one[f'{way}_ms']:8.2f}  {one[f'{way}_ratio']:5.2f} ({one[f'{way}_lowest']:.2f} to "
            f"{one[f'{way}_highest']:.2f})"
            for way in ("exact", "reduced")
        )
        lines.append(f"  {kind:20s} {one['tutorial_ms']:9.2f}" + "   ".join(ours))
    return "\n".join(lines)


def _cam(result: Result) -> str:
    lines = [
        f"{result['arch']} by torch in float32 on {result['device']}, {result['threads']} threads, one film, "
        f"medians of {result['rounds']} rounds in turn, ms"
    ]
    lines += [f"  {name.replace('_', ' '):24s} {value:10.3f}" for name, value in result["ms"].items()]
    lines += [
        f"  GradCAM / classification {result['gradcam_over_classification']:9.2f}",
        f"  GradCAM / ours           {result['gradcam_over_ours']:9.2f}",
        f"  our map / classification {result['map_share']:10.4%}",
    ]
    return "\n".join(lines)


_TABLES: Final[dict[str, Callable[[Result], str]]] = {
    "serve": _serve,
    "peers": _peers,
    "decode": _decode,
    "cam": _cam,
    "raw": lambda result: raw.table_of(dict(result)),
}
