"""The comparer without nginx: films as the mirror brings them, lines as the log has them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pneumoscan.edge import comparer as module
from pneumoscan.edge import nginx
from pneumoscan.edge.comparer import ANSWERS, PAIRS_NAME, Comparer
from pneumoscan.versions.trial import Tally, Trial, read_tally, read_trial, write_trial
from tests.film_server import Answer, Asked, FilmServer, serving

TRIAL = Trial("1.1.0", "shadow", 1.0, "2026-01-01T00:00:00.000001Z")
PATH = "/predictions/pneumonia"


def answer(asked: Asked) -> Answer:
    """The new version says 0.3; to a film that begins with "gone" it says what TorchServe says without it."""
    if asked.body.startswith(b"gone"):
        return Answer(404, b"{}")
    if asked.body.startswith(b"full"):
        return Answer(503, b"{}")
    version = asked.path.split("/")[3] if asked.path.count("/") == 3 else "1.0.0"
    return Answer(200, b"{}", {"Cxr-Answer": f"label=NORMAL; p=0.300000; version={version}"})


class Place:
    """A comparer in a folder of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.told = folder, list[str]()
        self.comparer = Comparer(folder, [url.removeprefix("http://")], self.told.append)
        (folder / "logs").mkdir()
        self.log = folder / ANSWERS
        self.log.parent.mkdir()
        self.log.touch()

    def say(self, *lines: str) -> None:
        with self.log.open("a") as log:
            log.writelines(f"{line}\n" for line in lines)

    def tally(self, until: Callable[[Tally], bool]) -> Tally:
        deadline = time.monotonic() + 30
        while not until(found := read_tally(self.folder, TRIAL)):
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
        return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(module, "_JUDGED_S", 0.02)
    monkeypatch.setattr(nginx, "_QUIET_S", 0.05)
    write_trial(tmp_path, TRIAL)
    with serving(FilmServer(answer)) as films:
        place = Place(tmp_path, films.url)
        place.comparer.start()
        yield place
        place.comparer.stop()


def line(pair: str, label: str = "NORMAL", probability: float = 0.25, seconds: str = "0.100") -> str:
    return f"{pair}\trequest-{pair}\t\t200\t{seconds}\tlabel={label}; p={probability:.6f}; version=1.0.0"


def test_a_film_and_its_line_make_a_pair_and_a_line_without_a_film_none(place: Place) -> None:
    place.comparer.offer("a", PATH, {"cxr-view": "PA", "cookie": "secret"}, b"film")
    place.say(line("a", seconds="0.050, 0.070 : 0.080"), line("b"), "nonsense", line("c")[:-20])
    found = place.tally(lambda tally: tally.compared + tally.unpaired == 3)
    assert (found.compared, found.unpaired, found.stable_seconds) == (1, 2, pytest.approx(0.2))
    assert found.figures.mean_shift.value == pytest.approx(0.05)
    (pair,) = map(json.loads, (place.folder / "logs" / PAIRS_NAME).read_text().splitlines())
    assert (pair["request_id"], pair["stable"]["version"], pair["trial"]["version"]) == ("request-a", "1.0.0", "1.1.0")
    assert "secret" not in str(pair)


def test_a_version_that_is_gone_fails_and_one_that_is_busy_does_not(place: Place) -> None:
    for name in ("gone", "full"):
        place.comparer.offer(name, PATH, {}, name.encode())
        place.say(line(name))
    found = place.tally(lambda tally: tally.errors + tally.unpaired == 2)
    assert (found.errors, found.unpaired, found.compared) == (1, 1, 0)


def test_films_that_do_not_fit_make_no_pair(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BYTES_HELD", 10)
    for name in ("a", "b"):
        place.comparer.offer(name, PATH, {}, bytes(8))
    place.say(line("a"), line("b"))
    found = place.tally(lambda tally: tally.compared + tally.unpaired == 2)
    assert (found.compared, found.unpaired) == (1, 1)
    place.comparer.offer("c", PATH, {}, bytes(8))  # there is room again
    place.say(line("c"))
    assert place.tally(lambda tally: tally.compared == 2).unpaired == 1


def test_a_log_that_was_moved_away_is_read_to_its_end_and_the_next_one_then(place: Place) -> None:
    place.say(line("a"))
    place.tally(lambda tally: tally.unpaired == 1)
    old = place.log.rename(place.log.with_name("answers.log.1"))
    with old.open("a") as log:
        log.write(line("b") + "\n")
    place.say(line("c"))
    place.tally(lambda tally: tally.unpaired == 3)


def test_a_trial_that_goes_badly_is_ended_once_and_told(place: Place) -> None:
    for number in range(25):
        place.comparer.offer(str(number), PATH, {}, b"film")
        place.say(line(str(number), "PNEUMONIA", 0.9))
    deadline = time.monotonic() + 30
    while (ended := read_trial(place.folder)) is None or not ended.was_rolled_back:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert place.comparer.place("any") == ("", "")
    assert place.told == [f"the shadow of 1.1.0 was {ended.ended}"]
    assert 'pneumoscan_edge_trial_rolled_back{version="1.1.0",kind="shadow"} 1' in place.comparer.metrics()
    write_trial(place.folder, replace(TRIAL, at="later", kind="canary"))
    assert place.comparer.place("any") == ("1.1.0", "1")


def test_a_damaged_file_is_told_and_puts_nobody_on_trial(place: Place) -> None:
    (place.folder / "trial.json").write_text("{")
    assert place.comparer.place("any") == place.comparer.place("other") == ("", "")
    assert len(place.told) == 1
    assert "begin the trial again" in place.told[0]
