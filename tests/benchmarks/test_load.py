"""What is made of the answers, and how the results are kept and shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.client import NO_REPLY, Answer
from benchmarks.command import main
from benchmarks.load import poisson, rate, summary
from benchmarks.output import read_result, write_result
from benchmarks.plot import plot_load
from benchmarks.servers import WrongUsage
from benchmarks.tables import page_with, table_of
from pneumoscan.files import write_whole


def answered(done: float, *, due: float = 0.0, code: str = "") -> Answer:
    return Answer(due=due, sent=due, done=done, status=503 if code else 200, code=code)


@pytest.mark.parametrize("together", [1, 2, 5])
def test_the_rate_is_right_where_workers_end_in_step_and_the_window_ends_anywhere(together: int) -> None:
    done = [0.25 * (1 + k // together) for k in range(10 * together)]
    assert rate([at for at in done if at <= 2.4], 2.4) == pytest.approx(together / 0.25)


def test_a_rate_of_two_answers_is_their_number_over_the_time() -> None:
    assert rate([1.0, 2.0], 4.0) == 0.5
    assert rate([], 4.0) == 0.0


def test_arrivals_have_the_asked_rate_exponential_gaps_and_the_same_seed_the_same_times() -> None:
    plan = poisson(50.0, 200.0, 1.0, seed=3)
    gaps = np.diff(plan.times)
    assert len(plan.times) == pytest.approx(10_000, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # of an exponential distribution
    assert plan.times[-1] < 200.0
    assert plan == poisson(50.0, 200.0, 1.0, seed=3)


def test_refusals_are_counted_apart_from_answers_and_errors() -> None:
    answers = [
        *(answered(0.1 * k, due=0.1 * k - 0.05) for k in range(1, 11)),
        answered(0.51, due=0.5, code="OVERLOADED"),
        answered(0.52, due=0.5, code="ServiceUnavailableException"),
        answered(0.9, due=0.5, code=NO_REPLY),
    ]
    found = summary(answers, 2.0)
    assert (found["sent"], found["answered"]) == (13, 10)
    assert found["latency_ms"]["p50"] == pytest.approx(50)
    assert found["refused"]["count"] == 2
    assert found["refused"]["codes"] == {"OVERLOADED": 1, "ServiceUnavailableException": 1}
    assert found["refused"]["latency_ms"]["max"] == pytest.approx(20)
    assert found["errors"] == {NO_REPLY: 1}
    assert found["films_per_s"] == pytest.approx(10)


def test_a_load_that_nobody_answers_has_no_latency_and_no_rate() -> None:
    found = summary([answered(0.5, code=NO_REPLY)] * 3, 1.0)
    assert found["films_per_s"] == 0
    assert found["latency_ms"] == {}


def row(**more: Any) -> dict[str, Any]:
    latency = {"p50": 10.0, "p95": 20.0, "p99": 30.0, "max": 31.0}
    refused = {"count": 3, "latency_ms": latency, "codes": {"OVERLOADED": 3}}
    memory = {"before": 1.0, "peak": 3.0, "after": 2.0}
    common = {"sent": 12, "answered": 9, "films_per_s": 4.5, "latency_ms": latency, "refused": refused, "errors": {}}
    return common | {"cpu_s_per_film": 0.2, "memory_mb": memory} | more


RESULT: dict[str, Any] = {
    "what": "serve",
    "machine": {"processor": "Some CPU", "cores": 2, "memory_gb": 8.0, "versions": {"torch": "2"}},
    "settings": {"seconds": 5.0},
    "films": {"one": 1},
    "client": [{"body_kb": 1.0, "cpu_ms": 0.01, "p50_ms": 0.02}],
    "layout": {"processes": 2, "threads": 1, "batch": 1},
    "closed": [row(clients=1), row(clients=4)],
    "open": [row(part=0.5, offered_per_s=2.2), row(part=3.0, offered_per_s=13.5, latency_ms={}, answered=0)],
}


def test_a_table_names_the_machine_and_has_a_line_for_each_load() -> None:
    shown = table_of(RESULT)
    assert shown.startswith("Some CPU, 2 cores, 8 GB; torch 2")
    for line in ("closed, 1 clients", "closed, 4 clients", "open, 0.5 x capacity", "open, 3 x capacity"):
        assert line in shown


def test_results_go_between_their_marks_and_nothing_else_of_the_page_changes() -> None:
    page = "before\n<!-- bench:serve -->\nold\n<!-- /bench -->\nafter <!-- bench:cam --><!-- /bench -->\n"
    filled = page_with(page, [RESULT])
    assert filled.startswith("before\n<!-- bench:serve -->\n```text\nSome CPU")
    assert filled.endswith("```\n<!-- /bench -->\nafter <!-- bench:cam --><!-- /bench -->\n")
    assert page_with(filled, [RESULT]) == filled
    with pytest.raises(WrongUsage, match="0 places for serve"):
        page_with("nothing here", [RESULT])


def test_the_page_has_a_place_for_every_result() -> None:
    page = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    for what in ("serve", "peers", "decode", "cam", "raw"):
        assert page.count(f"<!-- bench:{what} -->") == 1


def test_latency_over_load_is_drawn_also_where_nothing_was_answered(tmp_path: Path) -> None:
    plot_load(RESULT, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_result(tmp_path / "r.json", RESULT)
    assert read_result(tmp_path / "r.json") == json.loads(json.dumps(RESULT))
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(WrongUsage, match="no result"):
        read_result(tmp_path / "other.json")


def test_a_file_that_cannot_be_made_leaves_the_old_one_and_no_draft(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("old")

    def fail(draft: Path) -> None:
        draft.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(tmp_path / "r.json", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    assert (tmp_path / "r.json").read_text() == "old"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["serve"], "one of the arguments --archive --url is required"),
        (["serve", "--archive", "lost.mar"], "lost.mar is not a file"),
        (["serve", "--url", "ftp://x"], "give http://HOST:PORT"),
        (["serve", "--url", "http://127.0.0.1:1", "--workers", "2"], "leave out --url"),
        (["serve", "--archive", "a.mar", "--clients", "1,0"], "0 is not 1 or more"),
        (["serve", "--archive", "a.mar", "--rate", "0.5,-1"], "not above 0"),
        (["serve", "--archive", "a.mar", "--seconds", "nan"], "not above 0"),
        (["peers", "--archive", "lost.mar", "--parts", "all"], "give null, model or null,model"),
        (["peers", "--archive", "lost.mar"], "lost.mar is not a model archive"),
        (["peers", "--archive", "lost.mar", "--python", "/no/python"], "is not a Python that runs"),
        (["page", "lost.json"], "lost.json"),
    ],
)
def test_wrong_usage_is_told_in_a_line(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = int(str(ended.code))
    assert code == 2
    assert why in capsys.readouterr().err


def test_a_result_replaces_a_file_only_when_asked_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "raw.json"
    command = ["raw", "--arch", "resnet10", "--device", "cpu", "--batch", "1", "--repeats", "1", "--out", str(out)]
    assert main(command) == 0
    first = out.read_bytes()
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    assert "--force" in capsys.readouterr().err
    assert out.read_bytes() == first
    assert main([*command, "--force"]) == 0
    assert read_result(out)["arch"] == "resnet10"
    capsys.readouterr()
    assert main([*command, "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_result(out)
