"""The module where Django looks for the tables of an app: the page has one, of the history."""

from __future__ import annotations

from cxr_webapp.history import Result

__all__ = ["Result"]
