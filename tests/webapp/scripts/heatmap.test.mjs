import assert from "node:assert/strict";
import { test } from "node:test";

import { COLOURS, colourOf, evidenceMap, evidenceOf, opacityOf, paintFilm, paintMap, windowTable } from "../../../webapp/cxr_webapp/static/webapp/js/heatmap.js";

const PLAIN = windowTable(128, 256, false);

test("the window of 128 and 256 changes no grey, and swapped it gives the complement", () => {
  assert.deepEqual([...PLAIN], Array.from({ length: 256 }, (_, grey) => grey));
  assert.deepEqual([...windowTable(128, 256, true)], Array.from({ length: 256 }, (_, grey) => 255 - grey));
});

test("a narrow window is black below, white above and half between, as DICOM's formula says", () => {
  const table = windowTable(100, 21, false); // from 89.5 to 109.5
  assert.equal(table[89], 0);
  assert.equal(table[110], 255);
  assert.equal(table[99], Math.round(((99 - 99.5) / 20 + 0.5) * 255));
});

test("a level grid is a level map, clipped at full colour", () => {
  assert.ok(evidenceMap([[1, 1], [1, 1]], 4, 5, 3).every((value) => value === 0.25));
  assert.ok(evidenceMap([[-9, -9], [-9, -9]], 4, 5, 3).every((value) => value === -1));
});

test("pixels on the centres of the cells have the cells' own values, and the outer half cells are level", () => {
  const map = evidenceMap([[0, 2]], 4, 8, 1); // centres of the cells: between pixels 1 and 2, 5 and 6
  assert.deepEqual([map[0], map[1], map[6], map[7]].map((value) => value * 4), [0, 0, 2, 2]);
  assert.equal((map[3] + map[4]) / 2, 0.25);
});

test("an older model's values lie on the corners", () => {
  const map = evidenceMap([[0, 2]], 2, 5, 1, false);
  assert.deepEqual([...map], [0, 0.25, 0.5, 0.75, 1]);
});

test("a heat map of the server is neutral at 128 and full at its ends", () => {
  assert.deepEqual([...evidenceOf(Uint8Array.of(0, 1, 128, 255))], [-1, -1, 0, 1]);
});

test("colours end in those of the table and meet in its middle", () => {
  for (const table of Object.values(COLOURS)) {
    assert.deepEqual([-1, 0, 1].map((value) => colourOf(value, table)), [table[0], table[2], table[4]]);
  }
});

test("where there is no evidence the film stays as it is, at any opacity", () => {
  const film = Uint8Array.of(0, 90, 255);
  const [alone, mixed] = [new Uint8ClampedArray(12), new Uint8ClampedArray(12)];
  paintFilm(alone, film, PLAIN);
  paintMap(mixed, film, new Float32Array(3), PLAIN, 1, "warm", 3);
  assert.deepEqual(mixed, alone);
  assert.equal(opacityOf(0, 1), 0);
});

test("full evidence at full opacity is the colour alone", () => {
  const rgba = new Uint8ClampedArray(4);
  paintMap(rgba, Uint8Array.of(17), Float32Array.of(1), PLAIN, 1, "warm", 1);
  assert.deepEqual([...rgba], [...COLOURS.warm[4], 255]);
});

test("lines stand where the evidence crosses a quarter, a half and three quarters of full colour, and nowhere else", () => {
  const [width, height] = [300, 40];
  const evidence = Float32Array.from({ length: width * height }, (_, i) => (i % width) / (width - 1));
  const rgba = new Uint8ClampedArray(4 * width * height);
  paintMap(rgba, new Uint8Array(width * height), evidence, PLAIN, 1, "lines", width);
  const row = Array.from({ length: width }, (_, x) => rgba[4 * (20 * width + x)] > 0);
  const marked = row.flatMap((is, x) => (is ? [x] : []));
  assert.deepEqual(marked, [0.25, 0.5, 0.75].map((share) => Math.ceil(share * (width - 1)) - 1));
});

test("lines for NORMAL are dashed and blue, those for PNEUMONIA solid and amber", () => {
  const [width, height] = [100, 60];
  const ramp = (sign) => Float32Array.from({ length: width * height }, (_, i) => (sign * (i % width)) / (width - 1));
  const painted = (sign) => {
    const rgba = new Uint8ClampedArray(4 * width * height);
    paintMap(rgba, new Uint8Array(width * height), ramp(sign), PLAIN, 1, "lines", width);
    return Array.from({ length: height - 1 }, (_, y) => [...rgba.slice(4 * (y * width + 49), 4 * (y * width + 49) + 3)]);
  };
  const drawn = (column) => column.filter((colour) => colour.some((part) => part > 0));
  assert.equal(drawn(painted(1)).length, height - 1);
  assert.deepEqual(drawn(painted(1))[0], [255, 190, 60]);
  const dashes = drawn(painted(-1));
  assert.ok(dashes.length > height / 3 && dashes.length < (2 * height) / 3);
  assert.deepEqual(dashes[0], [140, 205, 255]);
});
