// The map over the film, as cxr/model/cam.py and cxr/serving/render.py draw it.
// Pure functions on arrays: no page, no canvas.

const POWER = 0.6; // below 1, so that half the scale can be seen on a bright film
const STOPS = [-1, -0.5, 0, 0.5, 1];
export const COLOURS = {
  warm: [[30, 80, 255], [90, 190, 255], [235, 235, 235], [255, 205, 60], [255, 50, 10]],
  // ColorBrewer's PuOr, whose ends differ for every kind of colour vision.
  purple: [[94, 60, 190], [178, 171, 230], [240, 240, 240], [253, 184, 99], [240, 110, 0]],
};
const LINES_AT = [0.25, 0.5, 0.75]; // shares of full colour
const LINE_PNEUMONIA = [255, 190, 60];
const LINE_NORMAL = [140, 205, 255];

/**
 * Where pixel `i` of `length` lies between `cells` values: on the centres of the cells, level beyond the outer ones; or, for
 * models whose card tells of no cells, the outer values on the outer pixels.
 */
function placeOf(i, length, cells, onCentres) {
  if (!onCentres) return length > 1 ? (i * (cells - 1)) / (length - 1) : 0;
  return Math.min(Math.max(((i + 0.5) * cells) / length - 0.5, 0), cells - 1);
}

/** Signed evidence of each pixel, -1 to 1: the grid in logits, bilinear. */
export function evidenceMap(grid, scale, width, height, onCentres = true) {
  const rows = grid.length;
  const columns = grid[0].length;
  const evidence = new Float32Array(width * height);
  const left = new Uint8Array(width);
  const share = new Float32Array(width);
  for (let x = 0; x < width; x++) {
    const at = placeOf(x, width, columns, onCentres);
    left[x] = Math.min(Math.floor(at), Math.max(columns - 2, 0));
    share[x] = at - left[x];
  }
  for (let y = 0, i = 0; y < height; y++) {
    const at = placeOf(y, height, rows, onCentres);
    const top = Math.min(Math.floor(at), Math.max(rows - 2, 0));
    const down = at - top;
    const above = grid[top];
    const below = grid[Math.min(top + 1, rows - 1)];
    for (let x = 0; x < width; x++, i++) {
      const a = left[x];
      const b = Math.min(a + 1, columns - 1);
      const upper = above[a] + (above[b] - above[a]) * share[x];
      const lower = below[a] + (below[b] - below[a]) * share[x];
      evidence[i] = Math.min(1, Math.max(-1, (upper + (lower - upper) * down) / scale));
    }
  }
  return evidence;
}

/** Signed evidence of each pixel from the server's own heat map: 128 is none, 255 full PNEUMONIA, 1 full NORMAL. */
export const evidenceOf = (heatMap) => Float32Array.from(heatMap, (grey) => Math.max(-1, (grey - 128) / 127));

/** The colour of an evidence value: three numbers, 0 to 255. */
export function colourOf(evidence, table) {
  const place = Math.min(Math.max((evidence - STOPS[0]) / 0.5, 0), STOPS.length - 1);
  const low = Math.min(Math.floor(place), STOPS.length - 2);
  const between = place - low;
  return table[low].map((value, channel) => Math.round(value + (table[low + 1][channel] - value) * between));
}

/** How opaque an evidence value is, where the slider stands at `most` (0 to 1). */
export const opacityOf = (evidence, most) => most * Math.abs(evidence) ** POWER;

/** Grey values 0 to 255 as a screen shows them: the linear window of DICOM PS3.3 C.11.2.1.2.1; 128 and 256 change nothing. */
export function windowTable(level, width, inverted) {
  const table = new Uint8ClampedArray(256);
  for (let grey = 0; grey < 256; grey++) {
    const shown = ((grey - (level - 0.5)) / Math.max(width - 1, 1) + 0.5) * 255;
    table[grey] = inverted ? 255 - Math.min(Math.max(shown, 0), 255) : shown;
  }
  return table;
}

/** The film alone into RGBA pixels. */
export function paintFilm(rgba, film, table) {
  const words = new Uint32Array(rgba.buffer);
  const grey = Uint32Array.from(table, (value) => (0xff000000 | (value << 16) | (value << 8) | value) >>> 0);
  for (let i = 0; i < film.length; i++) words[i] = grey[film[i]];
}

/** Film and map into RGBA pixels; `colours` names a table or is "lines". */
export function paintMap(rgba, film, evidence, table, opacity, colours, width) {
  if (colours === "lines") {
    paintFilm(rgba, film, table);
    paintLines(rgba, evidence, opacity, width);
    return;
  }
  const half = 1023; // steps to full colour: near 0 the opacity is steep, and coarse ones would show as rings
  const levels = 2 * half + 1;
  const mixed = new Float32Array(levels * 3);
  const kept = new Float32Array(levels);
  for (let at = 0; at < levels; at++) {
    const value = at / half - 1;
    const covered = opacityOf(value, opacity);
    kept[at] = 1 - covered;
    colourOf(value, COLOURS[colours]).forEach((part, channel) => { mixed[at * 3 + channel] = part * covered; });
  }
  for (let i = 0, at = 0; i < film.length; i++, at += 4) {
    const level = Math.round(evidence[i] * half) + half;
    const grey = table[film[i]] * kept[level];
    rgba[at] = grey + mixed[level * 3];
    rgba[at + 1] = grey + mixed[level * 3 + 1];
    rgba[at + 2] = grey + mixed[level * 3 + 2];
    rgba[at + 3] = 255;
  }
}

// Lines of equal evidence: solid for PNEUMONIA, dashed for NORMAL, so that no colour has to be told from another.
function paintLines(rgba, evidence, opacity, width) {
  const reach = Math.max(1, Math.round(width / 400));
  const levels = levelsOf(evidence);
  const strength = Math.min(1, opacity * 1.5);
  for (let i = 0; i + reach * width + reach < levels.length; i++) {
    const right = levels[i + reach];
    const below = levels[i + reach * width];
    if (levels[i] === right && levels[i] === below) continue;
    const sign = Math.sign(levels[i] || right || below);
    const x = i % width;
    if (x + reach >= width) continue;
    if (sign < 0 && Math.floor((x + Math.floor(i / width)) / (6 * reach)) % 2) continue;
    const colour = sign > 0 ? LINE_PNEUMONIA : LINE_NORMAL;
    for (let channel = 0; channel < 3; channel++) {
      rgba[i * 4 + channel] += (colour[channel] - rgba[i * 4 + channel]) * strength;
    }
  }
}

// How many lines lie between 0 and each pixel's evidence, with its sign. A loop without a call: it runs over every pixel.
function levelsOf(evidence) {
  const [first, second, third] = LINES_AT;
  const levels = new Int8Array(evidence.length);
  for (let i = 0; i < evidence.length; i++) {
    const value = evidence[i];
    const size = value < 0 ? -value : value;
    if (size < first) continue;
    const level = size < second ? 1 : size < third ? 2 : 3;
    levels[i] = value < 0 ? -level : level;
  }
  return levels;
}
