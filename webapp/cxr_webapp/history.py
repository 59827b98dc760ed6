"""The history: its table, what goes in, and its page.

Off unless the operator names a database, and then only for films whose reader asked for it.
"""

from __future__ import annotations

import base64
import binascii
import io
import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.paginator import Paginator
from django.db import DatabaseError, models
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe
from PIL import Image

from cxr_client import Decision

_log = logging.getLogger(__name__)

THUMBNAIL_SIDE = 160  # pixels; names that a device burnt into the film cannot be read at this size
_QUALITY = 80
_PER_PAGE = 50
# Of the server's overlay, `cxr.serving.render`, which a page without torch cannot import; a test compares the two.
_COLOURS = ((30, 80, 255), (90, 190, 255), (235, 235, 235), (255, 205, 60), (255, 50, 10))
_MAX_OPACITY = _OPACITY_POWER = 0.6


class Result(models.Model):
    """One answer of the server. No file name, no tag, no film: only the answer and a small picture."""

    answered_at = models.DateTimeField(default=timezone.now, db_index=True)
    label = models.CharField(max_length=16)
    probability = models.FloatField()
    threshold = models.FloatField(null=True)
    indeterminate = models.BooleanField(default=False)
    flags = models.JSONField(default=list)
    film_format = models.CharField(max_length=8)
    model_version = models.CharField(max_length=64)
    weights_sha256 = models.CharField(max_length=64)
    thumbnail = models.BinaryField()  # JPEG

    class Meta:
        """The newest first."""

        ordering = ("-answered_at", "-id")

    @property
    def probability_text(self) -> str:
        """The probability in three digits, never as certainty: the server rounds to six."""
        if self.probability > 0.999:
            return ">0.999"
        return "<0.001" if self.probability < 0.001 else f"{self.probability:.3f}"

    def __str__(self) -> str:
        return f"{self.label} {self.probability_text}"


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


def thumbnail_of(film: bytes, heat_map: bytes) -> bytes:
    """A small JPEG of a film with its map, coloured as the server's overlay is.

    Parameters
    ----------
    film, heat_map
        PNGs of one size: ``image.png`` and ``cam.png`` of a reply to ``cam=heatmap``.

    Raises
    ------
    ValueError
        If one is no PNG.
    """
    grey, heat = _small(film), _small(heat_map)
    colour = Image.merge("RGB", [heat.point([_colour(value)[channel] for value in range(256)]) for channel in range(3)])
    opacity = heat.point([round(255 * _MAX_OPACITY * abs(_evidence(value)) ** _OPACITY_POWER) for value in range(256)])
    stream = io.BytesIO()
    # A new file: no chunk of the old ones comes along.
    Image.composite(colour, grey.convert("RGB"), opacity).save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()


def _small(data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            small = picture.convert("L")
    except OSError as error:
        raise ValueError("the picture is no PNG") from error
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return small


def _evidence(grey: int) -> float:
    """The evidence of a heat map's grey: 0 at 128, 1 for PNEUMONIA at 255."""
    return max((grey - 128) / 127, -1.0)


def _colour(grey: int) -> list[int]:
    place = 2 * (_evidence(grey) + 1)
    low = min(int(place), 3)
    return [round(one + (other - one) * (place - low)) for one, other in zip(*_COLOURS[low : low + 2], strict=True)]


def _write(reply: Mapping[str, Any]) -> Result:
    decision, image, model = reply["decision"], reply["image"], reply["model"]
    try:
        film, heat_map = (base64.b64decode(part["png"], validate=True) for part in (image, reply["cam"]))
    except binascii.Error as error:
        raise ValueError("a picture is not base64") from error
    result = Result(
        label=reply["label"],
        probability=Decision.of(reply).probability,
        threshold=decision.get("threshold"),
        indeterminate=bool(decision.get("indeterminate")),
        flags=[str(flag) for flag in image.get("flags") or ()],
        film_format=image["format"],
        model_version=model["version"],
        weights_sha256=model.get("weights_sha256", ""),
        thumbnail=thumbnail_of(film, heat_map),
    )
    result.save()
    return result


def _need_history() -> None:
    if not settings.PNEUMOSCAN_HISTORY:
        raise Http404


@require_safe
def entries(request: HttpRequest) -> HttpResponse:
    """The entries, the newest first; what is over its time is deleted before anyone sees it."""
    _need_history()
    purge()
    page = Paginator(Result.objects.defer("thumbnail"), _PER_PAGE).get_page(request.GET.get("page"))
    return render(request, "webapp/history.html", {"page": page, "retention_days": settings.PNEUMOSCAN_RETENTION_DAYS})


@require_safe
def thumbnail(_request: HttpRequest, number: int) -> HttpResponse:
    """The small picture of one entry."""
    _need_history()
    purge()
    found = Result.objects.filter(pk=number).values_list("thumbnail", flat=True).first()
    if found is None:
        raise Http404
    return HttpResponse(bytes(found), content_type="image/jpeg")


@require_POST
def delete(request: HttpRequest) -> HttpResponse:
    """Delete one entry, or all of them where no number is given and ``all`` is."""
    _need_history()
    number = request.POST.get("number", "")
    if number.isdecimal() and len(number) < 19:  # what fits the key of any database
        Result.objects.filter(pk=int(number)).delete()
    elif request.POST.get("all") == "1":
        Result.objects.all().delete()
    return HttpResponseRedirect(reverse("history"))
