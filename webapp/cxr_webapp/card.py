"""The model card: the map's scale, the indeterminate band, and the model's figures as rows of a table."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from cxr_client import ClientError, ManagementClient
from cxr_webapp.inference import is_number

MODEL = "pneumonia"
_PATIENCE_S = 5.0  # describing a model asks its worker, which may be busy with films
_TRY_AGAIN_S = 10.0  # after a server told none: not once for each of fifty films

_asking = threading.Lock()  # one asks at a time; what is known already is told meanwhile
_lock = threading.Lock()
_known: dict[str, dict[str, Any]] = {}  # by version; an archive of a version does not change while it is served
_failed_at: dict[str, float] = {}


def card(model: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """The card of the version that gave a reply, or of the default version; None where nobody tells it.

    Parameters
    ----------
    model
        ``model`` of a reply. A card of other weights than these is not given: its scale would be another's.
    """
    version = str(model["version"]) if model and model.get("version") else ""
    found = _kept(version) if version else None
    if found is None or not _is_of(found, model):
        found = _read(version)
    return found if found is not None and _is_of(found, model) else None


def scale_and_band(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The scale and the band that the page draws by: logits of full colour, where a map's cells lie, the band.

    Cards of models before there was a choice tell of no cells: their maps go from corner to corner.
    """
    calibration = (found or {}).get("calibration") or {}
    if not calibration.get("cam_scale"):
        return None
    scale = {name: calibration.get(name) for name in ("cam_scale", "cam_cells", "indeterminate")}
    if positive := (found or {}).get("positive"):
        classes = (found or {}).get("classes") or ()
        scale["ends"] = ["/".join(name for name in classes if name not in positive), "/".join(positive)]
    return scale


def forget() -> None:
    """Forget every card."""
    with _lock:
        _known.clear()
        _failed_at.clear()


def _kept(version: str) -> dict[str, Any] | None:
    with _lock:
        return _known.get(version)


def _is_of(found: Mapping[str, Any], model: Mapping[str, Any] | None) -> bool:
    own = found.get("model") or {}
    return model is None or own.get("weights_sha256") == model.get("weights_sha256")


def _read(version: str) -> dict[str, Any] | None:
    with _asking:
        with _lock:
            if time.monotonic() - _failed_at.get(version, -_TRY_AGAIN_S) < _TRY_AGAIN_S:
                return None
        try:
            found = _from_file(Path(settings.PNEUMOSCAN_CARD)) if settings.PNEUMOSCAN_CARD else _from_server(version)
        except (ClientError, OSError, ValueError):
            with _lock:
                _failed_at[version] = time.monotonic()
            return None
        with _lock:
            _known[str((found.get("model") or {}).get("version", version))] = found
        return found


def _from_server(version: str) -> dict[str, Any]:
    with ManagementClient(settings.PNEUMOSCAN_SOCKET, timeout_s=_PATIENCE_S) as management:
        return management.card(MODEL, version or None)


def _from_file(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no model card: it holds no JSON object")
    return found


@dataclass(frozen=True)
class Figure:
    """One figure: its name, what it means, its value and its 95 % interval as texts."""

    name: Promise
    meaning: Promise
    value: str
    interval: str


_FIGURES = (
    ("auroc", _("AUROC"), _("How often a film with pneumonia is ranked above one without: 0.5 is chance, 1 always")),
    ("sensitivity", _("Sensitivity"), _("Share of the films with pneumonia that are called PNEUMONIA")),
    ("specificity", _("Specificity"), _("Share of the films without pneumonia that are called NORMAL")),
    ("accuracy", _("Accuracy"), _("Share of all films that are called rightly; it depends on the mix of films")),
    ("brier", _("Brier score"), _("Mean squared distance of the probability from the truth: 0 is best")),
    ("ece", _("Calibration error"), _("Mean distance between probability and observed share: 0 is best")),
)


def figures_of(found: Mapping[str, Any]) -> list[Figure]:
    """The figures over all test films; none where nothing was measured."""
    overall = (found.get("evaluation") or {}).get("overall") or {}
    return [
        Figure(name, meaning, f"{overall[key]:.3f}", _interval(overall.get(f"{key}_ci")))
        for key, name, meaning in _FIGURES
        if is_number(overall.get(key))
    ]


def is_synthetic(found: Mapping[str, Any]) -> bool:
    """True where the model was measured or trained on drawn films: its figures say nothing of people."""
    data = (found.get("training") or {}).get("data") or []
    drawn = isinstance(data, list) and any(isinstance(one, dict) and one.get("source") == "synthetic" for one in data)
    return bool((found.get("evaluation") or {}).get("synthetic")) or drawn


def _interval(pair: object) -> str:
    if isinstance(pair, list) and len(pair) == 2 and all(map(is_number, pair)):
        return f"{pair[0]:.3f} – {pair[1]:.3f}"  # noqa: RUF001 - a range takes an en dash
    return ""
