"""Whether an answer is one of the inference server's: an edge or a login page can answer 200 with anything."""

from __future__ import annotations

import math
from typing import Any


def is_reply(answer: object) -> bool:
    """Whether an answer has everything the page and its history read, of the right kind."""
    match answer:
        case {
            "model": {"version": str(), "weights_sha256": str()},
            "label": "NORMAL" | "PNEUMONIA",
            "probabilities": {"NORMAL": normal, "PNEUMONIA": pneumonia},
            "logits": {"NORMAL": one, "PNEUMONIA": other},
            "decision": {"threshold": threshold},
            "cam": {"grid": [[*first], *rows], "bias": bias, "png": str()},
            "image": {"format": str(), "width": int(), "height": int(), "flags": list(), "png": str()},
        }:
            cells = [*first, *(cell for row in rows if isinstance(row, list) for cell in row)]
            even = all(isinstance(row, list) and len(row) == len(first) for row in rows)
            return even and all(map(_is_number, (normal, pneumonia, one, other, threshold, bias, *cells)))
    return False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
