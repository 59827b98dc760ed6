"""How far an engine's answers are from the reference's, on the same films."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score

from cxr.engines.load import load_engine
from cxr.errors import ModelError
from cxr.model.classes import STANDARD, Scheme
from cxr.model.parity import Parity, kind_of, left_open
from cxr.model.spec import neutral_logit
from cxr.predict import Prediction, Predictor, softmax
from cxr_training.measure.metrics import Floats, Targets


def parity_of(
    reference: Sequence[Prediction],
    other: Sequence[Prediction],
    targets: Targets,
    *,
    scheme: Scheme = STANDARD,
    temperature: float,
    decisions: Sequence[float],
    processor: str,
    files_sha256: str = "",
    again: Callable[[Sequence[int]], Sequence[Prediction]] | None = None,
) -> Parity:
    """Compare two engines' predictions of the same films, in the same order.

    Parameters
    ----------
    targets
        (N,), 1 for a film of the positive group; both kinds are there.
    scheme, temperature, decisions
        Of the calibrated model: what makes probabilities of logits, and where what is said of a film changes; the
        threshold of the label comes first.
    processor
        What the other engine ran on.
    files_sha256
        Of the files it has of its own.
    again
        Scores films, by their places, with the engine's second, where it has one. The margin is then the largest finite
        difference of the log-odds, and `again` scores the films within it of a decision and those without a number.
        So a label of these films can change through the second alone; of others that is to be expected only.

    Raises
    ------
    ModelError
        If an answer, after that, is not finite.
    """
    margin = 0.0
    places: list[int] = []
    if again is not None:
        apart = (_logits(reference) - _logits(other)) / temperature
        differences = np.ptp(apart, axis=1)  # no log-odds of a group, and none between two classes, differ by more
        margin = float(differences[np.isfinite(differences)].max(initial=0.0))
        theirs = scheme.log_odds(_logits(other), temperature)
        leads = scheme.lead(_logits(other), temperature, neutral_logit(decisions[0], 1.0))
        places = np.flatnonzero(left_open(theirs, decisions, margin, leads)).tolist()
        scored = dict(zip(places, again(places), strict=True))
        other = [scored.get(place, prediction) for place, prediction in enumerate(other)]
    if worthless := sum(not prediction.is_finite for prediction in other):
        raise ModelError(f"{worthless} of {len(other)} films get numbers that are not finite: choose another engine")
    every = [softmax(_logits(predictions), temperature) for predictions in (reference, other)]
    ours, theirs = map(scheme.probability, every)
    labels = [[scheme.label(one, decisions[0]) for one in probabilities] for probabilities in every]
    correlations = np.array([_correlation(_contrast(a), _contrast(b)) for a, b in zip(reference, other, strict=True)])
    return Parity(
        films=len(reference),
        flips=sum(one != two for one, two in zip(*labels, strict=True)),
        auroc_difference=float(roc_auc_score(targets, theirs) - roc_auc_score(targets, ours)),
        probability_difference=float(np.abs(ours - theirs).max()),
        cam_correlation=float(correlations.min()),
        cam_correlation_median=float(np.median(correlations)),
        processor=processor,
        files_sha256=files_sha256,
        margin=margin,
        asked=len(places),
    )


def default_engines(device: torch.device) -> list[str]:
    """The float32 engines that can be tried on this machine: what serves unless another is chosen."""
    names = ["openvino-float32"] if find_spec("openvino") else []
    return [*names, "cuda-float32"] if device.type == "cuda" else names


def with_engine(predictor: Predictor, name: str, folder: Path) -> Predictor:
    """A predictor of the same model by another engine, without its second.

    Parameters
    ----------
    predictor
        By the reference.
    folder
        Where the files of an engine that has its own are.

    Raises
    ------
    ModelError
        If the engine does not run here.
    """
    device = predictor.device if predictor.device.type in kind_of(name).devices else torch.device("cpu")
    if device.type not in kind_of(name).devices:
        raise ModelError(f"engine {name!r} needs a GPU, and --device is {predictor.device}: measure it where one is")
    network = copy.deepcopy(predictor.network).to(device)
    engine = load_engine(name, network, predictor.spec.preprocessing, device, folder)
    return Predictor(network, predictor.spec, device, engine)


def _logits(predictions: Sequence[Prediction]) -> Floats:
    return np.stack([prediction.logits for prediction in predictions])


def _contrast(prediction: Prediction) -> npt.NDArray[np.float64]:
    return prediction.explain("contrast").grid.ravel().astype(np.float64)


def _correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Pearson's correlation; 1 for equal maps, which may be even, 0 where only one is even."""
    if np.array_equal(a, b):
        return 1.0
    if min(np.ptp(a), np.ptp(b)) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def processor_name(device: torch.device) -> str:
    """The maker's name of the processor or GPU that computes."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = _cpuinfo().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")  # Linux alone has it
    return path.read_text(encoding="utf-8") if path.is_file() else ""
