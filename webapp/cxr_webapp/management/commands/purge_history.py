"""Delete from the history what is over its time, for a timer: ``python -m cxr_webapp.manage purge_history``."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from cxr_webapp import history


class Command(BaseCommand):
    """The command."""

    help = "Delete results from the history that are older than PNEUMOSCAN_RETENTION_DAYS."

    def handle(self, *_args: Any, **_options: Any) -> None:
        """Delete, and say how many."""
        if not settings.PNEUMOSCAN_HISTORY:
            raise CommandError("there is no history: PNEUMOSCAN_HISTORY is not set")
        self.stdout.write(f"{history.purge()} results were over {settings.PNEUMOSCAN_RETENTION_DAYS:g} days old")
