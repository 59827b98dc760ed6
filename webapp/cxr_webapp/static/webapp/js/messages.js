// The messages for a reader of what the server says by codes. Django's catalogue translates them.

import { readingOf } from "./reading.js";

// Under the names by which `makemessages` finds the texts of a script.
export const gettext = (text) => (globalThis.gettext ? globalThis.gettext(text) : text);
export const ngettext = (one, many, count) => (globalThis.ngettext ? globalThis.ngettext(one, many, count) : count === 1 ? one : many);
/** A text with its `%(name)s` filled in. */
export const interpolate = (text, values) => text.replace(/%\((\w+)\)s/g, (_, name) => String(values[name]));

const FLAGS = {
  inverted: () => gettext("Black and white look swapped. The film was scored as it came."),
  clipped: () => gettext("Much of the film is pure black or pure white: the export may have lost detail."),
  unlike_frontal: () => gettext("This does not look like a frontal chest film. Read the result with care."),
  bit_depth_unsure: () => gettext("Which values are black and white had to be guessed: the film may be too dark or too bright."),
  window_unreadable: () => gettext("The window of the file cannot be read. The film was shown without it."),
  for_processing: () => gettext("These are raw values of the detector. Send the processed film of the study if you can."),
  polarity_unsure: () => gettext("The file contradicts itself on black and white. Look whether the film is a negative."),
  turned: () => gettext("The film lay on its side. It was set upright."),
  tag_overruled: () => gettext("The file says it is no frontal chest film; it was scored because you said it is."),
  unusual_greys: () => gettext("Black, middle and white lie otherwise than in the films the model learned from. Read the result with care."),
};

const CODES = {
  EMPTY_BODY: () => gettext("The file is empty."),
  TOO_MANY_BYTES: () => gettext("The file is too large. Send the film alone, or compressed."),
  TOO_MANY_PIXELS: () => gettext("The film has too many pixels. Send a smaller rendering."),
  UNKNOWN_FORMAT: () => gettext("This is no JPEG, PNG or DICOM file."),
  UNSUPPORTED_ENCODING: () => gettext("The file is packed (gzip). Unpack it and send what is in it."),
  UNSUPPORTED_TRANSFER_SYNTAX: () => gettext("This DICOM compression is not read. Export the film uncompressed."),
  DAMAGED_IMAGE: () => gettext("The file is damaged or ends early. Export it again."),
  NOT_A_RADIOGRAPH: () => gettext("This is no chest radiograph: a CT, another body part or a colour picture."),
  NOT_FRONTAL: () => gettext("This is not a frontal film. Only PA and AP views are scored."),
  MULTI_FRAME: () => gettext("The file holds more than one picture. Send one as its own file."),
  TOO_SMALL: () => gettext("The picture is too small to show a lung. Send the original."),
  NO_CONTRAST: () => gettext("The picture is one even grey. Check how it was exported."),
  NOT_FINITE: () => gettext("The model gave no usable number for this film."),
  OUT_OF_MEMORY: () => gettext("The server has no memory for this film just now."),
  NO_MODEL: () => gettext("The server has no model of this name. Ask who runs it."),
};

const KINDS = {
  down: () => gettext("The inference server is down: nobody answers there. The films are kept; try again once it runs."),
  slow: () => gettext("The inference server is slow: no answer within the time limit. The film is kept; try again."),
  overloaded: () => gettext("The inference server is overloaded. The film is kept; try again in a moment."),
  key: () => gettext("The inference server does not accept this page's key. The films are kept; ask who runs the page."),
  page: () => gettext("This page's own server does not answer. The films are kept; try again once you are connected."),
  session: () => gettext("This page was open too long. Load it again; then choose the films again."),
  notice: () => gettext("Please acknowledge the notice first. The films are kept."),
  cut: () => gettext("The upload broke off. The film is kept; try again."),
  size: CODES.TOO_MANY_BYTES,
  unreadable: () => gettext("This file cannot be read any more: choose it again; drop the files, not the folder."),
  failed: () => gettext("The inference server failed on this film. The film is kept; try again."),
  refused: () => gettext("The server cannot score this file."),
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
  indeterminate: () => gettext("Unsure"),
  normal: () => "NORMAL",
  failed: () => gettext("No answer"),
  waiting: () => gettext("Waiting"),
};

/** The outcome of a film in a word: its label, or that it is open. */
export const outcomeWord = (film) => (["pneumonia", "normal"].includes(outcomeOf(film)) ? film.reply.label : OUTCOMES[outcomeOf(film)]());
