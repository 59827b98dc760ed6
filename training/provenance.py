"""Where the films of a data folder come from, by collection, and under which licences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from training.data import SPLITS, Record

_TERMS: Final = ("source", "label_source", "licence")


def provenance(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One entry for each source, label source and licence of the manifest, with its films by split and label.

    What the manifest does not say is an empty text.
    """
    keys = [tuple(record.extra.get(column) or "" for column in _TERMS) for record in records]
    counts = Counter((key, record.split, record.label) for key, record in zip(keys, records, strict=True))
    labels = sorted({record.label for record in records})
    return [
        {
            **dict(zip(_TERMS, key, strict=True)),
            "films": {split: {label: counts[key, split, label] for label in labels} for split in SPLITS},
        }
        for key in sorted(set(keys))
    ]
