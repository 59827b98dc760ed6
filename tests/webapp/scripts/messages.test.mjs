import assert from "node:assert/strict";
import { test } from "node:test";

import { gettext, interpolate, ngettext, outcomeOf, share, troubleMessage } from "../../../webapp/cxr_webapp/static/webapp/js/messages.js";
import { answered, failed, waiting } from "./films.mjs";

test("a probability is never written as certainty", () => {
  assert.deepEqual([0, 0.0004, 0.5, 0.9994, 1].map(share), ["<0.001", "<0.001", "0.500", ">0.999", ">0.999"]);
});

test("a trouble of the film is told by its code, one of the server by its kind, and an unknown one all the same", () => {
  assert.match(troubleMessage({ kind: "refused", code: "DAMAGED_IMAGE" }), /damaged/);
  assert.match(troubleMessage({ kind: "refused", code: "A_NEW_ONE" }), /cannot score/);
  assert.match(troubleMessage({ kind: "down", code: "SERVER_DOWN" }), /down/);
  assert.match(troubleMessage({ kind: "a new one", code: "?" }), /failed/);
});

test("a film has one outcome", () => {
  const unsure = { decision: { threshold: 0.5, indeterminate: true } };
  const films = [answered("a", 0.9), answered("b", 0.1), answered("c", 0.5, unsure), failed("d"), waiting("e")];
  assert.deepEqual(films.map(outcomeOf), ["pneumonia", "normal", "indeterminate", "failed", "waiting"]);
});

test("texts come from Django's catalogue where there is one", () => {
  assert.equal(gettext("Try again"), "Try again");
  globalThis.gettext = (text) => ({ "Try again": "Noch einmal" })[text] ?? text;
  try {
    assert.equal(gettext("Try again"), "Noch einmal");
  } finally {
    delete globalThis.gettext;
  }
});

test("one film is no films, and what is filled in is not filled again", () => {
  assert.equal(interpolate(ngettext("%(n)s film", "%(n)s films", 1), { n: 1 }), "1 film");
  assert.equal(interpolate(ngettext("%(n)s film", "%(n)s films", 2), { n: 2 }), "2 films");
  assert.equal(interpolate("%(a)s %(b)s", { a: "%(b)s", b: "x" }), "%(b)s x");
});
