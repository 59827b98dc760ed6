// The films of a study: in ZIP files and folders they are found by their first bytes, and what is none is counted.

const HEAD = 1024; // bytes by which a film is known
const MOST_MEMBERS = 10_000; // of a ZIP; as in pneumoscan/film_files.py
const MOST_UNPACKED = 2_000_000_000; // bytes of one choice: they are held by this tab
const TABLE_OF_CONTENTS = "1.2.840.10008.1.3.10"; // the SOP class of a DICOMDIR
const PICTURES = [[0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a], [0xff, 0xd8, 0xff]];
const latin = new TextDecoder("latin1");

/** Whether a file is taken for a film by its first bytes. */
export function isFilm(head) {
  const begins = (bytes, at = 0) => bytes.every((byte, index) => head[at + index] === byte);
  if (PICTURES.some((bytes) => begins(bytes))) return true;
  const dicm = [0x44, 0x49, 0x43, 0x4d];
  if (begins(dicm, 128) || begins(dicm)) return !latin.decode(head).includes(TABLE_OF_CONTENTS);
  if (!begins([8, 0]) || head.length < 132) return false; // a DICOM file without its meta group
  const hasVr = /^[A-Z]{2}$/.test(latin.decode(head.subarray(4, 6)));
  return hasVr || new DataView(head.buffer, head.byteOffset).getUint32(4, true) <= 1024;
}

/**
 * The films in what was chosen. A file is taken as it is: the server says what is wrong with it. From a ZIP come its films;
 * one that cannot be unpacked is taken as it is too, so that it has an answer.
 * @param {Iterable<File>} files
 * @param {number} maxBytes of one film
 * @returns {Promise<{films: File[], leftOut: number}>}
 */
export async function filmsIn(files, maxBytes) {
  const films = [];
  let leftOut = 0;
  let room = MOST_UNPACKED;
  for (const file of files) {
    const inside = (await isZip(file)) ? await unpacked(file, maxBytes, room).catch(() => null) : null;
    films.push(...(inside?.films ?? [file]));
    leftOut += inside?.leftOut ?? 0;
    room = inside?.room ?? room;
  }
  return { films, leftOut };
}

/**
 * The files of what was dropped, those of folders by their content.
 * @param {DataTransfer} dropped
 * @returns {Promise<{files: File[], leftOut: number}>}
 */
export async function filesOf(dropped) {
  // All entries are taken before the first wait: after it the browser has forgotten what was dropped.
  const entries = [...dropped.items].map((item) => item.webkitGetAsEntry?.() ?? null);
  const plain = [...dropped.files];
  if (!entries.some((entry) => entry?.isDirectory)) return { files: plain, leftOut: 0 };
  const files = [];
  let leftOut = 0;
  for (const entry of entries) {
    if (entry?.isFile) files.push(await fileOf(entry));
    else if (entry) {
      for (const file of await walked(entry)) {
        if ((await isZip(file)) || isFilm(await headOf(file))) files.push(file);
        else leftOut++;
      }
    }
  }
  return { files, leftOut };
}

const fileOf = (entry) => new Promise((done, failed) => entry.file(done, failed));
const headOf = async (file) => new Uint8Array(await file.slice(0, HEAD).arrayBuffer());
const isHidden = (path) => path.split("/").some((part) => part.startsWith(".") || part === "__MACOSX");

async function isZip(file) {
  const head = await headOf(file).catch(() => new Uint8Array()); // one that cannot be read is told by its upload
  return head[0] === 0x50 && head[1] === 0x4b && [3, 5].includes(head[2]);
}

/** The files in a folder and the folders in it, by name; hidden ones are passed over. */
async function walked(folder) {
  const reader = folder.createReader();
  const entries = [];
  for (let some; (some = await new Promise((done, failed) => reader.readEntries(done, failed))).length; ) entries.push(...some);
  entries.sort((one, other) => (one.name < other.name ? -1 : 1));
  const files = [];
  for (const entry of entries.filter((one) => !isHidden(one.name))) {
    if (entry.isFile) files.push(await fileOf(entry));
    else files.push(...(await walked(entry)));
  }
  return files;
}

/** The films in a ZIP (PKWARE APPNOTE 4.3), how many files are none, and the bytes that may still be unpacked. */
async function unpacked(file, maxBytes, room) {
  const members = (await membersOf(file)).filter(({ name }) => !name.endsWith("/") && !isHidden(name));
  const films = [];
  let leftOut = 0;
  for (const member of members) {
    const bytes = await bytesOf(file, member, Math.min(maxBytes, room)).catch(() => null);
    if (!bytes) leftOut++;
    else {
      room -= bytes.size;
      films.push(new File([bytes], member.name));
    }
  }
  return { films, leftOut, room };
}

/** The entries of a ZIP's central directory. */
async function membersOf(file) {
  const tailStart = Math.max(file.size - 65_557, 0);
  const tail = new DataView(await file.slice(tailStart).arrayBuffer());
  let end = tail.byteLength - 22;
  while (end >= 0 && tail.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0) throw new Error("no end of a central directory");
  const [count, size, start] = [tail.getUint16(end + 10, true), tail.getUint32(end + 12, true), tail.getUint32(end + 16, true)];
  if (count > MOST_MEMBERS || start + size > file.size) throw new Error("beyond the bounds, or ZIP64");
  const directory = new DataView(await file.slice(start, start + size).arrayBuffer());
  const members = [];
  for (let at = 0; members.length < count; ) {
    if (directory.getUint32(at, true) !== 0x02014b50) throw new Error("damaged");
    const [name, extra, comment] = [28, 30, 32].map((place) => directory.getUint16(at + place, true));
    members.push({
      name: new TextDecoder().decode(new Uint8Array(directory.buffer, at + 46, name)),
      encrypted: (directory.getUint16(at + 8, true) & 1) === 1,
      method: directory.getUint16(at + 10, true),
      packed: directory.getUint32(at + 20, true),
      start: directory.getUint32(at + 42, true),
    });
    at += 46 + name + extra + comment;
  }
  return members;
}

/** The bytes of a film in a ZIP, null where it is none; unpacking ends as soon as that is known, or at `most` bytes. */
async function bytesOf(file, { encrypted, method, packed, start }, most) {
  if (encrypted || ![0, 8].includes(method)) return null;
  const local = new DataView(await file.slice(start, start + 30).arrayBuffer());
  const first = start + 30 + local.getUint16(26, true) + local.getUint16(28, true);
  const stored = file.slice(first, first + packed).stream();
  const reader = (method ? stored.pipeThrough(new DecompressionStream("deflate-raw")) : stored).getReader();
  const parts = [];
  let size = 0;
  let known = false;
  for (let step; !(step = await reader.read()).done; ) {
    parts.push(step.value);
    size += step.value.length;
    if (!known && size >= HEAD) {
      known = isFilm(new Uint8Array(await new Blob(parts).slice(0, HEAD).arrayBuffer()));
      if (!known) break;
    }
    if (size > most) break;
  }
  await reader.cancel().catch(() => {});
  const bytes = new Blob(parts);
  return size <= most && (known || isFilm(await headOf(bytes))) ? bytes : null;
}
