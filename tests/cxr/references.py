"""Drift references for tests, made of films as training makes them of validation films."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cxr.films.film import Pixels
from cxr.model.preprocess import resize
from cxr.predict import Predictor
from cxr.serving.drift import Reference, film_signals
from cxr.serving.metrics import SIGNALS
from cxr_training.drift import histogram_of


def reference_for(predictor: Predictor, films: Sequence[Pixels]) -> Reference:
    """The reference that these films are, for this model."""
    spec = predictor.spec
    scores = [float(one.probabilities[1]) for one in predictor.predict(films)]
    found = [
        {"score": score, **film_signals(resize(film, spec.preprocessing), film.shape[1], film.shape[0])}
        for score, film in zip(scores, films, strict=True)
    ]
    signals = {name: histogram_of(np.array([one[name] for one in found])) for name in SIGNALS}
    return Reference(spec.weights_sha256, spec.weights_sha256, spec.temperature, len(films), signals)
