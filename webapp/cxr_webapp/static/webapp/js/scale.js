// The colour scale beside the film: logits, the same on every film of a model.

import { COLOURS, colourOf, opacityOf } from "./heatmap.js";
import { find } from "./elements.js";

/** Draw the scale on a context, full PNEUMONIA at the right, over mid-grey as over a film. */
export function drawBar(context, left, top, width, height, { colours, opacity }) {
  const table = COLOURS[colours] ?? null;
  for (let column = 0; column < width; column++) {
    const evidence = (2 * column) / (width - 1) - 1;
    if (table) {
      const covered = opacityOf(evidence, opacity);
      const mixed = colourOf(evidence, table).map((part) => Math.round(128 * (1 - covered) + part * covered));
      context.fillStyle = `rgb(${mixed.join()})`;
    } else {
      const marked = [0.25, 0.5, 0.75].some((line) => Math.abs(Math.abs(evidence) - line) < 2 / width);
      context.fillStyle = marked ? (evidence > 0 ? "rgb(255,190,60)" : "rgb(140,205,255)") : "rgb(70,70,70)";
    }
    context.fillRect(left + column, top, 1, height);
  }
}

/** The words at the two ends of the scale; a model of other classes brings its own. */
export const ends = (scale) => [`${scale.ends?.[0] ?? "NORMAL"} −${scale.cam_scale.toPrecision(2)}`, `+${scale.cam_scale.toPrecision(2)} ${scale.ends?.[1] ?? "PNEUMONIA"}`];

/** Show the scale under the film; without a scale or a map, hide it. */
export function showScale(scale, settings) {
  find("#scale").hidden = !scale || !settings.map;
  if (!scale) return;
  const canvas = find("#scale-bar");
  drawBar(canvas.getContext("2d"), 0, 0, canvas.width, canvas.height, settings);
  [find("#scale-low").textContent, find("#scale-high").textContent] = ends(scale);
}
