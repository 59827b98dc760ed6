// From a server's reply to what the viewer draws: the film and the evidence of each of its pixels.

import { barWidth, evidenceMap, filmUnder } from "./heatmap.js";

const THUMBNAIL = 88;

/**
 * The overlay of a reply as a blob; the base64 text is let go, it is a third larger. Throws where the reply lacks what list
 * and panel read of it: one film without an answer is better than a page that throws at every frame.
 */
export function takeOverlay(reply) {
  const { probabilities, decision, logits, cam, image, model } = reply;
  const numbers = [probabilities.PNEUMONIA, decision.threshold, logits.PNEUMONIA, logits.NORMAL, cam.bias, ...cam.grid.flat()];
  const words = [reply.label, model.version, model.weights_sha256, ...image.flags];
  if (!numbers.every(Number.isFinite) || !words.every((word) => typeof word === "string")) throw new TypeError("no answer");
  const bytes = Uint8Array.from(atob(reply.cam.png), (letter) => letter.charCodeAt(0));
  delete reply.cam.png;
  return new Blob([bytes], { type: "image/png" });
}

/** A small picture of the overlay, as an address that can be shown. */
export async function thumbnail(overlay) {
  const bitmap = await createImageBitmap(overlay);
  const width = bitmap.width - barWidth(bitmap.height);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = THUMBNAIL;
  const side = Math.min(width, bitmap.height); // the middle square
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const [left, top] = [(width - side) / 2, (bitmap.height - side) / 2];
  context.drawImage(bitmap, left, top, side, side, 0, 0, THUMBNAIL, THUMBNAIL);
  bitmap.close();
  return canvas.toDataURL("image/jpeg", 0.8);
}

/**
 * What the viewer draws of an answered film: {width, height, film, evidence}. Without the model card nobody knows the scale,
 * so the map cannot be taken off: then `film` is null and `rgba` the server's own picture.
 */
export async function pictureOf(film) {
  const bitmap = await createImageBitmap(film.overlay, { colorSpaceConversion: "none" });
  const { height } = bitmap;
  const width = bitmap.width - barWidth(height);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  if (!film.scale) return { width, height, rgba, film: null, evidence: null };
  const evidence = evidenceMap(film.reply.cam.grid, film.scale.cam_scale, width, height);
  return { width, height, film: filmUnder(rgba, evidence), evidence, rgba: null };
}
