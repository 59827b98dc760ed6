"""The application for a WSGI server: ``gunicorn cxr_webapp.wsgi``."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cxr_webapp.settings")
application = get_wsgi_application()
