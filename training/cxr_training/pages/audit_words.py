"""The figures of an audit as sentences, by rules that are written down here.

- Better or worse than chance is stated where the 95 % interval lies wholly on that side
  (`cxr_training.measure.shortcuts`); else that the figure "cannot be told from chance", which is never taken for a
  proof that nothing is there.
- One reading does better or worse than another, or a figure falls, where the interval of their difference, both in the
  same resamples, lies wholly on one side of 0; without such an interval nothing is stated.
- What lies behind a figure over all films is looked for within each source that has films of both classes. Where it is
  above chance in one, more than the source is at work. Where it is above chance over all films, and in every one of
  these sources not told from chance and the upper end of its interval below the lower end over all films, the figure
  over all films says which source a film is from. In between, nothing is stated but that the films do not settle it.
- That a head could go by the source is stated where the source is told better than chance within every class in which
  that could be measured.
- Heads with and without a source whose films have one class are set side by side without a judgement.

Causes are never named as found, only as possible: these readings measure what is there, not why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from cxr.model.classes import Scheme
from cxr_training.measure.records import (
    Audit,
    Figure,
    NoFigures,
    Reading,
    ReadingFigures,
    SourceFigures,
    SourceLeftOut,
    SourceNotLeftOut,
)
from cxr_training.measure.shortcut_readings import COARSE
from cxr_training.measure.shortcuts import ABOVE, BELOW, UNCLEAR
from cxr_training.pages.audit_page import title_of
from cxr_training.pages.page import between, listed, number

_LAST: Final = (
    "These readings can show that something beside the lungs goes with the label; none of them can show that nothing "
    "does."
)
_VERDICTS: Final = {
    ABOVE: "better than chance",
    BELOW: "worse than chance, so what it learnt holds the other way round on these films",
    UNCLEAR: "which cannot be told from chance",
}
_NOTHING: Final = "without an interval to judge by"


def plain_words(found: Audit) -> tuple[str, ...]:
    """What the figures say, one paragraph for each question."""
    readings, sources = found.readings, found.sources
    scheme = Scheme(found.classes, found.positive)
    words = [_pixels(readings, scheme), _border(readings, sources, scheme)]
    if "source_alone" in readings:
        alone = readings["source_alone"].overall
        words.append(
            f"Knowing only which source a film is from, and nothing of the film itself, gives {_figure(alone)}, "
            f"{_judged(alone.verdict)}."
        )
    words += [_centre_blanked(readings, sources, scheme), _border_blanked(readings)]
    words += _from_features(found.source_from_features, found.source_from_features_reason)
    words += _left_out(found.leave_one_source_out or (), found.backbone_frozen)
    return (*words, _LAST)


def _pixels(readings: Mapping[str, Reading], scheme: Scheme) -> str:
    pixels, model = readings["pixels"].overall, readings["model"].overall
    return (
        f"From {COARSE * COARSE:,} grey values of each film ({COARSE} x {COARSE}, no detail left), a linear model "
        f"tells {' from '.join(scheme.words)} with {_figure(pixels)}, {_judged(pixels.verdict)}. The model itself "
        f"comes to {_figure(model)} on the same films{_against(pixels)}."
    )


def _against(pixels: ReadingFigures) -> str:
    difference, ci = pixels.difference, pixels.difference_ci
    if difference is None or ci is None:
        return ""
    by = f"by {abs(difference):.3f} ({number(min(map(abs, ci)))} to {number(max(map(abs, ci)))})"
    if ci[1] < 0:
        return f": better, {by}"
    if ci[0] > 0:
        return f": worse, {by}"
    return ": no difference can be told"


def _border(readings: Mapping[str, Reading], sources: Sequence[str], scheme: Scheme) -> str:
    figures = readings["border"].overall
    return (
        "From the border alone, the outer eighth on each side with little lung or none, a linear model tells "
        f"{' from '.join(scheme.words)} with {_figure(figures)} over all films, {_judged(figures.verdict)}."
        + _within(readings["border"], sources, scheme)
    )


def _centre_blanked(readings: Mapping[str, Reading], sources: Sequence[str], scheme: Scheme) -> str:
    figures, whole = readings["model_centre_blanked"].overall, readings["model"].overall
    text = (
        f"With all but the border of each film blanked out, the model itself has {_figure(figures)}, "
        f"{_judged(figures.verdict)}; on whole films it has {_figure(whole)}."
    )
    if figures.verdict == ABOVE:
        text += (
            " So the border alone moves it the right way; how much of that is at work on whole films this cannot say."
        )
    if figures.verdict == UNCLEAR:
        text += " It was not trained on such films, so that is no proof that it leaves the border alone."
    return text + _within(readings["model_centre_blanked"], sources, scheme)


def _border_blanked(readings: Mapping[str, Reading]) -> str:
    figures = readings["model_border_blanked"].overall
    ci, change = figures.difference_ci, figures.difference
    text = f"With the border blanked out instead, it has {_figure(figures)}"
    if ci is None:
        return f"{text}."
    text += f", {change:+.3f} ({ci[0]:+.3f} to {ci[1]:+.3f}) against whole films"
    if ci[1] < 0:
        return f"{text}: it does worse without the border, or is put off by the blank frame."
    return f"{text}: {'better' if ci[0] > 0 else 'no loss can be told'}."


def _within(reading: Reading, sources: Sequence[str], scheme: Scheme) -> str:
    """What the figures within single sources say of the one over all films."""
    overall = reading.overall
    if not sources:
        text = " The films do not say which source they are from, so this may be no more than that."
        return text if overall.verdict == ABOVE else ""
    if len(sources) == 1:
        return f" All films are from one source, {sources[0]}." if overall.verdict == ABOVE else ""
    groups = {source: reading.groups.get(f"source={source}") for source in sources}
    judged = {source: one for source, one in groups.items() if one and one.auroc is not None}
    if not judged:
        text = " No source has films of both classes, so this cannot be told from which source a film is from."
        return text if overall.verdict == ABOVE else ""
    each = [f"{name} {_short(one)}, {_judged(one.verdict)}" for name, one in judged.items()]
    text = f" Within one source: {'; '.join(each)}."
    above = [name for name, one in judged.items() if one.verdict == ABOVE]
    if above:
        return (
            f"{text} So within {listed(above)} something other than the source is at work (it may be collimation, "
            "markers, positioning, or a part of the body that reaches into the border; this cannot say which)."
        )
    if overall.verdict != ABOVE:
        return text
    low = overall.auroc_ci[0] if overall.auroc_ci else overall.auroc or 0.0
    if all(one.verdict == UNCLEAR and one.auroc_ci and one.auroc_ci[1] < low for one in judged.values()):
        shown = scheme.words[0]
        return f"{text} So the figure over all films says which source a film is from, not whether it shows {shown}."
    return f"{text} Whether the figure over all films is more than which source a film is from, these films cannot say."


def _from_features(found: Mapping[str, SourceFigures | NoFigures] | None, reason: str | None) -> list[str]:
    if found is None:
        return [f"Whether the model's features tell the source was not measured: {reason}."]
    clauses: list[str] = []
    for name, one in found.items():
        if isinstance(one, NoFigures):
            continue
        among = "all films" if name == "all" else f"{name} films alone"
        clauses.append(
            f"among {among} with balanced accuracy {_with_interval(one.named('balanced_accuracy'))} "
            f"where chance is {number(one.chance)}, {_judged(one.verdict)}"
        )
    if not clauses:
        return ["Whether the model's features tell the source could not be measured: too few sources share a class."]
    words = f"From the model's own features a linear model tells the source of a film: {'; '.join(clauses)}."
    within = [one.verdict for name, one in found.items() if name != "all" and isinstance(one, SourceFigures)]
    if within and set(within) == {ABOVE}:
        words += " So the source can be read from the features where the label is no help, and a head could go by it."
    return [words]


def _left_out(rows: Sequence[SourceLeftOut | SourceNotLeftOut], frozen: bool) -> list[str]:
    words: list[str] = []
    for row in rows:
        if isinstance(row, SourceNotLeftOut):
            continue
        text = (
            f"Trained without {row.source}, on {row.training_films_without:,} films, a head of the same kind "
            f"comes to {title_of(row)} {_with_interval(row.named('without'))} on its {row.films} films; trained with "
            f"it, on {row.training_films_with:,} films, to {_with_interval(row.named('with_'))}"
        )
        ci = row.difference_ci
        if ci is not None:
            text += f"; the difference is {row.difference:+.3f} ({ci[0]:+.3f} to {ci[1]:+.3f})"
            if ci[1] < 0:
                text += (
                    ", so the figure with it does not hold for a source that was not trained on (that there are fewer "
                    "training films without it may be part of this)"
                )
            elif ci[0] <= 0:
                text += ", which can be none"
        words.append(f"{text}.")
    if words and not frozen:
        words.append("The backbone itself was trained on films of every source, so these figures are still too good.")
    return words


def _figure(figures: ReadingFigures) -> str:
    return f"AUROC {_short(figures)}"


def _short(figures: ReadingFigures) -> str:
    return _with_interval(figures.named("auroc"))


def _with_interval(one: Figure) -> str:
    return f"{number(one.value)} ({between(one.interval) if one.interval else 'no interval'})"


def _judged(verdict: str | None) -> str:
    return _VERDICTS.get(verdict or "", _NOTHING)
