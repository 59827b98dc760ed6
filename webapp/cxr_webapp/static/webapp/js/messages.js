// The messages for a reader of what the server says by codes. Django's catalogue translates them.

import { readingOf } from "./reading.js";

export const t = (text) => (globalThis.gettext ? globalThis.gettext(text) : text);
export const fill = (text, values) => t(text).replace(/%\((\w+)\)s/g, (_, name) => String(values[name]));

const FLAGS = {
  inverted: () => t("Black and white look swapped. The film was scored as it came."),
  clipped: () => t("Much of the film is pure black or pure white: the export may have lost detail."),
  unlike_frontal: () => t("This does not look like a frontal chest film. Read the result with care."),
  bit_depth_unsure: () => t("Which values are black and white had to be guessed: the film may be too dark or too bright."),
  window_unreadable: () => t("The window of the file cannot be read. The film was shown without it."),
  for_processing: () => t("These are raw values of the detector. Send the processed film of the study if you can."),
  polarity_unsure: () => t("The file contradicts itself on black and white. Look whether the film is a negative."),
  turned: () => t("The film lay on its side. It was set upright."),
  tag_overruled: () => t("The file says it is no frontal chest film; it was scored because you said it is."),
};

const CODES = {
  EMPTY_BODY: () => t("The file is empty."),
  TOO_MANY_BYTES: () => t("The file is too large. Send the film alone, or compressed."),
  TOO_MANY_PIXELS: () => t("The film has too many pixels. Send a smaller rendering."),
  UNKNOWN_FORMAT: () => t("This is no JPEG, PNG or DICOM file."),
  UNSUPPORTED_ENCODING: () => t("The file is packed (gzip). Unpack it and send what is in it."),
  UNSUPPORTED_TRANSFER_SYNTAX: () => t("This DICOM compression is not read. Export the film uncompressed."),
  DAMAGED_IMAGE: () => t("The file is damaged or ends early. Export it again."),
  NOT_A_RADIOGRAPH: () => t("This is no chest radiograph: a CT, another body part or a colour picture."),
  NOT_FRONTAL: () => t("This is not a frontal film. Only PA and AP views are scored."),
  MULTI_FRAME: () => t("The file holds more than one picture. Send one as its own file."),
  TOO_SMALL: () => t("The picture is too small to show a lung. Send the original."),
  NO_CONTRAST: () => t("The picture is one even grey. Check how it was exported."),
  NOT_FINITE: () => t("The model gave no usable number for this film."),
  OUT_OF_MEMORY: () => t("The server has no memory for this film just now."),
  NO_MODEL: () => t("The server has no model of this name. Ask who runs it."),
};

const KINDS = {
  down: () => t("The inference server is down: nobody answers there. The films are kept; try again once it runs."),
  slow: () => t("The inference server is slow: no answer within the time limit. The film is kept; try again."),
  overloaded: () => t("The inference server is overloaded. The film is kept; try again in a moment."),
  key: () => t("The inference server does not accept this page's key. The films are kept; ask who runs the page."),
  page: () => t("This page's own server does not answer. The films are kept; try again once you are connected."),
  session: () => t("This page was open too long. Load it again; then choose the films anew."),
  notice: () => t("Please acknowledge the notice first. The films are kept."),
  cut: () => t("The upload broke off. The film is kept; try again."),
  size: CODES.TOO_MANY_BYTES,
  unreadable: () => t("This file cannot be read any more: choose it again; drop the files, not the folder."),
  failed: () => t("The inference server failed on this film. The film is kept; try again."),
  refused: () => t("The server cannot score this file."),
};

export const flagMessage = (flag) => (FLAGS[flag] ? FLAGS[flag]() : flag);

/** What went wrong, as a message. */
export function troubleMessage(error) {
  const byCode = error.kind === "refused" || error.code === "OUT_OF_MEMORY" || error.code === "NO_MODEL";
  if (byCode && CODES[error.code]) return CODES[error.code]();
  return (KINDS[error.kind] ?? KINDS.failed)();
}

/** A probability as it is written everywhere on the page; never as certainty. */
export function share(value) {
  if (value > 0.999) return ">0.999"; // the server rounds to 6 digits: what looks like 1 is not
  return value < 0.001 ? "<0.001" : value.toFixed(3);
}

/** The class of a film that decides its place in the worklist. */
export function outcomeOf(film) {
  if (film.state === "failed") return "failed";
  if (film.state !== "done") return "waiting";
  if (film.reply.decision.indeterminate) return "indeterminate";
  return readingOf(film.reply).called ? "pneumonia" : "normal";
}

export const OUTCOMES = {
  pneumonia: () => "PNEUMONIA",
  indeterminate: () => t("Unsure"),
  normal: () => "NORMAL",
  failed: () => t("No answer"),
  waiting: () => t("Waiting"),
};

/** The outcome of a film in a word: its label, or that it is open. */
export const outcomeWord = (film) => (["pneumonia", "normal"].includes(outcomeOf(film)) ? film.reply.label : OUTCOMES[outcomeOf(film)]());
