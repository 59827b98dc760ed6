"""Progress bars on stderr."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress_bar(
    items: Iterable[Item], name: str, unit: str, *, initial: int = 0, total: int | None = None
) -> tqdm[Item]:
    """The items with a bar that goes away at the end.

    There is none where stderr is no terminal or TQDM_DISABLE is set, and of several processes the first one's alone.

    Parameters
    ----------
    initial
        How many of the items were done before.
    total
        How many items there are, where they do not say so themselves.
    """
    others = os.environ.get("RANK", "0") != "0"  # torchrun numbers its processes
    hidden = True if others or os.environ.get("TQDM_DISABLE") else None  # None: where stderr is no terminal
    return tqdm(items, desc=name, unit=unit, initial=initial, total=total, disable=hidden, leave=False)
