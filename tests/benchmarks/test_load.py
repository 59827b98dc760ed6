"""What is made of the answers, and how the results are kept and shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.client import NO_REPLY, Answer
from benchmarks.host import Host
from benchmarks.load import poisson, rate, summary
from benchmarks.result import (
    Column,
    Figure,
    Figures,
    Result,
    Row,
    Table,
    over_rounds,
    page_with,
    ratio_of,
    read_json,
    read_result,
    text_of,
    write_result,
)
from benchmarks.serve import LOAD_COLUMNS, plot_load
from pneumoscan.errors import UsageError
from pneumoscan.files import write_whole
from tests.commands import run_command


def answered(done: float, *, due: float = 0.0, code: str = "") -> Answer:
    return Answer(due=due, sent=due, done=done, status=503 if code else 200, code=code)


def medians(figures: Figures) -> dict[str, float]:
    return {name: figure.median for name, figure in figures.items()}


@pytest.mark.parametrize("together", [1, 2, 5])
def test_the_rate_is_right_where_workers_end_in_step_and_the_window_ends_anywhere(together: int) -> None:
    done = [0.25 * (1 + k // together) for k in range(10 * together)]
    assert rate([at for at in done if at <= 2.4], 2.4) == pytest.approx(together / 0.25)


def test_a_rate_of_two_answers_is_their_number_over_the_time() -> None:
    assert rate([1.0, 2.0], 4.0) == 0.5
    assert rate([], 4.0) == 0.0


def test_arrivals_have_the_requested_rate_exponential_gaps_and_the_same_seed_the_same_times() -> None:
    plan = poisson(50.0, 200.0, 1.0, seed=3)
    gaps = np.diff(plan.times)
    assert len(plan.times) == pytest.approx(10_000, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # of an exponential distribution
    assert plan.times[-1] < 200.0
    assert plan == poisson(50.0, 200.0, 1.0, seed=3)


def test_refusals_are_counted_separately_from_answers_and_errors() -> None:
    answers = [
        *(answered(0.1 * k, due=0.1 * k - 0.05) for k in range(1, 11)),
        answered(0.51, due=0.5, code="OVERLOADED"),
        answered(0.52, due=0.5, code="ServiceUnavailableException"),
        answered(0.9, due=0.5, code=NO_REPLY),
    ]
    found = medians(summary(answers, 2.0))
    assert (found["sent"], found["answered"]) == (13, 10)
    assert found["p50_ms"] == pytest.approx(50)
    assert found["refused"] == 2
    assert (found["refused OVERLOADED"], found["refused ServiceUnavailableException"]) == (1, 1)
    assert found["refused_max_ms"] == pytest.approx(20)
    assert (found["errors"], found[f"error {NO_REPLY}"]) == (1, 1)
    assert found["films_per_s"] == pytest.approx(10)


def test_a_load_that_nobody_answers_has_no_latency_and_no_rate() -> None:
    found = medians(summary([answered(0.5, code=NO_REPLY)] * 3, 1.0))
    assert found["films_per_s"] == 0
    assert "p50_ms" not in found


def load(**more: float) -> Figures:
    """Figures of a load in which three films of twelve were refused."""
    figures = {"sent": 12, "films_per_s": 4.5, "p50_ms": 10, "p95_ms": 20, "p99_ms": 30, "refused": 3, "errors": 0}
    figures |= {"refused_p99_ms": 31.0, "cpu_s_per_film": 0.2, "memory_peak_mb": 3.0}
    return {name: Figure(value) for name, value in (figures | more).items()}


UNANSWERED = {name: figure for name, figure in load(offered_per_s=13.5).items() if not name.startswith("p")}
LOADS = [
    Row("closed, 1 clients", load(refused=0)),
    Row("closed, 4 clients", load()),
    Row("open, 0.5 x capacity", load(offered_per_s=2.2)),
    Row("open, 3 x capacity", UNANSWERED),
]
HOST = Host("Some CPU", None, 2, 8.0, "Some system", "3.11", {"torch": "2"}, 0.1)
RESULT = Result("serve", {"seconds": 5.0}, HOST, "how", [Table("load", LOAD_COLUMNS, LOADS, width=22, indent=0)])


def test_a_table_names_the_machine_and_has_a_line_for_each_load() -> None:
    assert (
        text_of(RESULT)
        == """\
Some CPU, 2 cores, 8 GB; torch 2
how
                         sent  films/s      p50      p95      p99  refused     p99 errors   CPU s  MB peak
