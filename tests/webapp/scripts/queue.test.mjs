import assert from "node:assert/strict";
import { test } from "node:test";

import { Queue } from "../../../webapp/cxr_webapp/static/webapp/js/queue.js";
import { reply, waiting } from "./films.mjs";

const settled = async (queue) => {
  for (let turn = 0; turn < 1000 && (queue.running || (queue.waiting.length && !queue.stopped)); turn++) await new Promise(setImmediate);
};

/** A queue whose films are answered by `send`, with the waits it asked for and the troubles it paused on. */
function queueOf(send) {
  const waits = [];
  const pauses = [];
  const queue = new Queue({ send, changed: () => {}, paused: (error) => pauses.push(error.kind), wait: async (ms) => waits.push(ms) });
  return { queue, waits, pauses };
}

test("no more than four films are asked about at once, and each keeps its own answer", async () => {
  let running = 0;
  let most = 0;
  const { queue } = queueOf(async (film) => {
    most = Math.max(most, ++running);
    await new Promise(setImmediate);
    running--;
    return { reply: reply(film.probability) };
  });
  const films = Array.from({ length: 20 }, (_, i) => ({ ...waiting(`film ${i}`), probability: i / 20 }));
  queue.add(films);
  await settled(queue);
  assert.equal(most, 4);
  for (const film of films) assert.equal(film.reply.probabilities.PNEUMONIA, film.probability);
});

test("an overloaded server is asked five times, later each time, and then the film is kept", async () => {
  const busy = { error: { kind: "overloaded", code: "OVERLOADED", retryable: true } };
  let asked = 0;
  const { queue, waits } = queueOf(async () => {
    asked++;
    return busy;
  });
  const film = waiting("film");
  queue.add([film]);
  await settled(queue);
  assert.equal(asked, 5);
  assert.equal(film.state, "failed");
  waits.forEach((ms, turn) => assert.ok(ms >= 0.75 * 1000 * 2 ** turn && ms <= 1.25 * 1000 * 2 ** turn, String(ms)));
});

test("a server that is down stops the queue; with the next resume the films are asked about again", async () => {
  let down = true;
  const { queue, pauses } = queueOf(async () => (down ? { error: { kind: "down", code: "SERVER_DOWN", retryable: true } } : { reply: reply() }));
  const films = Array.from({ length: 9 }, (_, i) => waiting(`film ${i}`));
  queue.add(films);
  await settled(queue);
  assert.ok(pauses.length >= 1 && pauses.length <= 4);
  assert.ok(films.filter((film) => film.state === "waiting").length >= 5); // nobody asked about them in vain
  down = false;
  queue.resume(films);
  await settled(queue);
  assert.deepEqual(new Set(films.map((film) => film.state)), new Set(["done"]));
});

test("a film that was removed on its way is told of no more, and its request ends", async () => {
  let answer;
  let aborted = false;
  const changes = [];
  const queue = new Queue({ send: () => new Promise((done) => { answer = done; }), changed: (film) => changes.push(film.state), paused: () => {} });
  const film = { ...waiting("film"), request: { abort: () => { aborted = true; } } };
  queue.add([film]);
  queue.remove(film);
  const before = changes.length;
  answer({ reply: reply() });
  await settled(queue);
  assert.ok(aborted);
  assert.equal(changes.length, before);
  assert.equal(film.reply, null);
});
