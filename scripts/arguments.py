"""Kinds of arguments that several command lines take."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """Give the whole number of 1 or more that a text writes."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number
