"""The reading page, one film at a time to the server, and the page about the model."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.contrib.staticfiles import finders
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_POST, require_safe

from cxr_webapp import card, history
from cxr_webapp.inference import CutOff, TooManyBytes, Trouble, ask, read_film

_VIEWS = ("PA", "AP")
ACKNOWLEDGED = "acknowledged"
# The text of `cxr.NOTICE`, which a page without cxr cannot import: here so that it can be translated. A test compares.
NOTICE = _("Research use only. Not a diagnosis.")


@dataclass(frozen=True)
class Example:
    """A synthetic film to click on when there is no film at hand; `pneumoscan.drawn_films.write_examples` draws it.

    The title says what was drawn, not what the model will say.
    """

    file: str
    picture: str
    title: Promise


EXAMPLES = (
    Example("opacity.jpg", "opacity.thumb.jpg", _("Drawn with an opacity")),
    Example("clear.jpg", "clear.thumb.jpg", _("Drawn without one")),
    Example("faint.png", "faint.thumb.jpg", _("Drawn faint, 16-bit PNG")),
    Example("clear.dcm", "clear-dicom.thumb.jpg", _("A DICOM file, MONOCHROME1")),
)


def context(request: HttpRequest) -> dict[str, Any]:
    """Context processor of every view: the notice, and whether this session acknowledged it."""
    session = getattr(request, "session", {})
    return {
        "notice": NOTICE,
        "acknowledged": bool(session.get(ACKNOWLEDGED)),
        "has_history": bool(settings.PNEUMOSCAN_HISTORY),
    }


def available_examples() -> list[Example]:
    """The examples that were drawn here; none where the page was set up without them."""
    return [example for example in EXAMPLES if finders.find(f"webapp/examples/{example.file}")]


@require_safe
def read(request: HttpRequest) -> HttpResponse:
    """The page itself; everything on it happens in the browser."""
    return render(
        request,
        "webapp/read.html",
        {
            "examples": available_examples(),
            "max_bytes": settings.PNEUMOSCAN_MAX_BYTES,
            "max_mib": settings.PNEUMOSCAN_MAX_BYTES // 2**20,
            "retention_days": settings.PNEUMOSCAN_RETENTION_DAYS,
        },
    )


@require_safe
def about(request: HttpRequest) -> HttpResponse:
    """The model card with its figures."""
    found = card.card()
    return render(request, "webapp/about.html", {"card": found, "figures": card.figures_of(found or {})})


@require_POST
def acknowledge(request: HttpRequest) -> HttpResponse:
    """Keep in the session that its reader knows what this is not."""
    request.session[ACKNOWLEDGED] = True
    return HttpResponseRedirect(reverse("read"))


@require_POST
def film(request: HttpRequest) -> JsonResponse:
    """Score the film that is the request's body: the server's reply with scale and band, or what went wrong."""
    if not request.session.get(ACKNOWLEDGED):
        return _trouble(Trouble("notice", HTTPStatus.FORBIDDEN, "NOT_ACKNOWLEDGED", retryable=True))
    try:
        data = read_film(request, settings.PNEUMOSCAN_MAX_BYTES)
    except TooManyBytes:
        return _trouble(Trouble("size", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "TOO_MANY_BYTES"))
    except CutOff:
        return _trouble(Trouble("cut", HTTPStatus.BAD_REQUEST, "CUT_OFF", retryable=True))
    view = request.GET.get("view", "")
    answer = ask(data, view if view in _VIEWS else None)
    if isinstance(answer, Trouble):
        return _trouble(answer)
    kept = history.keep(answer) if request.GET.get("keep") == "1" else None
    scale = card.scale_and_band(card.card(answer.get("model")))
    return JsonResponse({"reply": answer, "scale": scale, "kept": kept})


def _trouble(trouble: Trouble) -> JsonResponse:
    return JsonResponse(trouble.as_json(), status=trouble.status)


@require_safe
def server(_request: HttpRequest) -> JsonResponse:
    """Which model answers, for the line at the top of the page; null where nobody tells."""
    found = card.card()
    return JsonResponse({"model": found and found.get("model"), "synthetic": card.is_synthetic(found or {})})


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:  # noqa: ARG001 - Django's signature
    """Answer a request whose token is missing or old, such as one from a page that was left open for days."""
    texts = {"title": gettext("This page is too old"), "detail": gettext("Load it again.")}
    if request.headers.get("Accept", "").startswith("application/json"):
        return _trouble(Trouble("session", HTTPStatus.FORBIDDEN, "OLD_PAGE", retryable=True))
    return render(request, "webapp/problem.html", texts, status=HTTPStatus.FORBIDDEN)
