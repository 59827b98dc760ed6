"""The tables of `pneumoscan models`: the versions there are, and how two of them compare."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Final

from cxr_client import ClientError
from pneumoscan.errors import StoreError, VersionError
from pneumoscan.model_store import Archive, Version, archive_digest, list_archives
from pneumoscan.server.run_folder import RunDir
from pneumoscan.versions.compare import Comparison, Pair
from pneumoscan.versions.declared import Declared, Registered, read_declared
from pneumoscan.versions.live_server import live_server
from pneumoscan.versions.servers import Announced, servers_of

_SHOWN: Final = 20


def overview(store: Path, run_dir: RunDir) -> dict[str, Any]:
    """All versions that are declared, on a server or in the store, with the bytes that lie there now.

    Parameters
    ----------
    run_dir
        Of a server that is shown with those that have announced themselves in the store.

    Raises
    ------
    StoreError
        The declared state cannot be read.
    """
    declared = read_declared(store)
    try:
        archives = {archive.version.text: archive for archive in list_archives(store)[0]}
    except StoreError:  # an empty store
        archives = {}
    servers = [_server(said) for said in _announced(store, run_dir)]
    registered = {} if declared is None else declared.versions
    names = {*archives, *registered, *(version for server in servers for version in server["versions"])}
    entries = []
    for text in sorted(names, key=lambda text: Version(text), reverse=True):
        digest = _digest(archives[text]) if text in archives else None
        known = registered.get(text)
        serving = [server for server in servers if text in server["versions"]]
        entries.append(
            {
                "version": text,
                "default": declared.default == text
                if declared is not None
                else any(server["default"] == text for server in servers),
                "registered": known is not None if declared is not None else bool(serving),
                "in_store": text in archives,
                "on_disk": _on_disk(known, text in archives, digest),
                "server": serving[0]["versions"][text] if serving else None,
                "sha256": known.sha256 if known is not None else None,
                "verified": _verified(declared, text),
            }
        )
    return {
        "store": str(store),
        "declared": declared is not None,
        "default": None if declared is None else declared.default,
        "previous": [] if declared is None else list(declared.previous),
        "running": bool(servers),
        "servers": servers,
        "versions": entries,
    }


def _announced(store: Path, run_dir: RunDir) -> list[Announced]:
    said = servers_of(store)
    own = Announced(socket.gethostname(), str(run_dir.path), 0.0)
    known = any(each.is_here and each.run_dir == own.run_dir for each in said)
    return said if known or not own.runs else [own, *said]


def _server(said: Announced) -> dict[str, Any]:
    """What one server serves: as it says now, or from another machine as it said last."""
    found: dict[str, Any] = {"server": said.name, "why": "", "default": said.default or None, "versions": {}}
    if not said.is_here:
        found["versions"] = {text: {} for text in said.versions}
        return found
    try:
        with live_server(RunDir(Path(said.run_dir))) as live:
            states = live.look().versions
    except (ClientError, VersionError) as error:
        return found | {"why": str(error), "default": None}
    found["default"] = next((state.version for state in states if state.is_default), None)
    for state in states:
        ready = sum(worker.is_ready for worker in state.workers)
        workers = max(state.min_workers, ready)
        found["versions"][state.version] = {"ready": ready, "workers": workers, "waiting": state.waiting}
    return found


def _digest(archive: Archive) -> str | None:
    try:
        return archive_digest(archive)
    except StoreError:
        return None


def _on_disk(known: Registered | None, is_there: bool, digest: str | None) -> str:
    """What lies in the store in the name of a version."""
    if not is_there:
        return "missing"
    if digest is None:
        return "unreadable"
    if known is None:
        return "unregistered"
    return "registered" if digest == known.sha256 else "other bytes"


def overview_table(found: dict[str, Any]) -> str:
    """The overview for people."""
    servers = found["servers"]
    heads = [f"SERVER {number}" for number in range(1, len(servers) + 1)] if len(servers) > 1 else ["SERVER"]
    rows = [("VERSION", "", *heads, "SHA256", "VERIFIED")]
    for entry in found["versions"]:
        cells = [_cell(server, entry["version"]) for server in servers] or ["-"]
        default = "default" if entry["default"] else ""
        rows.append((entry["version"], default, *cells, (entry["sha256"] or "-")[:12], _verified_text(entry)))
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if len(servers) > 1:
        lines += [f"server {number}: {server['server']}" for number, server in enumerate(servers, 1)]
    return "\n".join(lines + [f"note: {note}" for note in _notes(found)])


def _cell(server: dict[str, Any], version: str) -> str:
    state = server["versions"].get(version)
    if state is None:
        return "-"
    default = "default, " if server["default"] == version else ""
    return (
        f"{default}{state['ready']}/{state['workers']} READY, {state['waiting']} wait" if state else f"{default}there"
    )


def _notes(found: dict[str, Any]) -> list[str]:
    notes = []
    for server in found["servers"]:
        where, there = f"the server of {server['server']}", server["versions"]
        if server["why"]:
            notes.append(f"{where} does not say what it serves: {server['why']}")
            continue
        if found["declared"] and server["default"] != found["default"]:
            notes.append(f"{where}: its default is {server['default']}, declared is {found['default']}: promote one")
        for entry in found["versions"]:
            if entry["registered"] and entry["version"] not in there:
                notes.append(f"{entry['version']} is registered, but not on {where}: register it again")
            if found["declared"] and entry["version"] in there and not entry["registered"]:
                notes.append(f"{entry['version']} is on {where}, but not registered: register or retire it")
    for entry in found["versions"]:
        why = {
            "missing": "its archive is gone",
            "other bytes": "its archive has other bytes now",
            "unreadable": "its archive cannot be read",
        }.get(entry["on_disk"])
        if entry["registered"] and why:
            notes.append(f"{entry['version']} is registered, but {why}: the next start will fail")
    if not found["running"]:
        notes.append(f"no server of {found['store']} runs here")
    if not found["declared"]:
        notes.append(f"{found['store']} declares nothing: a start serves every archive, the newest as the default")
    elif found["previous"]:
        notes.append(f"a rollback goes to {found['previous'][-1]}")
    return notes


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
