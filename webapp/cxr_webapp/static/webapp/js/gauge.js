// The probability on its scale from 0 to 1, with the threshold and the indeterminate band.

import { readingOf } from "./reading.js";
import { shape } from "./elements.js";
import { gettext, interpolate, share } from "./messages.js";

const WIDTH = 300;
const LEFT = 10;
const SPAN = WIDTH - 2 * LEFT;
const at = (value) => LEFT + value * SPAN;

/** An SVG that says the same in its label. */
export function gauge(reply, band) {
  const { probability } = readingOf(reply);
  const { threshold } = reply.decision;
  const words = [interpolate(gettext("Probability of pneumonia %(p)s, threshold %(threshold)s"), { p: share(probability), threshold: share(threshold) })];
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} 66`, class: "gauge", role: "img" });
  svg.append(shape("rect", { x: LEFT, y: 26, width: SPAN, height: 12, rx: 3, class: "track" }));
  svg.append(shape("rect", { x: at(threshold), y: 26, width: Math.max(SPAN * (1 - threshold), 0), height: 12, rx: 3, class: "above" }));
  if (band && band[1] > band[0]) {
    svg.append(shape("rect", { x: at(band[0]), y: 22, width: Math.max(SPAN * (band[1] - band[0]), 2), height: 20, class: "band" }));
    words.push(interpolate(gettext("indeterminate from %(low)s to %(high)s"), { low: share(band[0]), high: share(band[1]) }));
  }
  svg.append(shape("line", { x1: at(threshold), x2: at(threshold), y1: 18, y2: 46, class: "threshold" }));
  for (const value of [0, 0.5, 1]) {
    svg.append(shape("text", { x: at(value), y: 62, class: "tick", "text-anchor": ["start", "middle", "end"][value * 2] }, String(value)));
  }
  const anchor = threshold < 0.25 ? "start" : threshold > 0.75 ? "end" : "middle";
  svg.append(shape("text", { x: at(threshold), y: 13, class: "tick strong", "text-anchor": anchor }, `${gettext("threshold")} ${share(threshold)}`));
  svg.append(shape("path", { d: `M${at(probability)} 40l7 11h-14z`, class: "needle" }));
  svg.append(shape("line", { x1: at(probability), x2: at(probability), y1: 24, y2: 40, class: "needle-line" }));
  svg.setAttribute("aria-label", words.join("; "));
  return svg;
}
