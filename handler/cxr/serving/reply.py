"""From a prediction or an error to the bytes of a reply."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from cxr import NOTICE
from cxr.errors import InputError
from cxr.films.film import Film
from cxr.model.spec import ModelSpec
from cxr.predict import Explanation, Prediction
from cxr.serving.regions import find_regions
from cxr.serving.render import display_film, evidence_map, heat_map, overlay, png
from cxr.serving.request import Options, Request

# TorchServe 0.12 kills the worker over a reply larger than its max_response_size, which is 64 MiB in config.properties.
MAX_REPLY_BYTES: Final = 60 * 1024 * 1024
DIGITS: Final = 6  # of a logit: finer than float32 is exact at the size logits have

Answer = dict[str, Any] | bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP reply.

    Parameters
    ----------
    answer
        In a line what is said about one film, for the header ``Cxr-Answer``; empty for several films.
    """

    status: int
    content_type: str
    body: bytes
    answer: str = ""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model answers, as every reply says it."""

    name: str
    version: str
    arch: str
    weights_sha256: str
    pretrained: str

    @classmethod
    def of(cls, spec: ModelSpec, name: str, version: str) -> ModelIdentity:
        """The identity of a spec registered under a name and a version."""
        return cls(name, version, spec.arch, spec.weights_sha256, spec.pretrained)


def answer_line(identity: ModelIdentity, said: Prediction | InputError) -> str:
    """What a model says about one film, for who compares two versions whatever the form of the reply."""
    version = f"version={identity.version}"
    if isinstance(said, InputError):
        return f"code={said.code}; {version}"
    return f"label={said.label}; p={said.probability:.{DIGITS}f}; {version}"


def answer_of(
    prediction: Prediction, film: Film, options: Options, spec: ModelSpec, identity: ModelIdentity, request_id: str
) -> Answer:
    """The answer to a film that was scored: the JSON object, or the overlay as PNG where that was asked for.

    Raises
    ------
    InputError
        NOT_FINITE.
    """
    if not prediction.is_finite:
        raise InputError("NOT_FINITE", "a logit or a map cell is infinite or NaN; the film was not scored.")
    explanation = prediction.explain(options.target)
    if options.as_png:
        return png(overlay(film.pixels, explanation.grid, explanation.target, spec.cam_scale, spec.scheme))
    body = {
        "model": asdict(identity),
        "request_id": request_id,
        "label": prediction.label,
        "probabilities": _by_class(spec.classes, prediction.probabilities),
        "logits": _by_class(spec.classes, prediction.logits),
        "decision": _decision(prediction, spec),
        "cam": _cam(explanation, film, options, spec),
        "image": _image(film, options.film),
        "notice": NOTICE,
    }
    if options.cam == "none":
        del body["cam"]
    return body


def reply_to(
    request: Request, outcomes: Sequence[Answer | InputError], identity: ModelIdentity, request_id: str
) -> Reply:
    """The reply to a request, wrapped as its dialect asks.

    Parameters
    ----------
    outcomes
        One for each film of the request. Where some of several films were answered, the reply is 200 and the others'
        entries are their problem documents; where none was, the reply is the first one's error.

    Raises
    ------
    InputError
        TOO_MANY_BYTES, where many films with pictures make a reply that no server would send.
    """
    first = outcomes[0]
    if isinstance(first, InputError) and all(isinstance(one, InputError) for one in outcomes):
        return error_reply(first, request_id)
    if isinstance(first, bytes):
        return Reply(200, "image/png", first)
    entries = [problem(one, request_id) if isinstance(one, InputError) else one for one in outcomes]
    body: Any = entries[0]
    if request.dialect == "v1":
        body = {"predictions": entries}
    elif request.dialect == "v2":
        texts = [json.dumps(entry, allow_nan=False) for entry in entries]
        tensor = {"name": "prediction", "datatype": "BYTES", "shape": [len(texts)], "data": texts}
        body = {"model_name": identity.name, "model_version": identity.version, "id": request.client_id}
        body["outputs"] = [tensor]
    data = _strict_json(body)
    if len(data) > MAX_REPLY_BYTES:
        raise InputError(
            "TOO_MANY_BYTES",
            f"the reply would have {len(data):,} bytes, at most {MAX_REPLY_BYTES:,} are sent. Ask for fewer films at "
            "once, or for cam=grid and no picture of the film.",
        )
    return Reply(200, "application/json", data)


def card_reply(card: dict[str, Any]) -> Reply:
    """The reply to who asks for the model card."""
    return Reply(200, "application/json", _strict_json(card))


def problem(error: InputError, request_id: str) -> dict[str, Any]:
    """The problem document of a film or a request that cannot be answered (RFC 9457)."""
    return {
        "type": f"urn:pneumoscan:error:{error.code}",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        "request_id": request_id,
        "retryable": error.retryable,
    }


def error_reply(error: InputError, request_id: str) -> Reply:
    """The reply to a request that cannot be answered."""
    return Reply(error.status, "application/problem+json", _strict_json(problem(error, request_id)))


def _by_class(classes: Sequence[str], values: Any) -> dict[str, float]:
    return {name: round(float(value), DIGITS) for name, value in zip(classes, values, strict=True)}


def _decision(prediction: Prediction, spec: ModelSpec) -> dict[str, Any]:
    decision: dict[str, Any] = {
        "operating_point": spec.operating_point,
        "threshold": spec.threshold,
        "indeterminate": prediction.indeterminate,
    }
    if not spec.scheme.is_standard:
        decision["positive"] = {
            "classes": list(spec.positive),
            "probability": round(prediction.probability, DIGITS),
            "called": prediction.is_positive,
        }
    if observed := spec.observed_at(prediction.probability):
        decision["observed"] = {
            "low": observed.low,
            "high": observed.high,
            "films": observed.films,
            "positive": observed.positive,
            "per_100": round(100 * observed.share),
            "interval": list(observed.interval),
        }
    return decision


def _cam(explanation: Explanation, film: Film, options: Options, spec: ModelSpec) -> dict[str, Any]:
    cam: dict[str, Any] = {
        "target": explanation.target,
        "unit": "logit",
        "bias": round(explanation.bias, DIGITS),
        "grid": [[round(float(value), DIGITS) for value in row] for row in explanation.grid],
    }
    if options.regions is not None:
        info = film.info
        found = find_regions(explanation.grid, info.width, info.height, options.regions)
        cam["regions"] = [{"share": one.share, "box": one.box, "points": one.points.tolist()} for one in found]
    if options.cam == "overlay":
        picture = overlay(film.pixels, explanation.grid, explanation.target, spec.cam_scale, spec.scheme)
        cam["png"] = _base64(png(picture))
    elif options.cam == "heatmap":
        height, width = display_film(film.pixels).shape
        evidence = evidence_map(explanation.grid, explanation.target, spec.cam_scale, height, width, spec.scheme)
        cam["png"] = _base64(png(heat_map(evidence)))
    return cam


def _image(film: Film, form: str) -> dict[str, Any]:
    image = asdict(film.info)
    if form == "png":
        image["png"] = _base64(png(display_film(film.pixels)))
    return image


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _strict_json(body: dict[str, Any]) -> bytes:
    return json.dumps(body, allow_nan=False).encode("ascii")
