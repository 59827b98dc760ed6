import assert from "node:assert/strict";
import { test } from "node:test";

import { csvOf } from "../../../webapp/cxr_webapp/static/webapp/js/export.js";
import { takePictures } from "../../../webapp/cxr_webapp/static/webapp/js/picture.js";
import { answered, failed, reply } from "./films.mjs";

const lines = (films) => csvOf(films, "Research use only.").trimEnd().split("\r\n");

test("each film is a line, with what is needed to find its answer again", () => {
  const film = { ...answered("a.dcm", 0.75), answeredAt: new Date("2026-03-01T08:30:00Z") };
  const [head, first, second] = lines([film, failed("b.dcm")]).map((line) => line.split(","));
  const cells = Object.fromEntries(head.map((name, i) => [name, first[i]]));
  assert.deepEqual([cells.rank, cells.film, cells.label, cells.probability_pneumonia, cells.error], ["1", "a.dcm", "PNEUMONIA", "0.75", ""]);
  assert.deepEqual([cells.request_id, cells.answered_at], ["4f1c", "2026-03-01T08:30:00.000Z"]);
  assert.equal(second[head.indexOf("error")], "DAMAGED_IMAGE");
  assert.equal(second[head.indexOf("probability_pneumonia")], "");
});

test("no name of a file is a formula for a spreadsheet", () => {
  for (const name of ["=1+1", "+1", "-1", "@SUM(A1)", "＝1", "a;=1", "a\t=1"]) {
    const [, line] = lines([answered(name, 0.5)]);
    assert.doesNotMatch(line.split(",")[1], /(^|[;\t"])[=+\-@＝]/, name);
  }
});

test("commas, quotes and line breaks of a name stay in their cell", () => {
  const [, line] = lines([answered('a,"b"', 0.5)]);
  assert.ok(line.startsWith('1,"a,""b""",'));
});

test("an answer that lacks a number or a word is none", () => {
  assert.ok(takePictures(reply()).film instanceof Blob);
  const broken = [
    { probabilities: {} }, { logits: { NORMAL: 0 } }, { label: undefined }, { decision: { threshold: NaN } },
    { cam: { grid: [[0, null]], bias: 0, png: "AAAA" } }, { image: { flags: [7], png: "AAAA" } }, { model: { version: "1" } },
  ];
  for (const changes of broken) assert.throws(() => takePictures(reply(0.5, changes)), JSON.stringify(changes));
});
