from __future__ import annotations

import json
from pathlib import Path

import pytest

from cxr_client import InferenceClient, ServerUnreachable
from pneumoscan.versions.compare import Answer, Comparison, Pair, ask, compare
from pneumoscan.versions.limits import Limits, films_needed, mean, share
from pneumoscan.versions.tables import comparison_table
from tests.film_server import Answer as Reply
from tests.film_server import FilmServer, serving
from tests.pneumoscan.managed import busy_then, films_of

OLD, NEW = "1.0.0", "1.1.0"


def answered(probability: float) -> Answer:
    return Answer("PNEUMONIA" if probability > 0.5 else "NORMAL", probability)


def comparison(*pairs: tuple[Answer, Answer], limits: Limits | None = None) -> Comparison:
    made = tuple(Pair(Path(f"{number}.png"), old, new) for number, (old, new) in enumerate(pairs))
    return Comparison(OLD, NEW, made, limits or Limits())


REFUSED = Answer(code="TOO_SMALL")


def test_flips_shifts_and_errors_are_what_they_are_by_hand() -> None:
    found = comparison(
        (answered(0.4), answered(0.6)),  # flips
        (answered(0.9), answered(0.8)),
        (answered(0.2), answered(0.2)),
        (REFUSED, REFUSED),  # alike
        (answered(0.7), REFUSED),
        (Answer(code="TOO_MANY_PIXELS"), REFUSED),
    ).to_dict()
    figures = {"films": 6, "compared": 3, "flips": 1, "errors": 2, "refused_by_both": 1, "passed": False}
    assert {name: found[name] for name in figures} == figures
    assert found["mean_shift"] == pytest.approx(0.1)
    assert found["mean_signed_shift"] == pytest.approx(0.1 / 3)
    assert found["max_shift"] == pytest.approx(0.2)
    assert found["p50_shift"] == pytest.approx(0.1)
    assert [pair["shift"] for pair in found["pairs"]][3:] == [None, None, None]
    json.dumps(found, allow_nan=False)


def test_limits_are_passed_by_more_and_not_by_as_much() -> None:
    pairs = [(answered(0.4), answered(0.6))] + [(answered(0.1), answered(0.1))] * 3
    assert comparison(*pairs, limits=Limits(flips=0.25, shift=0.05 + 1e-9)).failures == []
    (failure,) = comparison(*pairs, limits=Limits(flips=0.24, shift=1)).failures
    assert failure == "25.0% of the labels flipped, 24.0% are allowed"
    (failure,) = comparison(*pairs, limits=Limits(flips=1, shift=0.04)).failures
    assert failure == "the mean shift is 0.05, 0.04 is allowed"


def test_bounds_are_those_of_the_tables() -> None:
    """Clopper and Pearson by hand: 0 of n gives 1 - 0.05^(1/n), n of n the mirror; 1 of 10 is R's binom.test."""
    assert share(0, 59).high == pytest.approx(1 - 0.05 ** (1 / 59))
    assert share(59, 59).low == pytest.approx(0.05 ** (1 / 59))
    assert (share(1, 10).low, share(1, 10).high) == pytest.approx((0.005116, 0.394163), abs=1e-6)
    assert (share(0, 0).low, share(0, 0).high) == (0, 1)
    assert films_needed(0.05) == 59
    assert films_needed(0.0) is None
    # 0.1 and 0.3: mean 0.2, standard error 0.1, t(0.95; 1) = 6.3138
    assert mean(2, 0.4, 0.1).high == pytest.approx(0.2 + 0.1 * 6.313752)
    assert (mean(1, 0.1, 0.01).low, mean(1, 0.1, 0.01).high) == (0, 1)


def test_as_many_films_pass_as_the_limit_needs_and_one_fewer_are_too_few() -> None:
    same = (answered(0.1), answered(0.1))
    assert comparison(*[same] * 59).is_passed
    found = comparison(*[same] * 58)
    assert (found.is_passed, found.failures) == (False, [])
    assert "59 films without a flip show it" in found.doubts[0]
    assert not found.verified("a").decided
    flipped = comparison(*[(answered(0.4), answered(0.6))] * 2)
    assert (flipped.verified("a").decided, flipped.is_passed) == (True, False)


def test_a_film_that_one_version_alone_answers_fails_whatever_the_limits() -> None:
    loose = Limits(1, 1)
    assert comparison((answered(0.1), REFUSED), (answered(0.1), answered(0.1)), limits=loose).failures != []
    assert comparison((REFUSED, answered(0.1)), (answered(0.1), answered(0.1)), limits=loose).failures != []


def test_films_that_nobody_answers_show_nothing() -> None:
    found = comparison((REFUSED, REFUSED), limits=Limits(1, 1))
    assert found.failures == ["no film was answered by both versions"]
    assert not found.verified("a").passed
    assert "no film was answered" in comparison_table(found)


def test_the_table_shows_what_differs_the_largest_shift_first() -> None:
    found = comparison(
        (answered(0.45), answered(0.55)),
        (answered(0.9), answered(0.9)),
        (answered(0.9), answered(0.1)),
        (answered(0.9), REFUSED),
    )
    lines = comparison_table(found).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["3.png", "2.png", "0.png"]
    assert "TOO_SMALL" in lines[1]
    assert "-0.8000" in lines[2]
    assert "1.png" not in "".join(lines)


@pytest.fixture
def films(tmp_path: Path) -> list[Path]:
    for number in range(10):
        (tmp_path / f"{number}").write_bytes(bytes([5 + 25 * number]))
    (tmp_path / "9 again").write_bytes(bytes([230]))
    (tmp_path / "bad").write_bytes(b"bad")
    return sorted(tmp_path.iterdir())


def test_both_versions_are_asked_by_name_through_rest(films: list[Path]) -> None:
    with serving(FilmServer()) as server:
        films_of(server, {NEW: 0.1})
        found = compare(server.url, OLD, NEW, films, Limits(), jobs=3)
    assert {asked.path for asked in server.asked} == {f"/predictions/pneumonia/{version}" for version in (OLD, NEW)}
    assert [pair.film for pair in found.pairs] == [path for path in films if path.name != "9 again"]
    # Bytes 105 + 0.1 * 255 > 127.5: one label flips.
    assert [pair.film.name for pair in found.flipped] == ["4"]
    assert found.shifts[:9] == pytest.approx([0.1] * 9)
    assert found.to_dict()["refused_by_both"] == 1


def test_a_server_that_is_busy_is_asked_again() -> None:
    with serving(FilmServer()) as server, InferenceClient(server.url) as client:
        reply = {"label": "NORMAL", "probabilities": {"PNEUMONIA": 0.25}}
        server.answer = busy_then(2, Reply(body=json.dumps(reply).encode()))
        assert ask(client, b"x", OLD) == Answer("NORMAL", 0.25)
        server.answer = busy_then(99, Reply())
        assert ask(client, b"x", OLD, patience_s=0.1) == Answer(code="OVERLOADED")


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"label": "NORMAL"}', b"\xff"])
def test_a_reply_that_is_none_is_an_error_of_that_version(body: bytes) -> None:
    with serving(FilmServer(lambda _: Reply(body=body))) as server, InferenceClient(server.url) as client:
        assert ask(client, b"x", OLD) == Answer(code="BAD_REPLY")


def test_a_server_that_is_gone_ends_the_comparison(films: list[Path]) -> None:
    with pytest.raises(ServerUnreachable):
        compare("http://127.0.0.1:9", OLD, NEW, films, Limits())
