"""The reading page, one film at a time to the server, and the page about the model."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext
from django.views.decorators.http import require_POST, require_safe

from cxr_webapp import card, figures, history
from cxr_webapp.examples import available
from cxr_webapp.inference import Trouble, ask
from cxr_webapp.shown import ACKNOWLEDGED
from cxr_webapp.uploads import CutOff, TooManyBytes, read_film

_VIEWS = ("PA", "AP")


@require_safe
def read(request: HttpRequest) -> HttpResponse:
    """The page itself; everything on it happens in the browser."""
    return render(
        request,
        "webapp/read.html",
        {
            "examples": available(),
            "max_bytes": settings.PNEUMOSCAN_MAX_BYTES,
            "max_mib": settings.PNEUMOSCAN_MAX_BYTES // 2**20,
            "retention_days": settings.PNEUMOSCAN_RETENTION_DAYS,
        },
    )


@require_safe
def about(request: HttpRequest) -> HttpResponse:
    """The model card with its figures, in words."""
    found = card.card()
    return render(request, "webapp/about.html", {"card": found, "figures": figures.of_card(found or {})})


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
    shown = card.scale_and_band(card.card(answer.get("model")))
    return JsonResponse({"reply": answer, "scale": shown, "kept": kept})


def _trouble(trouble: Trouble) -> JsonResponse:
    return JsonResponse(trouble.as_json(), status=trouble.status)


@require_safe
def server(_request: HttpRequest) -> JsonResponse:
    """Which model answers, for the line at the top of the page; null where nobody tells."""
    found = card.card()
    return JsonResponse({"model": found and found.get("model"), "synthetic": figures.is_synthetic(found or {})})


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:  # noqa: ARG001 - Django's signature
    """Answer a request whose token is missing or old, such as one from a page that was left open for days."""
    words: dict[str, Any] = {"title": gettext("This page is too old"), "detail": gettext("Load it again.")}
    if request.headers.get("Accept", "").startswith("application/json"):
        return _trouble(Trouble("session", HTTPStatus.FORBIDDEN, "OLD_PAGE", retryable=True))
    return render(request, "webapp/problem.html", words, status=HTTPStatus.FORBIDDEN)
