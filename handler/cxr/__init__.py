"""Chest X-ray classification with an exact class activation map: the part that ships inside a model archive.

Films come in as bytes (`cxr.films.decode`), become tensors (`cxr.model.preprocess`), pass through one network
(`cxr.model.network`) whose last feature map gives both the logits and the map that explains them (`cxr.model.cam`).
`cxr.predict.Predictor` is the one path through all of it: whatever scores films calls it, and
nothing else scores films.
"""

from typing import Final

NOTICE: Final = "Research use only. Not a diagnosis."  # of every reply, page and report
__version__ = "0.2.0"
