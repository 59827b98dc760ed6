// Mouse, fingers and keys on the viewer. Manners of reading rooms: the wheel zooms, the right button windows.

const NEAR_WIPE = 18; // CSS pixels
const STEP = 24;

/** Connects a viewer to the pointers on its canvas; `tool()` says what a plain drag does. */
export function listenToPointers(viewer, tool) {
  const { canvas } = viewer;
  const down = new Map();
  let doing = null;

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  const spread = () => {
    const [one, two] = [...down.values()];
    return { x: (one.x + two.x) / 2, y: (one.y + two.y) / 2, apart: Math.hypot(one.x - two.x, one.y - two.y) || 1 };
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (!viewer.picture) return;
    canvas.setPointerCapture(event.pointerId);
    const at = place(event);
    down.set(event.pointerId, at);
    const { layout, wipe } = viewer.settings;
    if (down.size === 2) doing = "pinch";
    else if (event.button === 2) doing = "window";
    else if (layout === "wipe" && Math.abs(at.x - wipe * canvas.clientWidth) < NEAR_WIPE) doing = "wipe";
    else doing = tool();
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = down.get(event.pointerId);
    if (!before) return;
    const at = place(event);
    if (doing === "pinch" && down.size === 2) {
      const old = spread();
      down.set(event.pointerId, at);
      const now = spread();
      viewer.panBy(now.x - old.x, now.y - old.y);
      viewer.zoomBy(now.apart / old.apart, now.x, now.y);
      return;
    }
    down.set(event.pointerId, at);
    const [x, y] = [at.x - before.x, at.y - before.y];
    if (doing === "pan") viewer.panBy(x, y);
    // As everywhere: to the right for a wider window, upwards for a brighter film, so a lower level.
    if (doing === "window") viewer.set({ width: viewer.settings.width + x, level: viewer.settings.level + y });
    if (doing === "wipe") viewer.set({ wipe: at.x / canvas.clientWidth });
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, (event) => {
      down.delete(event.pointerId);
      doing = null; // the finger that is left after a pinch must not throw the film aside
    });
  }
  canvas.addEventListener("wheel", (event) => {
    if (!viewer.picture) return;
    event.preventDefault();
    const at = place(event);
    viewer.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), at.x, at.y);
  }, { passive: false });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", () => viewer.reset());
}

/** Single keys, wherever the focus is but in a field; `actions` maps a key to what it does. */
export function listenToKeys(viewer, actions) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const target = /** @type {Element} */ (event.target);
    if (target.matches("input:not([type=checkbox], [type=file]), select, textarea")) return;
    if (event.key.startsWith("Arrow")) {
      if (target === viewer.canvas && viewer.picture && arrow(viewer, event.key)) event.preventDefault();
      return;
    }
    const action = actions[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function arrow(viewer, key) {
  const { layout, wipe } = viewer.settings;
  const x = { ArrowLeft: -1, ArrowRight: 1 }[key] ?? 0;
  const y = { ArrowUp: -1, ArrowDown: 1 }[key] ?? 0;
  if (layout === "wipe" && x) viewer.set({ wipe: wipe + x * 0.02 });
  else viewer.panBy(x * STEP, y * STEP);
  return true;
}
