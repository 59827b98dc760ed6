// The reading page: films in, list and viewer kept in step. All of it lives in this tab and goes with it.

import { inWordsOf, readingOf } from "./reading.js";
import { connectControls, showSettings } from "./controls.js";
import { find } from "./elements.js";
import { csvOf, pngOf, save } from "./export.js";
import { connectIntake } from "./intake.js";
import { pictureOf, takePictures, thumbnail } from "./picture.js";
import { Queue, sender } from "./queue.js";
import { showResult } from "./result.js";
import { Viewer } from "./viewer.js";
import { gettext, interpolate, ngettext, outcomeOf, share, troubleMessage } from "./messages.js";
import { Worklist } from "./worklist.js";

const page = find("#main");
const { filmUrl, serverUrl, token } = page.dataset;
const maxBytes = Number(page.dataset.maxBytes);
const notice = find(".notice").textContent;

let films = [];
let chosen = null;
let choseByHand = false;
let number = 0;

const viewer = new Viewer(find("#view"), (now) => showSettings(now, chosen));
const list = new Worklist({ open: (film) => open(film, true), retry: (film) => again(film, film.view), remove });
const queue = new Queue({
  send: sender({ url: filmUrl, token, keep: () => find("#keep")?.checked ?? false, changed: refresh }),
  changed: filmChanged,
  paused: (error) => {
    showBanner(troubleMessage(error));
    if (error.kind === "notice") askToAcknowledge(); // the session ended while the page was open
  },
});

// ---- films -----------------------------------------------------------------------------------------------------

function add(files, synthetic = false) {
  find("#cleared").hidden = true; // who goes on means it
  cleared = [];
  const fresh = [...files].map((file) => ({ id: ++number, name: file.name || gettext("film"), file, synthetic, state: "waiting", progress: 0, reply: null }));
  films.push(...fresh);
  const tooLarge = fresh.filter((film) => film.file.size > maxBytes);
  for (const film of tooLarge) Object.assign(film, { state: "failed", error: { kind: "size", code: "TOO_MANY_BYTES", retryable: false } });
  queue.add(fresh.filter((film) => !tooLarge.includes(film)));
  refresh();
}

async function filmChanged(film) {
  if (film.state === "done" && !film.pictures) {
    takeAnswer(film);
  }
  if (film.state === "done" || film.state === "failed") {
    // Until the reader takes one, the viewer follows the most urgent film.
    if (!choseByHand && film.state === "done") open(list.visible().find((one) => one.state === "done") ?? film);
    else if (!chosen && !busy()) open(film);
    else if (film === chosen) open(film);
    if (!busy()) find("#view-words").textContent = inWordsOf(film.reply, summary());
  }
  refresh();
}

function takeAnswer(film) {
  try {
    film.pictures = takePictures(film.reply);
    film.answeredAt = new Date();
  } catch {
    Object.assign(film, { state: "failed", reply: null, scale: null, error: { kind: "failed", code: "BAD_ANSWER", retryable: true } });
    return;
  }
  thumbnail(film).then((address) => {
    film.picture = address;
    refresh();
  }, () => {}); // without a small picture; who opens the film is told
  showModel(film.reply.model);
}

const busy = () => films.some((film) => ["waiting", "sending", "scoring"].includes(film.state)) && !queue.stopped;

function summary() {
  const count = (outcome) => films.filter((film) => outcomeOf(film) === outcome).length;
  const words = ngettext(
    "%(all)s film: %(pneumonia)s PNEUMONIA, %(unsure)s unsure, %(normal)s NORMAL, %(failed)s without an answer",
    "%(all)s films: %(pneumonia)s PNEUMONIA, %(unsure)s unsure, %(normal)s NORMAL, %(failed)s without an answer",
    films.length,
  );
  return interpolate(words, {
    all: films.length, pneumonia: count("pneumonia"), unsure: count("indeterminate"), normal: count("normal"), failed: count("failed"),
  });
}

function again(film, view) {
  film.view = view;
  if (queue.stopped) hideBanner();
  queue.resume([film]);
  if (film === chosen) showResult(film, again);
}

function remove(film) {
  queue.remove(film);
  films = films.filter((other) => other !== film);
  if (film === chosen) {
    chosen = null;
    const next = list.visible().find((one) => one !== film && films.includes(one));
    if (next) open(next, choseByHand);
    else close();
  }
  refresh();
}

let cleared = [];

function clear() {
  const words = ngettext("Remove %(all)s film and its answer from this page?", "Remove %(all)s films and their answers from this page?", films.length);
  if (!confirm(interpolate(words, { all: films.length }))) return;
  cleared = films;
  [...films].forEach(remove);
  find("#cleared").hidden = false;
  find("#undo").focus();
}

function undo() {
  find("#cleared").hidden = true;
  films = [...cleared, ...films];
  for (const film of cleared) film.removed = false;
  queue.add(cleared.filter((film) => !["done", "failed"].includes(film.state)));
  cleared = [];
  list.update(films, null);
  const [first] = list.visible();
  if (first) open(first);
}

let drawing = false;
function refresh() {
  if (drawing) return; // fifty films tell of their progress at once
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    list.update(films, chosen);
    for (const id of ["tools", "scroller", "foot"]) find(`#${id}`).hidden = !films.length;
    page.classList.toggle("working", films.length > 0);
  });
}

// ---- the chosen film -------------------------------------------------------------------------------------------

