"""How a request came, by its headers; and a film whose client has left."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from cxr.serving.arrival import LEFT_VARIABLE, Arrival
from cxr.serving.metrics import BOUNDS, BatchMetrics
from cxr.serving.reply import ModelIdentity
from cxr.serving.service import BatchService, IncomingRequest
from tests.cxr.networks import predictor, save_model
from tests.films import encoded, film

NOW = 1_700_000_000.0
TICKET = "0af7651916cd43dd8448eb211c80319c"
# The example of W3C Trace Context, section 3.2
PARENT = f"00-{TICKET}-b7ad6b7169203331-01"


@pytest.fixture
def service(tmp_path: Path) -> BatchService:
    spec = save_model(tmp_path)
    return BatchService(predictor(tmp_path), ModelIdentity.of(spec, "pneumonia", "1.0.0"))


def test_ids_and_times_that_can_be_true_are_taken_over() -> None:
    headers = {"X-Request-Id": TICKET, "Traceparent": PARENT, "x-request-start": f"t={NOW - 1.5:.3f}"}
    came = Arrival.of(headers, "server's own", NOW)
    assert (came.request_id, came.trace_parent) == (TICKET, PARENT)
    assert came.waited_s == pytest.approx(1.5)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Request-Id": "Doe^Jane", "traceparent": "Doe^Jane", "X-Request-Start": "Doe", "Cxr-Ticket": "../Doe"},
        {"X-Request-Id": "abc", "traceparent": f"00-{'0' * 32}-b7ad6b7169203331-01", "X-Request-Start": "t=0"},
        {"X-Request-Id": f"{TICKET}\n", "traceparent": PARENT.upper(), "X-Request-Start": f"t={NOW + 60}"},
        {"X-Request-Id": b"\xff", "traceparent": f"{PARENT}-1", "X-Request-Start": f"{NOW}"},
    ],
)
def test_what_cannot_be_believed_is_as_if_it_were_not_there(headers: dict[str, str]) -> None:
    assert Arrival.of(headers, "server's own", NOW) == Arrival("server's own")


def test_a_film_whose_client_left_is_not_computed_and_counted_for_itself(
    service: BatchService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "left"
    left.mkdir()
    (left / TICKET).touch()
    monkeypatch.setenv(LEFT_VARIABLE, str(left))
    body, stays = {"body": encoded(film())}, "1" * 32
    measured = BatchMetrics()
    batch = [IncomingRequest(body, {"Cxr-Ticket": ticket}, "id") for ticket in (TICKET, stays, "")]
    assert [reply.status for reply in service.answer(batch, measured)] == [499, 200, 200]
    assert measured.counts["cxr_abandoned_total", ()] == 1
    assert measured.counts["cxr_requests_total", ("ok", "OK")] == 2
    assert measured.counts["cxr_images_total", ("PNG",)] == 2


def test_the_reply_has_the_id_that_its_sender_gave(service: BatchService) -> None:
    replies = service.answer(
        [IncomingRequest({"body": body}, {"X-Request-Id": TICKET}, "id") for body in (encoded(film()), b"no film")]
    )
    assert [f'"request_id": "{TICKET}"'.encode() in reply.body for reply in replies] == [True, True]


def test_a_request_is_timed_in_buckets_that_are_a_histogram() -> None:
    measured = BatchMetrics()
    measured.time_request(0.3)
    counts = [measured.counts["cxr_request_seconds_bucket", (bound,)] for bound in BOUNDS]
    assert counts == sorted(counts)
    assert next(bound for bound, count in zip(BOUNDS, counts, strict=True) if count) == "0.315"
    assert BOUNDS[-1] == "+Inf"
    below = [float(bound) for bound in BOUNDS]
    assert all(1 < high / low < 1.3 for low, high in itertools.pairwise(below[:-1]))
    assert measured.values == [(("cxr_request_seconds_sum", ()), 0.3)]


def test_wait_and_whole_time_are_measured_where_somebody_says_when_a_request_was_sent(service: BatchService) -> None:
    measured, sent = BatchMetrics(), time.time() - 7
    body = {"body": encoded(film())}
    service.answer(
        [IncomingRequest(body, {"X-Request-Start": f"t={sent:.3f}"}, ""), IncomingRequest(body, {}, "")], measured
    )
    times = dict(measured.values)
    assert 7 <= times["cxr_queue_seconds", ()] <= times["cxr_request_seconds_sum", ()]
    assert measured.counts["cxr_request_seconds_count", ()] == 1
