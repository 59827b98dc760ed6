// What leaves the page: CSV of the list, PNG of a result. Made in the browser; nothing is sent anywhere.

import { readingOf } from "./reading.js";
import { gauge } from "./gauge.js";
import { drawBar, ends } from "./scale.js";
import { gettext, outcomeWord, share } from "./messages.js";

const COLUMNS = ["rank", "film", "result", "label", "probability_pneumonia", "threshold", "indeterminate", "flags", "format", "width", "height", "model_version", "weights_sha256", "request_id", "answered_at", "error", "notice"];

/** Films, in the order given, as CSV. */
export function csvOf(films, notice) {
  const rows = films.map((film, place) => {
    const reply = film.state === "done" ? film.reply : null;
    return [
      place + 1, film.name, outcomeWord(film), reply?.label, reply && readingOf(reply).probability, reply?.decision.threshold,
      reply?.decision.indeterminate, reply?.image.flags.join(" "), reply?.image.format, reply?.image.width, reply?.image.height,
      reply?.model.version, reply?.model.weights_sha256, reply?.request_id, film.answeredAt?.toISOString(), film.error?.code, notice,
    ];
  });
  return [COLUMNS, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

function cell(value) {
  if (value === null || value === undefined) return "";
  let text = String(value);
  // A file may be called =HYPERLINK(…): a spreadsheet would run it, also in full width and after what it may split at.
  if (typeof value === "string") text = text.replace(/(^|[;\t\r\n])(?=[=+\-@\t\r＝＋－＠])/g, "$1'");
  return /[",;\t\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Hand the reader a file. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** The result page as a PNG: film, film with map, scale, figures and the notice; null where the viewer went on meanwhile. */
export async function pngOf(film, viewer, notice) {
  const { picture } = viewer;
  const dial = await gaugePicture(film.reply, film.scale?.indeterminate);
  // From here on nothing waits, so that verdict and picture are one film's.
  if (!picture || viewer.picture !== picture) return null;
  viewer.paint(); // its own turn may not have come yet
  const { width, height } = picture;
  const zoom = 560 / Math.max(width, height);
  const [across, down] = [Math.round(width * zoom), Math.round(height * zoom)];
  const canvas = document.createElement("canvas");
  canvas.width = 2 * across + 60;
  canvas.height = down + 190;
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  const write = (text, x, y, font = "15px system-ui, sans-serif", colour = "#111", most = undefined) => {
    context.font = font;
    context.fillStyle = colour;
    context.fillText(text, x, y, most);
  };
  const { reply, scale } = film;
  write(`${outcomeWord(film)}   P(${readingOf(reply).positive}) ${share(readingOf(reply).probability)}`, 24, 40, "bold 24px system-ui, sans-serif");
  write(film.name, 24, 66, undefined, "#444", canvas.width - 400);
  context.drawImage(dial, canvas.width - 330, 12, 300, 66);
  context.imageSmoothingQuality = "high";
  context.drawImage(viewer.layers.film, 24, 86, across, down);
  context.drawImage(viewer.layers.map, across + 36, 86, across, down);
  if (scale && viewer.settings.map) {
    const [low, high] = ends(scale);
    const middle = 36 + 1.5 * across;
    context.textAlign = "right";
    write(low, middle - 90, down + 110, "13px system-ui, sans-serif");
    context.textAlign = "left";
    drawBar(context, middle - 80, down + 98, 160, 14, viewer.settings);
    write(high, middle + 90, down + 110, "13px system-ui, sans-serif");
    context.textAlign = "center";
    write(gettext("logits, same on every film"), middle, down + 130, "12px system-ui, sans-serif", "#444");
    context.textAlign = "left";
  }
  const { model } = reply;
  const words = reply.image.flags.length ? ` · ${reply.image.flags.join(", ")}` : "";
  write(`${model.name} ${model.version} · ${model.arch} · ${model.weights_sha256.slice(0, 12)}${words}`, 24, down + 112, "13px system-ui, sans-serif", "#444");
  write(notice, 24, down + 156, "bold 18px system-ui, sans-serif", "#a11");
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

// Drawn again on white: a picture of an SVG knows no style sheet.
async function gaugePicture(reply, band) {
  const svg = gauge(reply, band);
  const paint = { track: ["fill", "#ddd"], above: ["fill", "#f2b8a2"], band: ["fill", "#8888"], threshold: ["stroke", "#111"], needle: ["fill", "#111"], "needle-line": ["stroke", "#111"] };
  for (const [name, [attribute, colour]] of Object.entries(paint)) {
    for (const part of svg.querySelectorAll(`.${name}`)) part.setAttribute(attribute, colour);
  }
  svg.querySelectorAll("text").forEach((text) => text.setAttribute("font-size", "11"));
  svg.querySelectorAll("text").forEach((text) => text.setAttribute("font-family", "sans-serif"));
  Object.entries({ width: 600, height: 132 }).forEach(([name, value]) => svg.setAttribute(name, value));
  const image = new Image();
  image.src = `data:image/svg+xml,${encodeURIComponent(new XMLSerializer().serializeToString(svg))}`;
  await image.decode();
  return image;
}
