"""A management API with a memory: it registers, switches the default and unregisters as TorchServe 0.12.0 does."""

from __future__ import annotations

import json
from typing import Any

from pneumoscan.model_store import MODEL_NAME
from tests.film_server import Answer, Asked, FilmServer, Management, described, prediction, problem


class Managed(Management):
    """Versions by name, the default one, and what fails when it is asked to.

    Parameters
    ----------
    states
        What the workers of a version that will be registered say; READY unless it stands here.
    fail
        Methods that are answered with 500.
    """

    def __init__(self, *versions: str) -> None:
        super().__init__()
        self.default = versions[0]
        self.registered = dict.fromkeys(versions, 1)
        self.states: dict[str, str] = {}
        self.fail: set[str] = set()

    def about(self, asked: Asked) -> Answer:
        """Answer as TorchServe does."""
        if asked.method in self.fail:
            return self.say({"message": "disk full"}, 500)
        if asked.method == "POST":
            version = asked.query["url"][0].removeprefix(f"{MODEL_NAME}-").removesuffix(".mar")
            self.registered[version] = int(asked.query["initial_workers"][0])
            return self.say({"status": "Processing worker updates..."}, 202)
        if asked.method == "PUT":
            self.default = asked.path.split("/")[3]
            return self.say({"status": "done"})
        if asked.method == "DELETE":
            version = asked.path.split("/")[3]
            if version == self.default:
                return self.say({"message": f"Cannot remove default version for model {MODEL_NAME}"}, 403)
            found = self.registered.pop(version, None)
            return self.say({"message": "gone"}, 404 if found is None else 200)
        self.versions = [self._entry(version) for version in sorted(self.registered, key=lambda v: v != self.default)]
        return super().about(asked)

    def _entry(self, version: str) -> dict[str, Any]:
        count = self.registered[version]
        return described(version, *[self.states.get(version, "READY")] * count, min_workers=count)


def films_of(server: FilmServer, shifts: dict[str, float]) -> None:
    """Have a film server answer for versions: the canary by name alone, other films with a shifted probability."""

    def answer(asked: Asked) -> Answer:
        version = asked.path.split("/")[3] if asked.path.count("/") == 3 else ""
        if asked.body.startswith(b"\x89PNG"):
            return Answer(body=b"{}")
        said = prediction(asked)
        if said.status != 200:
            return said
        reply = json.loads(said.body)
        probability = min(1.0, max(0.0, reply["probabilities"]["PNEUMONIA"] + shifts.get(version, 0.0)))
        reply["probabilities"] = {"NORMAL": 1 - probability, "PNEUMONIA": probability}
        reply["label"] = "PNEUMONIA" if probability > 0.5 else "NORMAL"
        return Answer(body=json.dumps(reply).encode(), headers=said.headers)

    server.answer = answer


def busy_then(times: int, then: Answer) -> Any:
    """Answer "too busy" some times, then something else."""
    left = [times]

    def answer(_: Asked) -> Answer:
        left[0] -= 1
        return problem(503, "OVERLOADED", "The queue is full.", retryable=True) if left[0] >= 0 else then

    return answer
