"""Progress bars on stderr, and which of several processes prints."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def is_first_process() -> bool:
    """Whether this is the first of the processes that torchrun started and numbered, or the only one."""
    return os.environ.get("RANK", "0") == "0"


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
    is_off = not is_first_process() or bool(os.environ.get("TQDM_DISABLE"))
    hidden = True if is_off else None  # None: where stderr is no terminal
    return tqdm(items, desc=name, unit=unit, initial=initial, total=total, disable=hidden, leave=False)
