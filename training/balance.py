"""How much each training film counts, so that no class and no collection outweighs the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from training.data import Record
from training.errors import TrainingError

BALANCES: Final = ("none", "class", "source")

Weights = npt.NDArray[np.float32]


def film_weights(records: Sequence[Record], balance: str) -> Weights:
    """A weight for each film, (N,) with a mean of 1.

    Parameters
    ----------
    balance
        ``none``
            Every film counts the same.
        ``class``
            The films of each class weigh the same together.
        ``source``
            The same, and within a class the films of each source weigh the same together: a large collection of one
            kind of patients does not drown a small one of another kind. A source that has films of one class alone
            still tells the class by its look.

    Raises
    ------
    TrainingError
        If sources are to be balanced and no film has one.
    """
    if balance == "source" and not any(record.extra.get("source") for record in records):
        raise TrainingError("--balance source needs films with a source: give the manifest that column, or take class")
    if balance == "none":
        return np.ones(len(records), dtype=np.float32)
    keys = [(record.label, record.extra.get("source", "") if balance == "source" else "") for record in records]
    films = Counter(keys)
    groups = Counter(label for label, _ in films)
    share = [1.0 / (len(groups) * groups[label] * films[label, source]) for label, source in keys]
    return (np.array(share) * len(records)).astype(np.float32)
