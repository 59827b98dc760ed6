"""Canary and shadow at a real edge, before a server that answers for two versions at once and costs nothing."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
from scipy.stats import binom

from pneumoscan.edge.comparer import PAIRS_NAME
from tests.commands import run_command
from tests.e2e.edges import Edge, fresh_edge
from tests.film_server import Answer, Asked, FilmServer, problem, serving
from tests.programs import NEEDS_NGINX

pytestmark = [pytest.mark.e2e, NEEDS_NGINX]

STABLE, NEW = "1.0.0", "1.1.0"


@dataclass
class Versions:
    """What two versions say: a probability by the film's first byte, that of the new one shifted.

    Parameters
    ----------
    shift
        Of the new version's probability.
    missing
        The new version is not there, as TorchServe says it.
    """

    shift: float = 0.01
    missing: bool = False
    asked: Counter[str] = field(default_factory=Counter)

    def answer(self, asked: Asked) -> Answer:
        version = asked.path.split("/")[3] if asked.path.count("/") == 3 else STABLE
        self.asked[version] += 1
        if version == NEW and self.missing:
            return Answer(404, b'{"code": 404, "type": "ModelVersionNotFoundException"}')
        if asked.body.startswith(b"bad"):
            said = problem(422, "TOO_SMALL", "Too small.")
            return Answer(said.status, said.body, said.headers | {"Cxr-Answer": f"code=TOO_SMALL; version={version}"})
        probability = round(min(1.0, asked.body[0] / 255 + self.shift * (version == NEW)), 6)
        label = "PNEUMONIA" if probability > 0.5 else "NORMAL"
        reply = {"model": {"version": version}, "label": label, "probabilities": {"PNEUMONIA": probability}}
        line = f"label={label}; p={probability:.6f}; version={version}"
        return Answer(200, json.dumps(reply).encode(), {"Content-Type": "application/json", "Cxr-Answer": line})


@pytest.fixture(scope="module")
def films() -> Iterator[FilmServer]:
    with serving(FilmServer()) as films:
        yield films


@pytest.fixture(scope="module")
def edge(films: FilmServer) -> Iterator[Edge]:
    films.answer = Versions().answer
    metrics = films.url.removeprefix("http://")
    with fresh_edge([films.url], "--metrics", metrics, "--metrics-allow", "127.0.0.1/32") as edge:
        yield edge


@pytest.fixture
def versions(films: FilmServer, edge: Edge) -> Iterator[Versions]:
    made = Versions()
    films.answer = made.answer
    yield made
    models(edge, "end")


def models(edge: Edge, *arguments: str) -> int:
    return run_command("models", [*arguments, "--edge", str(edge.run_dir.path)])


def ask(edge: Edge, films: list[bytes], path: str = "/predictions/pneumonia") -> list[requests.Response]:
    """Several clients, one film after the other."""
    with requests.Session() as session, ThreadPoolExecutor(4) as pool:
        session.headers["Authorization"] = f"Bearer {edge.key}"
        return list(
            pool.map(
                lambda film: session.post(f"{edge.url}{path}", data=film, verify=str(edge.believed), timeout=60), films
            )
        )


def looked(edge: Edge, capsys: pytest.CaptureFixture[str], until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What `models compare` says, once it says what is waited for."""
    deadline = time.monotonic() + 60
    while True:
        capsys.readouterr()
        models(edge, "compare", "--json")
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        if until(found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def settled(count: int) -> Callable[[dict[str, Any]], bool]:
    return lambda found: found["compared"] + found["errors"] + found["refused_by_both"] + found["unpaired"] >= count


def pairs(edge: Edge) -> dict[str, dict[str, Any]]:
    lines = (edge.run_dir.logs / PAIRS_NAME).read_text().splitlines()
    return {entry["request_id"]: entry for entry in map(json.loads, lines)}


def test_a_shadow_changes_no_answer_and_its_verdict_is_that_of_the_clients_own_records(
    edge: Edge, versions: Versions, capsys: pytest.CaptureFixture[str]
) -> None:
    versions.shift = 0.02
    assert models(edge, "shadow", NEW, "--max-slower", "1000") == 0
    bodies = [bytes([number % 256, number // 256, 7]) for number in range(300)] + [b"bad"] * 5
    replies = ask(edge, bodies)
    assert Counter(reply.status_code for reply in replies) == {200: 300, 422: 5}
    said = {reply.headers["X-Request-Id"]: reply.json() for reply in replies[:300]}
    assert {reply["model"]["version"] for reply in said.values()} == {STABLE}
    assert not any("Cxr-Answer" in reply.headers for reply in replies)
    found = looked(edge, capsys, settled(305))
    # A line of nginx's log that finds no room is a request without a pair.
    assert (found["compared"], found["refused_by_both"], found["unpaired"]) == (300, 5, 0), found
    shifted = [min(1.0, body[0] / 255 + 0.02) for body in bodies[:300]]
    flips = sum((new > 0.5) != (body[0] / 255 > 0.5) for new, body in zip(shifted, bodies[:300], strict=True))
    shifts = [abs(new - body[0] / 255) for new, body in zip(shifted, bodies[:300], strict=True)]
    assert (found["flips"], found["errors"]) == (flips, 0)
    assert found["mean_shift_interval"]["value"] == pytest.approx(sum(shifts) / 300, abs=1e-6)
    recorded = pairs(edge)
    assert {name: recorded[name]["stable"]["probability"] for name in said} == {
        name: reply["probabilities"]["PNEUMONIA"] for name, reply in said.items()
    }
    text = edge.ask("GET", "/metrics/edge", {}).text
    assert f'pneumoscan_edge_trial_pairs_total{{version="{NEW}",kind="shadow"}} 300' in text


@pytest.mark.usefixtures("versions")
def test_a_canary_answers_its_share_and_a_named_version_is_left_alone(
    edge: Edge, capsys: pytest.CaptureFixture[str]
) -> None:
    assert models(edge, "canary", NEW, "--share", "0.1", "--max-slower", "1000") == 0
    replies = ask(edge, [bytes([number % 100]) for number in range(400)])
    assert {reply.status_code for reply in replies} == {200}
    by = Counter(reply.json()["model"]["version"] for reply in replies)
    low, high = binom.interval(0.9999, 400, 0.1)
    assert low <= by[NEW] <= high
    found = looked(edge, capsys, settled(by[NEW]))
    assert (found["compared"], found["stable"], found["errors"]) == (by[NEW], STABLE, 0)
    named = ask(edge, [b"a"] * 40, f"/predictions/pneumonia/{STABLE}")
    assert {reply.json()["model"]["version"] for reply in named} == {STABLE}
    assert models(edge, "end") == 0
    assert {reply.json()["model"]["version"] for reply in ask(edge, [b"a"] * 40)} == {STABLE}
    form = edge.ask("POST", "/predictions/pneumonia", files={"film": ("x", b"ab")})
    assert form.status_code == 200


def test_a_canary_whose_labels_flip_is_rolled_back_by_itself(
    edge: Edge, versions: Versions, capsys: pytest.CaptureFixture[str]
) -> None:
    versions.shift = 0.4
    assert models(edge, "canary", NEW, "--share", "0.5", "--max-slower", "1000") == 0
    replies = ask(edge, [bytes([60 + number % 60]) for number in range(160)])
    found = looked(edge, capsys, lambda found: found["state"] == "rolled back")
    replies += (after := ask(edge, [b"a"] * 30))
    assert {reply.status_code for reply in replies} == {200}
    assert {reply.json()["model"]["version"] for reply in after} == {STABLE}
    assert "label flips" in found["ended"]
    assert models(edge, "compare") == 1
    assert "rolled back" in capsys.readouterr().out
    assert f"the canary of {NEW} was rolled back" in edge.log("error.log")
    assert (
        'pneumoscan_edge_trial_rolled_back{version="1.1.0",kind="canary"} 1'
        in edge.ask("GET", "/metrics/edge", {}).text
    )


def test_a_canary_that_is_gone_costs_no_client_its_answer(
    edge: Edge, versions: Versions, capsys: pytest.CaptureFixture[str]
) -> None:
    assert models(edge, "canary", NEW, "--share", "0.5") == 0
    versions.missing = True
    replies = ask(edge, [b"a"] * 100)
    assert {(reply.status_code, reply.json().get("model", {}).get("version")) for reply in replies} == {(200, STABLE)}
    found = looked(edge, capsys, lambda found: found["state"] == "rolled back")
    assert "not answered alike" in found["ended"]


def test_what_cannot_be_on_trial_is_told(edge: Edge, versions: Versions, capsys: pytest.CaptureFixture[str]) -> None:
    assert models(edge, "canary", STABLE) == 1
    assert "is the default of the server" in capsys.readouterr().err
    versions.missing = True
    assert models(edge, "shadow", NEW) == 1
    assert f"does not answer with {NEW}" in capsys.readouterr().err
    versions.missing = False
    assert models(edge, "shadow", NEW) == 0
    assert models(edge, "canary", "1.2.0") == 1
    assert f"{NEW} is on trial" in capsys.readouterr().err
    assert math.isclose(looked(edge, capsys, lambda _: True)["share"], 1.0)
