"""Django's settings, loaded before any test module here imports a part of the page."""

import tests.webapp.pages  # noqa: F401
