"""A page of metrics as Prometheus' own library writes it, with figures that are easy to compute by hand."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_MODEL = ("pneumonia", "1.0.0")
_LABELS = ("ModelName", "model_version")


def exposition(rounds: int = 1) -> str:
    """Ten requests a round, two of them too small; eight films, four decodes of 20 ms, a score that has shifted."""
    registry = CollectorRegistry()
    requests = Counter("cxr_requests_total", "", (*_LABELS, "outcome", "code"), registry=registry)
    requests.labels(*_MODEL, "ok", "OK").inc(8 * rounds)
    requests.labels(*_MODEL, "refused", "TOO_SMALL").inc(2 * rounds)
    films = Counter("cxr_predictions_total", "", (*_LABELS, "label"), registry=registry)
    films.labels(*_MODEL, "NORMAL").inc(6)
    films.labels(*_MODEL, "PNEUMONIA").inc(2)
    Counter("cxr_indeterminate_total", "", _LABELS, registry=registry).labels(*_MODEL).inc()
    Counter("cxr_rescored_total", "", _LABELS, registry=registry).labels(*_MODEL).inc(2)
    # Two in 0 to 0.025 and two in 0.025 to 0.05.
    decode = Histogram("cxr_decode_seconds", "", _LABELS, registry=registry, buckets=(0.025, 0.05, 10.0))
    for seconds in (0.005, 0.015, 0.03, 0.03):
        decode.labels(*_MODEL).observe(seconds)
    for name, values in (("cxr_drift_psi", (0.6, 0.1)), ("cxr_drift_psi_limit", (0.25, 0.25))):
        gauge = Gauge(name, "", (*_LABELS, "signal"), registry=registry)
        for signal, value in zip(("score", "aspect"), values, strict=True):
            gauge.labels(*_MODEL, signal).set(value)
    Counter("ts_queue_latency_microseconds", "", registry=registry).inc(160_000)
    Counter("ts_inference_requests_total", "", registry=registry).inc(8)
    return generate_latest(registry).decode()
