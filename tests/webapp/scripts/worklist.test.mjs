import assert from "node:assert/strict";
import { test } from "node:test";

import { ordered } from "../../../webapp/cxr_webapp/static/webapp/js/worklist.js";
import { answered, failed, waiting } from "./films.mjs";

const names = (films) => films.map((film) => film.name);

test("the most urgent film stands first, and one without an answer before those called NORMAL", () => {
  const unsure = { decision: { threshold: 0.5, indeterminate: true } };
  const films = [waiting("on its way"), answered("normal", 0.2), failed("damaged"), answered("sure", 0.97), answered("unsure", 0.55, unsure), answered("less", 0.6)];
  assert.deepEqual(names(ordered(films, { by: "urgency", descending: true })), ["sure", "less", "unsure", "damaged", "normal", "on its way"]);
  assert.deepEqual(names(ordered(films, { by: "urgency", descending: false })).at(-1), "sure");
});

test("a film that does not look like a chest film never stands above one that does", () => {
  const odd = { image: { format: "PNG", width: 9, height: 9, flags: ["unlike_frontal"] } };
  const films = [answered("a hand", 0.99, odd), answered("a chest", 0.6), failed("damaged"), answered("normal", 0.1)];
  assert.deepEqual(names(ordered(films, { by: "urgency", descending: true })), ["a chest", "a hand", "damaged", "normal"]);
});

test("names are ordered as people count, and equals stay as they came", () => {
  const films = [answered("film 10", 0.5), answered("film 9", 0.5), answered("film 9", 0.9)];
  const found = ordered(films, { by: "name", descending: false });
  assert.deepEqual(found, [films[1], films[2], films[0]]);
});

test("an order leaves the list itself as it is", () => {
  const films = [answered("b", 0.1), answered("a", 0.9)];
  ordered(films, { by: "name", descending: false });
  assert.deepEqual(names(films), ["b", "a"]);
});
