"""Synthetic films to click on when there is no film at hand."""

from __future__ import annotations

from dataclasses import dataclass

from django.contrib.staticfiles import finders
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _


@dataclass(frozen=True)
class Example:
    """A film that `pneumoscan.drawn_films` draws. The title says what was drawn, not what the model will say."""

    file: str
    picture: str
    title: Promise


EXAMPLES = (
    Example("opacity.jpg", "opacity.thumb.jpg", _("Drawn with an opacity")),
    Example("clear.jpg", "clear.thumb.jpg", _("Drawn without one")),
    Example("faint.png", "faint.thumb.jpg", _("Drawn faint, 16-bit PNG")),
    Example("clear.dcm", "clear-dicom.thumb.jpg", _("A DICOM file, MONOCHROME1")),
)


def available() -> list[Example]:
    """Those that were drawn here; none where the page was set up without them."""
    return [example for example in EXAMPLES if finders.find(f"webapp/examples/{example.file}")]
