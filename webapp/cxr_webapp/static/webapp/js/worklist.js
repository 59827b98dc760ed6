// The worklist: one row for each film, kept in place while its film is on the way, the most urgent first.

import { inWordsOf, readingOf } from "./reading.js";
import { element, find, findAll } from "./elements.js";
import { goThrough, keepOneStop } from "./focus.js";
import { flagMessage, gettext, interpolate, outcomeOf, outcomeWord, share, troubleMessage } from "./messages.js";

// A film without an answer may be the critical one: it comes before the films that were called NORMAL.
const RANK = { pneumonia: 4, indeterminate: 3, failed: 2, normal: 1, waiting: 0 };

// What is called PNEUMONIA and may be no chest film is looked at after those that are.
const DOUBTFUL = 2.5;

/** What the list is ordered by: class of outcome first, then probability. */
export function urgency(film) {
  const rank = RANK[outcomeOf(film)];
  const doubtful = film.reply?.image.flags.includes("unlike_frontal");
  return (doubtful ? Math.min(rank, DOUBTFUL) : rank) + (film.reply ? readingOf(film.reply).probability : 0) / 4;
}

/** Films in the order of the list. */
export function ordered(films, { by, descending }) {
  const sign = descending ? -1 : 1;
  const compare = by === "name"
    ? (one, two) => one.name.localeCompare(two.name, undefined, { numeric: true })
    : (one, two) => urgency(one) - urgency(two);
  return [...films].sort((one, two) => sign * compare(one, two) || one.id - two.id);
}

/** Draws films into the page's table; `open`, `retry` and `remove` are called with a film. */
export class Worklist {
  constructor({ open, retry, remove }) {
    this.open = open;
    this.retry = retry;
    this.remove = remove;
    this.body = find("#worklist tbody");
    this.rows = new Map();
    this.order = { by: "urgency", descending: true };
    this.filter = "all";
    this.text = "";
    this.films = [];
    this.chosen = null;
    for (const header of findAll("#worklist [data-sort]")) {
      find("button", header).addEventListener("click", () => this.sortBy(header.dataset.sort));
    }
    for (const button of findAll("[data-filter]")) {
      button.addEventListener("click", () => {
        this.filter = button.dataset.filter;
        this.update();
      });
    }
    goThrough(this.body, { next: "ArrowDown", previous: "ArrowUp" }, () => findAll(".open", this.body));
    find("#find").addEventListener("input", (event) => {
      this.text = event.target.value.trim().toLowerCase();
      this.update();
    });
  }

  sortBy(name) {
    const same = this.order.by === name;
    this.order = { by: name, descending: same ? !this.order.descending : name === "urgency" };
    for (const header of findAll("#worklist [data-sort]")) header.removeAttribute("aria-sort");
    find(`#worklist [data-sort=${name}]`).setAttribute("aria-sort", this.order.descending ? "descending" : "ascending");
    this.update();
  }

  /** The films that are shown, in their order. */
  visible() {
    const wanted = (film) => (this.filter === "all" || outcomeOf(film) === this.filter) && film.name.toLowerCase().includes(this.text);
    return ordered(this.films.filter(wanted), this.order);
  }

  update(films = this.films, chosen = this.chosen) {
    this.films = films;
    this.chosen = chosen;
    const counts = { all: films.length };
    for (const film of films) counts[outcomeOf(film)] = (counts[outcomeOf(film)] ?? 0) + 1;
    for (const button of findAll("[data-filter]")) {
      find("span", button).textContent = counts[button.dataset.filter] ?? 0;
      button.firstChild.data = inWordsOf(films.find((film) => film.reply)?.reply, button.firstChild.data);
      button.setAttribute("aria-pressed", String(button.dataset.filter === this.filter));
    }
    for (const [film, row] of this.rows) {
      if (!films.includes(film)) {
        row.remove();
        this.rows.delete(film);
      }
    }
    const rows = this.visible().map((film) => this.row(film));
    const focused = /** @type {HTMLElement} */ (document.activeElement);
    // Only what moved is touched: a row that is moved loses focus and a progress bar its animation.
    rows.forEach((row, place) => {
      if (this.body.children[place] !== row) this.body.insertBefore(row, this.body.children[place] ?? null);
    });
    while (this.body.children.length > rows.length) this.body.lastElementChild.remove();
    if (focused !== document.activeElement && this.body.contains(focused)) focused.focus();
    keepOneStop(rows.map((row) => findAll("button", row)), this.rows.get(chosen));
    find("#none").hidden = !films.length || rows.length > 0;
  }

