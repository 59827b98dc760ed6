"""The history as a page: look at it, delete from it."""

from __future__ import annotations

from django.conf import settings
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from cxr_webapp import history
from cxr_webapp.models import Result

_PER_PAGE = 50


def _need_history() -> None:
    if not settings.PNEUMOSCAN_HISTORY:
        raise Http404


@require_safe
def entries(request: HttpRequest) -> HttpResponse:
    """What is kept, the newest first; what is over its time is deleted before anyone sees it."""
    _need_history()
    history.purge()
    page = Paginator(Result.objects.defer("thumbnail"), _PER_PAGE).get_page(request.GET.get("page"))
    return render(request, "webapp/history.html", {"page": page, "retention_days": settings.PNEUMOSCAN_RETENTION_DAYS})


@require_safe
def thumbnail(_request: HttpRequest, number: int) -> HttpResponse:
    """The small picture of one entry."""
    _need_history()
    history.purge()
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
