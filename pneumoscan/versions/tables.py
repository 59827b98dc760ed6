"""The tables of `pneumoscan models`: the versions there are, and how two of them compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from cxr_client.management import Readiness
from pneumoscan.errors import StoreError
from pneumoscan.model_store import Version, list_archives
from pneumoscan.versions.compare import Comparison, Pair
from pneumoscan.versions.declared import Declared, read_declared

_SHOWN: Final = 20


def overview(store: Path, live: Readiness | None) -> dict[str, Any]:
    """All versions that are declared, on the server or in the store; None for `live` where no server runs.

    Raises
    ------
    StoreError
        The declared state cannot be read.
    """
    declared = read_declared(store)
    try:
        archives = {archive.version.text for archive in list_archives(store)[0]}
    except StoreError:  # an empty store
        archives = set()
    served = {} if live is None else {state.version: state for state in live.versions}
    registered = {} if declared is None else declared.versions
    entries = []
    for text in sorted(archives | set(served) | set(registered), key=lambda text: Version(text), reverse=True):
        state = served.get(text)
        entry: dict[str, Any] = {
            "version": text,
            "default": state.is_default if state is not None else declared is not None and declared.default == text,
            "registered": text in registered if declared is not None else state is not None,
            "in_store": text in archives,
            "server": None,
            "sha256": registered[text].sha256 if text in registered else None,
            "verified": _verified(declared, text),
        }
        if state is not None:
            ready = sum(worker.is_ready for worker in state.workers)
            entry["server"] = {"ready": ready, "workers": max(state.min_workers, ready), "waiting": state.waiting}
        entries.append(entry)
    return {
        "store": str(store),
        "declared": declared is not None,
        "default": None if declared is None else declared.default,
        "previous": [] if declared is None else list(declared.previous),
        "running": live is not None,
        "versions": entries,
    }


def overview_table(found: dict[str, Any]) -> str:
    """The overview for people."""
    rows = [("VERSION", "", "SERVER", "WAITING", "SHA256", "VERIFIED")]
    notes = []
    for entry in found["versions"]:
        server = entry["server"]
        rows.append(
            (
                entry["version"],
                "default" if entry["default"] else "",
                f"{server['ready']}/{server['workers']} READY" if server else "-",
                str(server["waiting"]) if server else "-",
                (entry["sha256"] or "-")[:12],
                _verified_text(entry),
            )
        )
        if found["running"] and entry["registered"] and server is None:
            notes.append(f"{entry['version']} is registered, but not on the server: register it again")
        if found["declared"] and server is not None and not entry["registered"]:
            notes.append(f"{entry['version']} is on the server, but not registered: register or retire it")
        if entry["registered"] and not entry["in_store"]:
            notes.append(f"{entry['version']} is registered, but its archive is gone: the next start will fail")
        if found["declared"] and entry["default"] and entry["version"] != found["default"]:
            notes.append(f"the server's default is {entry['version']}, declared is {found['default']}: promote one")
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if not found["declared"]:
        notes.append(f"{found['store']} declares nothing: a start serves every archive, the newest as the default")
    elif found["previous"]:
        notes.append(f"a rollback goes to {found['previous'][-1]}")
    return "\n".join(lines + [f"note: {note}" for note in notes])


def comparison_table(comparison: Comparison) -> str:
    """A comparison for people: the films that differ most, then the figures."""
    old, new = comparison.old, comparison.new
    figures = comparison.to_dict()
    lines: list[str] = []
    remarkable = [*comparison.errors, *sorted(comparison.flipped, key=_size, reverse=True)]
    if remarkable:
        width = max(len(str(pair.film)) for pair in remarkable[:_SHOWN])
        lines.append(f"{'FILM'.ljust(width)}  {old:<16}  {new:<16}  SHIFT")
        lines += [_row(pair, width) for pair in remarkable[:_SHOWN]]
        if len(remarkable) > _SHOWN:
            lines.append(f"... and {len(remarkable) - _SHOWN} more, see --json")
        lines.append("")
    lines.append(
        f"films              {figures['films']}, answered by both {figures['compared']}, "
        f"refused alike {figures['refused_by_both']}"
    )
    flips = figures["flip_share"]
    lines.append(
        f"label flips        {figures['flips']} ({flips['value']:.1%}; of all films at most {flips['high']:.1%}, 95 %)"
    )
    lines.append(f"not answered alike {figures['errors']}")
    if figures["compared"]:
        lines.append(
            f"score shift        mean {figures['mean_shift']:.4f} (signed {figures['mean_signed_shift']:+.4f}), "
            f"median {figures['p50_shift']:.4f}, 90 % {figures['p90_shift']:.4f}, 99 % {figures['p99_shift']:.4f}, "
            f"largest {figures['max_shift']:.4f}"
        )
    lines += [f"not passed: {failure}" for failure in comparison.failures]
    lines += [f"too few films: {doubt}" for doubt in comparison.doubts]
    if comparison.is_passed:
        lines.append(f"passed: {new} against {old}")
    return "\n".join(lines)


def _verified(declared: Declared | None, version: str) -> dict[str, Any] | None:
    found = None if declared is None or version not in declared.versions else declared.versions[version].verified
    if found is None:
        return None
    return {
        "against": found.against,
        "films": found.films,
        "flips": found.flips,
        "passed": found.passed,
        "decided": found.decided,
        "flips_high": found.flips_high,
        "shift_high": found.shift_high,
        "at": found.at,
    }


def _verified_text(entry: dict[str, Any]) -> str:
    found = entry["verified"]
    if found is None:
        return "-"
    verdict = "passed" if found["passed"] else "NOT passed" if found["decided"] else "too few films"
    return f"{verdict} against {found['against']}, {found['films']} films"


def _size(pair: Pair) -> float:
    return abs(pair.shift or 0.0)


def _row(pair: Pair, width: int) -> str:
    cells = [
        f"{answer.label:<9} {answer.probability:.4f}" if answer.probability is not None else answer.code
        for answer in (pair.old, pair.new)
    ]
    shift = "-" if pair.shift is None else f"{pair.shift:+.4f}"
    return f"{str(pair.film).ljust(width)}  {cells[0]:<16}  {cells[1]:<16}  {shift}"
