"""From series to what somebody on duty asks for: how many, how they ended, how long, what was said, what shifts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cxr_client.metrics import Snapshot
from pneumoscan.model_store import MODEL_NAME, Version

STAGES: Final = ("queue", "decode", "preprocess", "forward", "render", "batch", "request")
_DIGITS: Final = 6
_LOWEST_S: Final = 0.005  # bounds of the buckets
_HIGHEST_S: Final = 10.0


def report_of(seen: Snapshot, seconds: float | None) -> dict[str, Any]:
    """The figures as JSON values.

    Parameters
    ----------
    seen
        The series since the server started, or what happened between two looks.
    seconds
        Between the two looks; without it there are no rates.
    """
    versions = seen.by("cxr_requests_total", "model_version", {"ModelName": MODEL_NAME})
    answered = seen.total("ts_inference_requests_total")
    queued_s = seen.total("ts_queue_latency_microseconds_total") / 1e6
    return {
        "at": round(seen.at, 3),
        "seconds": None if seconds is None else round(seconds, 3),
        "versions": {version: _version(seen, version, seconds) for version in sorted(versions, key=_order)},
        "server": {
            "replies": {kind: seen.total(f"Requests{kind.upper()}_total") for kind in ("2xx", "4xx", "5xx")},
            "answered": _answered(seen),
            "mean_queue_s": round(queued_s / answered, _DIGITS) if answered else None,
        },
    }


def _answered(seen: Snapshot) -> dict[str, float | None]:
    """Requests with an answer for at least one film, of all: those that TorchServe refused itself are 5xx alone."""
    outcomes = seen.by("cxr_requests_total", "outcome", {"ModelName": MODEL_NAME})
    reached = sum(count for outcome, count in outcomes.items() if outcome != "failed")
    return _share(outcomes.get("ok", 0.0) + outcomes.get("partial", 0.0), reached + seen.total("Requests5XX_total"))


def _version(seen: Snapshot, version: str, seconds: float | None) -> dict[str, Any]:
    labels = {"ModelName": MODEL_NAME, "model_version": version}
    requests = seen.total("cxr_requests_total", labels)
    codes = seen.by("cxr_requests_total", "code", labels)
    answered = seen.by("cxr_predictions_total", "label", labels)
    films = sum(answered.values())
    return {
        "requests": requests,
        "requests_per_s": round(requests / seconds, _DIGITS) if seconds else None,
        "outcomes": _shares(seen.by("cxr_requests_total", "outcome", labels)),
        "errors": {code: count for code, count in sorted(codes.items()) if count and code != "OK"},
        "films": films,
        "films_per_s": round(films / seconds, _DIGITS) if seconds else None,
        "labels": _shares(answered),
        "indeterminate": _share(seen.total("cxr_indeterminate_total", labels), films),
        "rescored": _share(seen.total("cxr_rescored_total", labels), films),
        "formats": _shares(seen.by("cxr_images_total", "format", labels)),
        "mean_probability": _rounded(seen.mean("cxr_probability_pneumonia", labels)),
        "mean_batch_size": _rounded(seen.mean("cxr_batch_size", labels)),
        "latency_s": {stage: _latency(seen, f"cxr_{stage}_seconds", labels) for stage in STAGES},
        "drift": _drift(seen, labels),
        "sandbox": {wall: bool(stands) for wall, stands in sorted(seen.by("cxr_sandbox_wall", "wall", labels).items())},
    }


def _drift(seen: Snapshot, labels: Mapping[str, str]) -> dict[str, Any]:
    limits = seen.by("cxr_drift_psi_limit", "signal", labels)
    indices = seen.by("cxr_drift_psi", "signal", labels)
    return {
        "films": seen.total("cxr_drift_films", labels),
        "signals": {
            name: {"psi": round(psi, _DIGITS), "limit": round(limits[name], _DIGITS), "shifted": psi > limits[name]}
            for name, psi in sorted(indices.items())
            if name in limits
        },
    }


def _latency(seen: Snapshot, name: str, labels: Mapping[str, str]) -> dict[str, float | None]:
    return {
        "count": seen.total(f"{name}_count", labels),
        "mean": _rounded(seen.mean(name, labels)),
        "p50": _rounded(seen.quantile(name, 0.50, labels)),
        "p95": _rounded(seen.quantile(name, 0.95, labels)),
    }


def _shares(counts: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
    total = sum(counts.values())
    return {name: _share(count, total) for name, count in sorted(counts.items())}


def _share(count: float, total: float) -> dict[str, float | None]:
    return {"count": count, "share": round(count / total, _DIGITS) if total else None}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)


def _order(version: str) -> tuple[bool, Any]:
    """Newest last, and what is no version of ours before all."""
    parsed = Version.parse(version)
    return (False, version) if parsed is None else (True, parsed)


def lines_of(report: Mapping[str, Any]) -> list[str]:
    """The figures as text for a terminal."""
    seconds = report["seconds"]
    lines = ["since the server started" if seconds is None else f"in the last {seconds:.0f} s"]
    server = report["server"]
    replies = "  ".join(f"{kind} {count:.0f}" for kind, count in server["replies"].items())
    lines.append(
        f"  TorchServe's replies, looks at the metrics included: {replies}; queue {_ms(server['mean_queue_s'])}"
    )
    lines.append(f"  answered, of all requests: {_percent(server['answered'])}")
    if not report["versions"]:
        lines.append("  no worker has been ready yet")
    for version, one in report["versions"].items():
        lines += ["", f"{MODEL_NAME} {version}", *(f"  {line}" for line in _version_lines(one))]
    return lines


def _version_lines(one: Mapping[str, Any]) -> list[str]:
    rate = "" if one["requests_per_s"] is None else f" ({one['requests_per_s']:.2f}/s)"
    lines = [f"requests   {one['requests']:.0f}{rate}   {_mix(one['outcomes'])}"]
    if one["errors"]:
        lines.append("errors     " + "  ".join(f"{code} {count:.0f}" for code, count in one["errors"].items()))
    again = f"   scored again {_percent(one['rescored'])}" if one["rescored"]["count"] else ""
    lines.append(
        f"films      {one['films']:.0f}   {_mix(one['labels'])}   indeterminate {_percent(one['indeterminate'])}{again}"
    )
    lines.append(f"formats    {_mix(one['formats'])}")
    lines.append(f"{'stage':<11}{'mean':>10}{'p50':>10}{'p95':>10}")
    for stage, latency in one["latency_s"].items():
        quantiles = "".join(f"{_quantile(latency[column]):>10}" for column in ("p50", "p95"))
        lines.append(f"{stage:<11}{_ms(latency['mean']):>10}{quantiles}")
    size = one["mean_batch_size"]
    lines.append(f"batch size {'-' if size is None else f'{size:.2f}'}")
    drift = one["drift"]
    if not drift["signals"]:
        lines.append("drift      none published: too few films yet, or an archive without a reference")
    for name, signal in drift["signals"].items():
        verdict = "SHIFTED" if signal["shifted"] else "as before"
        lines.append(f"drift      {name:<10} PSI {signal['psi']:6.3f}   limit {signal['limit']:.3f}   {verdict}")
    if walls := one["sandbox"]:
        missing = [wall for wall, stands in walls.items() if not stands]
        lines.append(f"sandbox    {'without ' + ', '.join(missing) if missing else 'all walls stand'}")
    return lines


def _mix(shares: Mapping[str, Mapping[str, float | None]]) -> str:
    return "  ".join(f"{name} {_percent(one)}" for name, one in shares.items() if one["count"]) or "-"


def _percent(one: Mapping[str, float | None]) -> str:
    return "-" if one["share"] is None else f"{100 * one['share']:.1f} %"


def _quantile(seconds: float | None) -> str:
    """Within the bounds of TorchServe 0.12's buckets, beyond which a quantile says no more than that."""
    if seconds is not None and seconds <= _LOWEST_S:
        return f"< {1000 * _LOWEST_S:g} ms"
    if seconds is not None and seconds >= _HIGHEST_S:
        return f"> {_HIGHEST_S:g} s"
    return _ms(seconds)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.1f} ms"