closed, 1 clients          12     4.50     10.0     20.0     30.0        0    31.0      0  0.2000        3
closed, 4 clients          12     4.50     10.0     20.0     30.0        3    31.0      0  0.2000        3
open, 0.5 x capacity       12     4.50     10.0     20.0     30.0        3    31.0      0  0.2000        3
open, 3 x capacity         12     4.50        -        -        -        3    31.0      0  0.2000        3"""
    )


def test_a_row_shows_the_range_of_its_rounds_or_why_there_is_none() -> None:
    columns = [Column("ms", "{:8.2f}", "ms"), Column("ratio", " {:.3f} ({:.3f} to {:.3f})", " ours / it")]
    rows = [
        Row("ours", {"ms": Figure.of([3.0, 1.0, 2.0], "ms")}),
        Row("its", {"ms": Figure(4.0, "ms"), "ratio": ratio_of([1.0, 3.0, 8.0], [2.0, 2.0, 2.0])}),
        Row("once", {"ratio": Figure(0.25)}),
        Row("lost", {}, "skipped: it is not installed\nand more of that"),
    ]
    shown = text_of(Result("peers", {}, HOST, "how", [Table("null", columns, rows, "no model", width=6)]))
    assert shown.splitlines()[2:] == [
        "no model",
        "               ms  ours / it",
        "  ours       2.00",
        "  its        4.00  1.500 (0.500 to 4.000)",
        "  once          -  0.250 (-)",
        "  lost   skipped: it is not installed",
    ]


def test_figures_over_rounds_are_medians_of_the_rounds_that_have_them() -> None:
    found = over_rounds([load(p50_ms=1.0), load(p50_ms=5.0), UNANSWERED])
    assert found["p50_ms"] == Figure(3.0, "", 1.0, 5.0, (1.0, 5.0))
    assert found["offered_per_s"].rounds == (13.5,)


def test_results_go_between_their_marks_and_nothing_else_of_the_page_changes() -> None:
    page = "before\n<!-- bench:serve -->\nold\n<!-- /bench -->\nafter <!-- bench:cam --><!-- /bench -->\n"
    filled = page_with(page, [RESULT])
    assert filled.startswith("before\n<!-- bench:serve -->\n```text\nSome CPU")
    assert filled.endswith("```\n<!-- /bench -->\nafter <!-- bench:cam --><!-- /bench -->\n")
    assert page_with(filled, [RESULT]) == filled
    with pytest.raises(UsageError, match="0 places for serve"):
        page_with("nothing here", [RESULT])


def test_the_page_has_a_place_for_every_result() -> None:
    page = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    for what in ("serve", "peers", "decode", "syntaxes", "cam", "raw"):
        assert page.count(f"<!-- bench:{what} -->") == 1


def test_latency_over_load_is_drawn_also_where_nothing_was_answered(tmp_path: Path) -> None:
    plot_load(RESULT, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_result(tmp_path / "r.json", RESULT)
    found = read_result(tmp_path / "r.json")
    assert text_of(found) == text_of(RESULT)
    assert (found.host, found.settings, found.rows("load")) == (HOST, RESULT.settings, RESULT.rows("load"))
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(UsageError, match="no result"):
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
        (["serve", "--archive", "a.mar", "--clients", "1", "0"], "0 is not 1 or more"),
        (["serve", "--archive", "a.mar", "--rate", "0.5", "0"], "not above 0"),
        (["serve", "--archive", "a.mar", "--seconds", "nan"], "not above 0"),
        (["peers", "--archive", "lost.mar", "--parts", "all"], "invalid choice: 'all'"),
        (["peers", "--archive", "lost.mar"], "lost.mar is not a model archive"),
        (["peers", "--archive", "lost.mar", "--python", "/no/python"], "is not a Python that runs"),
        (["page", "lost.json"], "lost.json"),
    ],
)
def test_wrong_usage_is_reported_in_a_line(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("bench", arguments) == 2
    assert why in capsys.readouterr().err


def test_a_result_replaces_a_file_only_with_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "raw.json"
    command = ["raw", "--arch", "resnet10", "--device", "cpu", "--batch", "1", "--repeats", "1", "--out", str(out)]
    assert run_command("bench", command) == 0
    first = out.read_bytes()
    assert run_command("bench", command) == 2
    assert "--force" in capsys.readouterr().err
    assert out.read_bytes() == first
    assert run_command("bench", [*command, "--force"]) == 0
    assert read_result(out).settings["arch"] == "resnet10"
    capsys.readouterr()
    assert run_command("bench", [*command, "--force", "--json"]) == 0
    assert read_json(capsys.readouterr().out) == read_result(out)
