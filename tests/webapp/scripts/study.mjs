import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { filesOf, filmsIn, isFilm } from "../../../webapp/cxr_webapp/static/webapp/js/study.js";

const MOST = 48 * 1024 * 1024;
const png = new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 1, 2, 3]);
const study = () => new File([readFileSync(process.env.STUDY)], "study.zip"); // written by the test in Python

test("a film is known by its first bytes, whatever it is called", () => {
  const dicom = new Uint8Array(200);
  dicom.set(new TextEncoder().encode("DICM"), 128);
  assert.ok(isFilm(png) && isFilm(new Uint8Array([0xff, 0xd8, 0xff, 0xe0])) && isFilm(dicom));
  const table = dicom.slice();
  table.set(new TextEncoder().encode("1.2.840.10008.1.3.10"), 140);
  assert.ok(!isFilm(table), "a DICOMDIR");
  const bare = new Uint8Array(200);
  bare.set([8, 0, 5, 0, 0x43, 0x53]); // group 8, CS
  assert.ok(isFilm(bare) && !isFilm(new Uint8Array([8, 0])) && !isFilm(new Uint8Array()));
});

test("the films of a ZIP come out whole, the others are counted", async () => {
  const { films, leftOut } = await filmsIn([study()], MOST);
  assert.deepEqual(films.map(({ name }) => name), ["a/IM0001", "b/stored.png"]);
  assert.equal(leftOut, 3);
  for (const film of films) assert.deepEqual(new Uint8Array(await film.slice(0, 8).arrayBuffer()), png.slice(0, 8));
  assert.deepEqual(films.map(({ size }) => size), [100_008, 11]);
});

test("what is larger than a film may be is left out", async () => {
  const { films, leftOut } = await filmsIn([study()], 1000);
  assert.deepEqual(films.map(({ name }) => name), ["b/stored.png"]);
  assert.equal(leftOut, 4);
});

test("a file that was chosen is taken as it is, and so is a ZIP that is damaged", async () => {
  const text = new File(["no film"], "notes.txt");
  const cut = new File([(await study().arrayBuffer()).slice(0, 300)], "cut.zip");
  const { films, leftOut } = await filmsIn([text, cut], MOST);
  assert.deepEqual([films.map(({ name }) => name), leftOut], [["notes.txt", "cut.zip"], 0]);
});

test("of a folder that was dropped the films are taken, the others counted, the hidden passed over", async () => {
  const entry = (file) => ({ name: file.name, isFile: true, isDirectory: false, file: (done) => done(file) });
  const folder = (name, entries) => ({
    name, isFile: false, isDirectory: true,
    createReader: () => {
      const parts = [entries, []];
      return { readEntries: (done) => done(parts.shift()) };
    },
  });
  const inner = folder("series", [entry(new File([png], "IM2")), entry(new File(["x"], "report.txt"))]);
  const root = folder("study", [inner, entry(new File([png], "IM1")), entry(new File(["x"], ".DS_Store"))]);
  const { files, leftOut } = await filesOf({ items: [{ webkitGetAsEntry: () => root }], files: [] });
  assert.deepEqual([files.map(({ name }) => name).sort(), leftOut], [["IM1", "IM2"], 1]);
});
