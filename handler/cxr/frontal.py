"""Whether a decoded film may be scored as a frontal film: by its tag, by what the request says, by its look."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cxr.errors import InputError
from cxr.film import Film
from cxr.screen import Screen

LATERAL: Final = "LATERAL"


def check_frontal(film: Film, declared: str | None, screen: Screen | None) -> Film:
    """The film with what is known of its view.

    Parameters
    ----------
    declared
        The view as the request says it, None where it does not: PA, AP or LATERAL.
    screen
        Judges the look of films; None judges nothing.

    Returns
    -------
    The film; its view is the file's tag or, without one, the declared one. Flagged ``inverted`` where it looks frontal
    with black and white swapped, and ``unlike_frontal`` where it does not look frontal and is said to be.

    Raises
    ------
    InputError
        NOT_FRONTAL where the request says so, or where nothing says what the view is and the film looks otherwise.
    """
    if declared == LATERAL:
        raise InputError(
            "NOT_FRONTAL", "the request says that the view is lateral. Send the frontal film of the study."
        )
    view = film.info.view_position or declared
    film = replace(film, info=replace(film.info, view_position=view))
    if screen is None:
        return film
    verdict = screen.judge(film.pixels)
    if verdict.inverted:
        return film.flagged("inverted")
    if verdict.is_frontal:
        return film
    if view is None and screen.refuses:
        raise InputError(
            "NOT_FRONTAL",
            f"the film does not look like a frontal chest film: it scores {verdict.score:.1f}, at least "
            f"{screen.threshold:.1f} is needed. Send the frontal film of the study; if this is one, say so with the "
            "header Cxr-View: PA or AP.",
        )
    return film.flagged("unlike_frontal")
