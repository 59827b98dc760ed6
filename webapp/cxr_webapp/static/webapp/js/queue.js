// Films to the server, a few at a time, each by itself: an answer belongs to the request that asked for it.

const AT_ONCE = 4; // enough for the server to batch; more would only wait there
const TRIES = 5; // of a film that an overloaded server turned away
const PAUSING = new Set(["down", "key", "page", "notice", "session"]); // the next film would meet the same

/** Runs films through `send`; `changed(film)` after every step, `paused(error)` when it makes no sense to go on. */
export class Queue {
  constructor({ send, changed, paused, wait = (ms) => new Promise((done) => setTimeout(done, ms)) }) {
    this.send = send;
    this.changed = changed;
    this.paused = paused;
    this.wait = wait;
    this.waiting = [];
    this.running = 0;
    this.stopped = false;
  }

  add(films) {
    for (const film of films) {
      Object.assign(film, { state: "waiting", progress: 0, error: null });
      this.waiting.push(film);
      this.changed(film);
    }
    this.pump();
  }

  /** Go on after a pause; with films that are to be asked about again. */
  resume(films = []) {
    this.stopped = false;
    this.add(films.filter((film) => film.state === "failed"));
  }

  remove(film) {
    this.waiting = this.waiting.filter((other) => other !== film);
    film.removed = true;
    film.request?.abort();
  }

  pump() {
    while (!this.stopped && this.running < AT_ONCE && this.waiting.length) this.run(this.waiting.shift());
  }

  async run(film) {
    this.running++;
    for (let turn = 1; ; turn++) {
      film.state = "sending";
      film.progress = 0;
      this.changed(film);
      const outcome = await this.send(film);
      if (film.removed) break;
      if (outcome.error?.kind === "overloaded" && turn < TRIES && !this.stopped) {
        film.state = "waiting";
        this.changed(film);
        await this.wait(500 * 2 ** turn * (0.75 + Math.random() / 2)); // spread: not all of them again at once
        if (film.removed) break;
        continue;
      }
      Object.assign(film, outcome.error ? { state: "failed", error: outcome.error } : { state: "done", ...outcome });
      this.changed(film);
      if (outcome.error && PAUSING.has(outcome.error.kind)) {
        this.stopped = true;
        this.paused(outcome.error);
      }
      break;
    }
    this.running--;
    this.pump();
  }
}

/** Sends one film as a raw body. XMLHttpRequest, because fetch tells nothing of how far an upload is. */
export function sender({ url, token, keep, changed }) {
  return (film) => new Promise((done) => {
    const request = new XMLHttpRequest();
    const options = new URLSearchParams();
    if (film.view) options.set("view", film.view);
    if (keep()) options.set("keep", "1");
    request.open("POST", `${url}?${options}`);
    request.responseType = "json";
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.setRequestHeader("Accept", "application/json");
    request.setRequestHeader("X-CSRFToken", token);
    request.upload.onprogress = (event) => {
      film.progress = event.lengthComputable ? event.loaded / event.total : 0;
      changed(film);
    };
    request.upload.onload = () => {
      film.state = "scoring";
      changed(film);
    };
    request.onload = () => {
      const answer = request.response;
      if (request.status === 200 && answer?.reply) done({ reply: answer.reply, scale: answer.scale, kept: answer.kept });
      else if (request.status === 413) done({ error: { kind: "size", code: "TOO_MANY_BYTES", retryable: false } });
      else done({ error: answer?.error ?? { kind: "page", code: `HTTP_${request.status}`, retryable: true } });
    };
    const unconnected = { kind: "page", code: "NO_CONNECTION", retryable: true };
    const unreadable = { kind: "unreadable", code: "UNREADABLE_FILE", retryable: false };
    // The browser calls both the same; a folder or a deleted file says nothing about the films after it.
    request.onerror = async () => done({ error: (await isReadable(film.file)) ? unconnected : unreadable });
    request.onabort = () => done({ error: unconnected });
    film.request = request;
    request.send(film.file);
  });
}

const isReadable = (file) => file.slice(0, 1).arrayBuffer().then(() => true, () => false);
