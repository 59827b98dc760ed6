// The panel beside the viewer: what the server said of one film, in words.

import { byClass, readingOf } from "./reading.js";
import { element, find, findAll } from "./elements.js";
import { gauge } from "./gauge.js";
import { flagMessage, gettext, interpolate, outcomeOf, share, troubleMessage } from "./messages.js";

const VERDICTS = {
  pneumonia: (reply) => reply.label,
  normal: (reply) => reply.label,
  indeterminate: () => gettext("Indeterminate"),
};

/** Fill the panel; `again(film, view)` asks once more. */
export function showResult(film, again) {
  find("#result-title").textContent = film.name;
  find("#result-title").title = film.name;
  find("#result").replaceChildren(...(film.state === "done" ? answer(film) : pending(film, again)));
  find("#facts").replaceChildren(...(film.state === "done" ? facts(film) : []));
  for (const controls of findAll(".controls")) controls.disabled = film.state !== "done";
  find("#panel").dataset.outcome = outcomeOf(film);
}

function answer(film) {
  const { reply, scale } = film;
  const outcome = outcomeOf(film);
  const leaning = outcome === "indeterminate" ? element("span", { className: "leaning" }, interpolate(gettext("leaning to %(label)s"), reply)) : null;
  const parts = [
    element("p", { className: `verdict ${outcome}` }, element("strong", {}, VERDICTS[outcome](reply)), leaning,
      element("span", { className: "p" }, `P(${readingOf(reply).positive}) ${share(readingOf(reply).probability)}`)),
    gauge(reply, scale?.indeterminate),
  ];
  // xgettext:no-javascript-format
  if (outcome === "indeterminate") parts.push(element("p", { className: "hint" }, gettext("Between the thresholds for 95 % sensitivity and 95 % specificity: the model cannot tell.")));
  if (film.synthetic) parts.push(element("p", { className: "hint" }, gettext("A synthetic film, drawn by a program.")));
  if (film.view) parts.push(element("p", { className: "hint" }, interpolate(gettext("Scored as a %(view)s view, because you said so."), film)));
  for (const flag of reply.image.flags) parts.push(element("p", { className: "warn" }, flagMessage(flag)));
  if (reply.model.pretrained === "random") parts.push(element("p", { className: "warn" }, gettext("A demonstration model on random weights: neither number nor map says anything about a person.")));
  if (!scale) parts.push(element("p", { className: "warn" }, gettext("The model card is not at hand, so nobody tells how many logits full colour is. See the page about the model.")));
  return parts;
}

function pending(film, again) {
  if (film.state !== "failed") return [element("p", { className: "hint" }, gettext("On the way …"))];
  const parts = [element("p", { className: "verdict failed" }, element("strong", {}, gettext("No answer"))), element("p", { className: "warn" }, troubleMessage(film.error))];
  if (film.error.detail && film.error.kind === "refused") {
    parts.push(element("details", {}, element("summary", {}, gettext("What the server said")), element("p", {}, film.error.detail)));
  }
  const button = (words, view) => {
    const made = element("button", { type: "button" }, words);
    made.addEventListener("click", () => again(film, view));
    return made;
  };
  if (film.error.code === "NOT_FRONTAL" && !film.view) {
    parts.push(element("p", { className: "hint" }, gettext("If you know that it is a frontal film, say so; the answer is then flagged.")),
      element("p", { className: "choices" }, button(gettext("It is a PA view"), "PA"), button(gettext("It is an AP view"), "AP")));
  }
  if (film.error.retryable) parts.push(element("p", { className: "choices" }, button(gettext("Try again"), film.view)));
  return parts;
}

function facts(film) {
  const { image, model, cam, logits } = film.reply;
  const rows = [
    [gettext("Film"), `${image.format}, ${image.width} × ${image.height}, ${image.bits} bit${image.view_position ? `, ${image.view_position}` : ""}`],
    [gettext("Shown at"), film.drawn ? `${film.drawn.width} × ${film.drawn.height}` : "–"],
    [gettext("Model"), `${model.name} ${model.version}, ${model.arch}`],
    [gettext("Logits"), byClass(logits, (value) => value.toFixed(2))],
    ...(film.reply.decision.positive ? [["P", byClass(film.reply.probabilities, share)]] : []),
    [gettext("Map"), interpolate(gettext("mean %(mean)s + bias %(bias)s = %(sum)s logits"), sums(cam))],
  ];
  return rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
}

function sums(cam) {
  const cells = cam.grid.flat();
  const mean = cells.reduce((sum, cell) => sum + cell, 0) / cells.length;
  return { mean: mean.toFixed(2), bias: cam.bias.toFixed(2), sum: (mean + cam.bias).toFixed(2) };
}
