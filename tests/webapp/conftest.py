"""Django is set up before any test here is imported, whichever file is run alone."""

from tests.webapp import pages

__all__ = ["pages"]
