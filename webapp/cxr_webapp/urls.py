"""Addresses of the page."""

from __future__ import annotations

from django.urls import path
from django.views.decorators.cache import cache_control
from django.views.i18n import JavaScriptCatalog

from cxr_webapp import history, views

_catalogue = cache_control(max_age=300, private=True)(JavaScriptCatalog.as_view(packages=["cxr_webapp"]))

urlpatterns = [
    path("", views.read, name="read"),
    path("about", views.about, name="about"),
    path("acknowledge", views.acknowledge, name="acknowledge"),
    path("films", views.film, name="film"),
    path("server", views.server, name="server"),
    path("history", history.entries, name="history"),
    path("history/delete", history.delete, name="history-delete"),
    path("history/<int:number>.jpg", history.thumbnail, name="history-thumbnail"),
    path("messages.js", _catalogue, name="messages"),
]
