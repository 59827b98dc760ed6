// What sets the viewer: buttons, sliders and keys, kept in step with its settings whoever changed them.

import { find, findAll } from "./elements.js";
import { goThrough, keepOneStop } from "./focus.js";
import { listenToKeys, listenToPointers } from "./gestures.js";
import { showScale } from "./scale.js";

let tool = "pan";

/** Show the viewer's settings of the chosen film. */
export function showSettings(now, chosen) {
  const drawn = chosen?.state === "done";
  find("#map").checked = now.map;
  find("#opacity").value = now.opacity * 100;
  find("#opacity-words").textContent = `${Math.round(now.opacity * 100)} %`;
  find("#colours").value = now.colours;
  find("#level").value = find("#level-words").textContent = now.level;
  find("#width").value = find("#width-words").textContent = now.width;
  find("#invert").checked = now.invert;
  find("#zoom").textContent = `${Math.round(now.zoom * 100)} %`;
  find("#corner-window").textContent = drawn ? `L ${now.level}  W ${now.width}` : "";
  find("#wiper").hidden = now.layout !== "wipe" || !drawn;
  find("#wiper").value = now.wipe * 100;
  for (const button of findAll("[data-layout]")) button.setAttribute("aria-pressed", String(button.dataset.layout === now.layout));
  showScale(drawn ? chosen.scale : null, now);
}

/** Connect the controls to a viewer; `step(by)` goes to another film. */
export function connectControls(viewer, step) {
  for (const button of findAll("[data-layout]")) button.addEventListener("click", () => viewer.set({ layout: button.dataset.layout }));
  for (const button of findAll("[data-tool]")) button.addEventListener("click", () => useTool(button.dataset.tool));
  find("#map").addEventListener("change", (event) => viewer.set({ map: event.target.checked }));
  find("#opacity").addEventListener("input", (event) => viewer.set({ opacity: event.target.value / 100, map: true }));
  find("#colours").addEventListener("change", (event) => viewer.set({ colours: event.target.value }));
  find("#level").addEventListener("input", (event) => viewer.set({ level: Number(event.target.value) }));
  find("#width").addEventListener("input", (event) => viewer.set({ width: Number(event.target.value) }));
  find("#invert").addEventListener("change", (event) => viewer.set({ invert: event.target.checked }));
  find("#wiper").addEventListener("input", (event) => viewer.set({ wipe: event.target.value / 100 }));
  find("#zoom-in").addEventListener("click", () => viewer.zoomBy(1.25));
  find("#zoom-out").addEventListener("click", () => viewer.zoomBy(0.8));
  find("#reset").addEventListener("click", () => viewer.reset());
  find("#help-open").addEventListener("click", () => find("#help").showModal());
  const buttons = findAll("#toolbar button");
  keepOneStop(buttons);
  goThrough(find("#toolbar"), { next: "ArrowRight", previous: "ArrowLeft" }, () => buttons);
  find("#toolbar").addEventListener("focusin", (event) => keepOneStop(buttons, event.target));
  listenToPointers(viewer, () => tool);
  listenToKeys(viewer, {
    m: () => viewer.set({ map: !viewer.settings.map }),
    "[": () => viewer.set({ opacity: viewer.settings.opacity - 0.1 }),
    "]": () => viewer.set({ opacity: viewer.settings.opacity + 0.1 }),
    1: () => viewer.set({ layout: "overlay" }),
    2: () => viewer.set({ layout: "wipe" }),
    3: () => viewer.set({ layout: "beside" }),
    p: () => useTool("pan"),
    w: () => useTool("window"),
    "+": () => viewer.zoomBy(1.25),
    "=": () => viewer.zoomBy(1.25),
    "-": () => viewer.zoomBy(0.8),
    0: () => viewer.reset(),
    i: () => viewer.set({ invert: !viewer.settings.invert }),
    j: () => step(1),
    k: () => step(-1),
    "?": () => find("#help").showModal(),
  });
}

function useTool(name) {
  tool = name;
  for (const button of findAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === name));
}
