"""What every view shows: the notice, and whether this session acknowledged it."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

ACKNOWLEDGED = "acknowledged"
NOTICE = _("Research use only. Not a diagnosis.")


def on_every_view(request: HttpRequest) -> dict[str, Any]:
    """Context processor."""
    session = getattr(request, "session", {})
    return {
        "notice": NOTICE,
        "acknowledged": bool(session.get(ACKNOWLEDGED)),
        "has_history": bool(settings.PNEUMOSCAN_HISTORY),
    }
