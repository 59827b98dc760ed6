"""The history: off unless the operator names a database, and then only for films whose reader asked for it."""

from __future__ import annotations

import base64
import binascii
import io
import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import DatabaseError
from django.utils import timezone
from PIL import Image

from cxr_webapp.models import Result

_log = logging.getLogger(__name__)

THUMBNAIL_SIDE = 160  # pixels; names that a device burnt into the film cannot be read at this size
_QUALITY = 80


def keep(reply: Mapping[str, Any]) -> int | None:
    """Keep a reply; its number in the history, or None where there is no history or it cannot be written.

    The reader has the answer in either case: a full disk is no reason to lose it.
    """
    if not settings.PNEUMOSCAN_HISTORY:
        return None
    try:
        purge()
        return int(_write(reply).pk)
    except (DatabaseError, KeyError, TypeError, ValueError, OSError) as error:
        # Only the kind: the text of a database error can repeat values.
        _log.warning("a result could not be kept in the history: %s", type(error).__name__)
        return None


def purge() -> int:
    """Delete what is older than the retention time; how many there were."""
    limit = timezone.now() - timedelta(days=settings.PNEUMOSCAN_RETENTION_DAYS)
    return int(Result.objects.filter(answered_at__lt=limit).delete()[0])


def thumbnail_of(overlay: bytes) -> bytes:
    """A small JPEG of an overlay, map included, without its colour bar.

    Raises
    ------
    ValueError
        If it is no PNG.
    """
    try:
        with Image.open(io.BytesIO(overlay), formats=("PNG",)) as picture:
            small = picture.convert("RGB").crop((0, 0, picture.width - bar_width(picture.height), picture.height))
    except OSError as error:
        raise ValueError("the overlay is no PNG") from error
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=_QUALITY)  # a new file: no chunk of the old one comes along
    return stream.getvalue()


def bar_width(height: int) -> int:
    """Pixels of the colour bar at the right of an overlay: 96 up to a height of 512 and 192 at 1024."""
    return round(96 * min(max(height / 512, 1.0), 2.0))


def _write(reply: Mapping[str, Any]) -> Result:
    decision, image, model = reply["decision"], reply["image"], reply["model"]
    try:
        overlay = base64.b64decode(reply["cam"]["png"], validate=True)
    except binascii.Error as error:
        raise ValueError("the overlay is not base64") from error
    result = Result(
        label=reply["label"],
        probability=reply["probabilities"]["PNEUMONIA"],
        threshold=decision.get("threshold"),
        indeterminate=bool(decision.get("indeterminate")),
        flags=[str(flag) for flag in image.get("flags") or ()],
        film_format=image["format"],
        model_version=model["version"],
        weights_sha256=model.get("weights_sha256", ""),
        thumbnail=thumbnail_of(overlay),
    )
    result.save()
    return result
