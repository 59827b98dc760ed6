// How films get in: chosen, dropped anywhere on the page, or clicked among the examples.

import { find, findAll } from "./elements.js";
import { interpolate, ngettext } from "./messages.js";
import { filesOf, filmsIn } from "./study.js";

/** Connect the ways in; `add(files, synthetic)` takes films, `failed()` says that an example did not come. */
export function connectIntake(add, failed) {
  const input = find("#files");
  const maxBytes = Number(find("#main").dataset.maxBytes);
  const take = async ({ files, leftOut: beside }) => {
    const { films, leftOut } = await filmsIn(files, maxBytes);
    if (films.length) add(films);
    const count = beside + leftOut;
    find("#left-out").hidden = !count;
    const words = ngettext("Left out, no PNG, JPEG or DICOM: %(count)s file", "Left out, no PNG, JPEG or DICOM: %(count)s files", count);
    find("#left-out").textContent = count ? interpolate(words, { count }) : "";
  };
  for (const button of findAll("[data-choose]")) button.addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    take({ files: [...input.files], leftOut: 0 });
    input.value = ""; // so that the same film can be chosen again
  });
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (/** @type {DragEvent} */ event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      find("#drop").classList.add("over");
    });
  }
  for (const name of ["dragleave", "drop"]) {
    document.addEventListener(name, (/** @type {DragEvent} */ event) => {
      event.preventDefault(); // a film that misses the box must not replace the page
      if (name === "drop" || !event.relatedTarget) find("#drop").classList.remove("over");
      if (name === "drop" && event.dataTransfer.files.length) filesOf(event.dataTransfer).then(take);
    });
  }
  for (const button of findAll("[data-example]")) button.addEventListener("click", () => addExample(button, add, failed));
}

async function addExample(button, add, failed) {
  button.disabled = true;
  try {
    const reply = await fetch(button.dataset.example);
    if (!reply.ok) throw new Error(String(reply.status));
    add([new File([await reply.blob()], button.dataset.name)], true);
  } catch {
    failed();
  } finally {
    button.disabled = false;
  }
}
