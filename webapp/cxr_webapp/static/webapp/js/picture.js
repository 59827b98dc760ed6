// From a server's reply to what the viewer draws: the film and the evidence of each of its pixels.

import { readingOf } from "./reading.js";
import { evidenceMap, evidenceOf, paintMap, windowTable } from "./heatmap.js";

const THUMBNAIL = 88;
const OPACITY = 0.6; // of the server's own overlay

/**
 * The pictures of a reply as blobs, {film, heatMap}; the base64 text is let go, it is a third larger. Throws where the reply
 * lacks what list and panel read of it: one film without an answer is better than a page that throws at every frame.
 */
export function takePictures(reply) {
  const { probabilities, decision, logits, cam, image, model } = reply;
  const numbers = [readingOf(reply).probability, decision.threshold, ...Object.keys(probabilities).map((name) => logits[name]), cam.bias, ...cam.grid.flat()];
  const words = [reply.label, model.version, model.weights_sha256, ...image.flags];
  if (!numbers.every(Number.isFinite) || !words.every((word) => typeof word === "string")) throw new TypeError("no answer");
  const pictures = { film: blobOf(image.png), heatMap: blobOf(cam.png) };
  delete image.png;
  delete cam.png;
  return pictures;
}

const blobOf = (base64) => new Blob([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], { type: "image/png" });

/** A small picture of an answered film with its map, as an address that can be shown. */
export async function thumbnail(film) {
  const { width, height, film: grey, evidence } = await pictureOf(film, THUMBNAIL);
  const image = new ImageData(width, height);
  paintMap(image.data, grey, evidence, windowTable(128, 256, false), OPACITY, "warm", width);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = THUMBNAIL;
  canvas.getContext("2d").putImageData(image, Math.round((THUMBNAIL - width) / 2), Math.round((THUMBNAIL - height) / 2)); // the middle square
  return canvas.toDataURL("image/jpeg", 0.8);
}

/**
 * What the viewer draws of an answered film: {width, height, film, evidence}; with `side`, brought down to that length of its
 * shorter side. The model card tells the scale, by which the map is drawn from the grid; without a card it comes from the
 * server's heat map, whose 255 steps show as rings where there is little evidence.
 */
export async function pictureOf({ pictures, reply, scale }, side = Infinity) {
  const bitmap = await bitmapOf(pictures.film);
  const zoom = Math.min(side / Math.min(bitmap.width, bitmap.height), 1);
  const [width, height] = [Math.round(bitmap.width * zoom), Math.round(bitmap.height * zoom)];
  const film = greyOf(bitmap, width, height);
  const evidence = scale
    ? evidenceMap(reply.cam.grid, scale.cam_scale, width, height, scale.cam_cells === "centres")
    : evidenceOf(greyOf(await bitmapOf(pictures.heatMap), width, height));
  return { width, height, film, evidence };
}

const bitmapOf = (blob) => createImageBitmap(blob, { colorSpaceConversion: "none" });

function greyOf(bitmap, width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  return Uint8Array.from({ length: width * height }, (_, i) => rgba[4 * i]);
}