async function open(film, byHand = false) {
  choseByHand ||= byHand;
  const before = chosen;
  chosen = film;
  // The viewer holds the chosen film's picture or none: no verdict ever stands beside another film.
  if (before !== film || film.state !== "done") viewer.show(null);
  refresh();
  find("#panel").hidden = false;
  showResult(film, again);
  if (film.state !== "done" || viewer.picture) showStage(film, film.state === "failed" ? gettext("No picture: this film has no answer.") : "");
  else {
    showStage(film, gettext("Drawing the film …"));
    const picture = await pictureOf(film).catch(() => null);
    if (chosen !== film || viewer.picture) return; // the reader went on meanwhile, or came back and has it
    if (picture) {
      film.drawn = { width: picture.width, height: picture.height };
      viewer.show(picture);
    }
    showStage(film, gettext("No picture: the browser cannot read the one the server sent. The answer beside it stands."));
    showResult(film, again);
  }
  if (byHand && isOneColumn()) find(".stage").scrollIntoView();
}

/** True where the viewer stands below the list, by the style sheet and not by a width of its own. */
const isOneColumn = () => getComputedStyle(page).flexDirection === "column";

function close() {
  viewer.show(null);
  choseByHand = false;
  find("#panel").hidden = true;
  find("#toolbar").hidden = find("#view").hidden = find("#scale").hidden = true;
  find("#welcome").hidden = false;
  find("#nothing").hidden = true;
}

/** The stage of the chosen film; `why` says what there is to see as long as its picture is not there. */
function showStage(film, why = "") {
  const drawn = viewer.picture !== null;
  find("#toolbar").hidden = film.state !== "done";
  find("#view").hidden = !drawn;
  for (const id of ["save-png", "print"]) find(`#${id}`).disabled = !drawn;
  find("#welcome").hidden = true;
  find("#nothing").hidden = drawn || !why;
  find("#nothing").textContent = why;
  find("#corner-film").textContent = drawn ? `${film.reply.image.format} ${film.reply.image.width} × ${film.reply.image.height}` : "";
  if (drawn) find("#view").setAttribute("aria-label", interpolate(gettext("%(name)s: %(label)s, probability of pneumonia %(p)s, with its heat map"), { name: film.name, label: film.reply.label, p: share(readingOf(film.reply).probability) }));
  viewer.draw();
  showSettings(viewer.settings, chosen);
}

function step(by) {
  const visible = list.visible();
  if (!visible.length) return;
  const place = visible.indexOf(chosen);
  const film = visible[Math.min(Math.max(place + by, 0), visible.length - 1)];
  open(film, true);
  list.reveal(film);
}

// ---- the page around it ----------------------------------------------------------------------------------------

function showModel(model) {
  find("#model").textContent = `${model.name} ${model.version}${model.pretrained === "random" ? ` · ${gettext("demonstration only: random weights")}` : ""}`;
  find("#model").classList.toggle("random", model.pretrained === "random");
}

function showBanner(message) {
  find("#banner p").textContent = message;
  find("#banner").hidden = false;
}

function hideBanner() {
  find("#banner").hidden = true;
}

function connect() {
  connectIntake(add, () => showBanner(troubleMessage({ kind: "page" })));
  find("#previous").addEventListener("click", () => step(-1));
  find("#next").addEventListener("click", () => step(1));
  find("#csv").addEventListener("click", () => save(new Blob([csvOf(list.visible(), notice)], { type: "text/csv" }), "pneumoscan-worklist.csv"));
  find("#save-png").addEventListener("click", savePng);
  find("#print").addEventListener("click", () => print());
  find("#clear").addEventListener("click", clear);
  find("#undo").addEventListener("click", undo);
  find("#retry-all").addEventListener("click", retryAll);
  // Escape is no acknowledgement, and a browser lets nobody keep a dialog open against it.
  find("#ack").addEventListener("close", () => page.dataset.acknowledged === "1" || askToAcknowledge());
  find("#ack form").addEventListener("submit", acknowledge);
  addEventListener("beforeunload", (event) => {
    if (films.length) event.preventDefault(); // films and answers live in this tab alone
  });
  connectControls(viewer, step);
  noticeHands();
}

/** Who handles the viewer or its controls has taken the film: another that comes in must not replace it. */
function noticeHands() {
  const taken = () => {
    choseByHand ||= chosen !== null;
  };
  for (const part of [".stage", ".panel"]) {
    for (const name of ["pointerdown", "wheel", "keydown", "input"]) find(part).addEventListener(name, taken, { passive: true });
  }
  // The viewer's keys work wherever the focus is; one that did something was prevented.
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented) taken();
  });
}

async function savePng() {
  const blob = await pngOf(chosen, viewer, notice);
  if (blob) save(blob, "pneumoscan-result.png");
}

function askToAcknowledge() {
  if (!find("#ack").open) find("#ack").showModal();
}

async function acknowledge(event) {
  event.preventDefault(); // a new page would lose the films of this one
  const form = event.target;
  try {
    const reply = await fetch(form.action, { method: "POST", body: new URLSearchParams(/** @type {any} */ (new FormData(form))) });
    if (!reply.ok) throw new Error(String(reply.status));
  } catch {
    form.submit();
    return;
  }
  find("#ack").close();
  page.dataset.acknowledged = "1";
  retryAll();
}

function retryAll() {
  hideBanner();
  queue.resume(films.filter((film) => film.state === "failed" && film.error.retryable !== false));
}

async function greet() {
  if (page.dataset.acknowledged !== "1") askToAcknowledge();
  try {
    const { model } = await (await fetch(serverUrl)).json();
    if (model) showModel(model);
  } catch {
    // Nobody tells the model's name; the first film will find out why.
  }
}

connect();
greet();
