"""Headers of every page: nothing from elsewhere, nothing inline, nothing kept in a cache but static files."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.middleware.gzip import GZipMiddleware

# blob: and data: are the pictures that the page itself draws. No 'unsafe-inline' anywhere.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)


class Alive:
    """Middleware: answers ``/healthz`` before anything else, whatever host name or scheme a probe asks with.

    It says that this process answers, and nothing of the inference server.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer a probe, or hand on."""
        if request.path_info == "/healthz" and request.method in ("GET", "HEAD"):
            return HttpResponse("ok\n", content_type="text/plain", headers={"Cache-Control": "no-store"})
        return self.get_response(request)


class PageHeaders:
    """Middleware: a content security policy everywhere, and no copy in a cache of what is about a film."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer, and add what the answer lacks."""
        response = self.get_response(request)
        response.setdefault("Content-Security-Policy", POLICY)
        response.setdefault("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
        # Static files bring their own; every other page may show a film.
        response.setdefault("Cache-Control", "no-store")
        return response


class CompressedStatic(GZipMiddleware):
    """Middleware: static files compressed; answers are not, a picture in them only costs time."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """Compress a static file where the browser takes it."""
        if not request.path_info.startswith(settings.STATIC_URL):
            return response
        return super().process_response(request, response)