  /** Bring a film's row into sight; the list may be long, and keys go through all of it. */
  reveal(film) {
    this.update(this.films, film);
    this.rows.get(film)?.scrollIntoView({ block: "nearest" });
  }

  row(film) {
    if (!this.rows.has(film)) this.rows.set(film, this.newRow(film));
    const row = this.rows.get(film);
    row.classList.toggle("chosen", film === this.chosen);
    find(".open", row).setAttribute("aria-current", String(film === this.chosen));
    // Written anew only where it changed, for the same reason.
    const state = JSON.stringify([film.state, Math.round(film.progress * 50), film.error, film.picture, film.view]);
    if (row.dataset.state !== state) {
      row.dataset.state = state;
      row.dataset.outcome = outcomeOf(film);
      find(".state", row).replaceChildren(...stateOf(film));
      find(".score", row).replaceChildren(...scoreOf(film));
      find(".retry", row).hidden = film.state !== "failed" || film.error.retryable === false;
      if (film.picture && find("img", row).src !== film.picture) find("img", row).src = film.picture;
      find("img", row).hidden = !film.picture;
    }
    return row;
  }

  newRow(film) {
    const name = element("button", { type: "button", className: "open", title: film.name }, element("b", { textContent: film.name }));
    name.addEventListener("click", () => this.open(film));
    const retry = element("button", { type: "button", className: "retry", title: gettext("Try again"), attributes: { "aria-label": interpolate(gettext("Try %(name)s again"), film) } }, "↻");
    retry.addEventListener("click", () => this.retry(film));
    const remove = element("button", { type: "button", title: gettext("Remove"), attributes: { "aria-label": interpolate(gettext("Remove %(name)s"), film) } }, "×");
    remove.addEventListener("click", () => this.remove(film));
    const picture = element("img", { alt: "", width: 44, height: 44, hidden: true });
    const row = element("tr", {},
      element("td", { className: "film" }, element("span", { className: "thumb" }, picture), element("div", {}, name, element("div", { className: "state" }))),
      element("td", { className: "score" }),
      element("td", { className: "actions" }, retry, remove));
    row.addEventListener("click", (event) => {
      if (!event.target.closest("button")) this.open(film);
    });
    return row;
  }
}

function stateOf(film) {
  if (film.state === "done") {
    const flags = film.reply.image.flags.map((flag) => element("span", { className: "flag", title: flagMessage(flag) }, flag.replaceAll("_", " ")));
    return [element("span", { className: `chip ${outcomeOf(film)}` }, outcomeWord(film)), ...flags];
  }
  if (film.state === "failed") return [element("span", { className: "why" }, troubleMessage(film.error))];
  const bar = element("progress", { max: 1, attributes: { "aria-label": interpolate(gettext("Progress of %(name)s"), film) } });
  if (film.state === "sending") bar.value = film.progress;
  if (film.state === "waiting") bar.value = 0; // without a value: at work, no telling how long
  const words = { waiting: gettext("waiting"), sending: gettext("sending"), scoring: gettext("scoring") };
  return [bar, element("small", {}, words[film.state])];
}

function scoreOf(film) {
  if (film.state !== "done") return [film.state === "failed" ? "–" : ""];
  const { probability } = readingOf(film.reply);
  const bar = element("span", { className: "bar", attributes: { "aria-hidden": "true" } }, element("i"));
  bar.firstChild.style.width = `${probability * 100}%`;
  return [element("span", { className: "number" }, share(probability)), bar];
}
