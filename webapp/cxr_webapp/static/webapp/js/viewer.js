// The viewer: one picture, looked at through zoom, window and map. Knows nothing of lists and servers.

import { paintFilm, paintMap, windowTable } from "./heatmap.js";

const LOOK = { layout: "overlay", map: true, opacity: 0.6, colours: "warm", wipe: 0.5 };
const PLACE = { zoom: 1, x: 0, y: 0, level: 128, width: 256, invert: false };
const MOST_ZOOM = 16;

/** Draws a picture on a canvas; `changed(settings)` after every change, whoever made it. */
export class Viewer {
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.changed = changed;
    this.settings = { ...LOOK, ...PLACE };
    this.picture = null;
    this.layers = { film: document.createElement("canvas"), map: document.createElement("canvas") };
    this.stale = true;
    this.asked = false;
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** Show a picture; zoom and window start anew, the map stays as it was set. */
  show(picture) {
    this.picture = picture;
    if (picture) {
      for (const layer of Object.values(this.layers)) Object.assign(layer, { width: picture.width, height: picture.height });
    }
    this.set({ ...PLACE });
  }

  set(change) {
    Object.assign(this.settings, change);
    const now = this.settings;
    now.zoom = Math.min(Math.max(now.zoom, 0.5), MOST_ZOOM);
    now.opacity = Math.min(Math.max(now.opacity, 0), 1);
    now.level = Math.min(Math.max(Math.round(now.level), 0), 255);
    now.width = Math.min(Math.max(Math.round(now.width), 2), 512);
    now.wipe = Math.min(Math.max(now.wipe, 0), 1);
    if (["opacity", "colours", "level", "width", "invert", "map", "layout"].some((name) => name in change)) this.stale = true;
    this.draw();
    this.changed(now);
  }

  reset() {
    this.set({ ...PLACE, wipe: LOOK.wipe });
  }

  /** Zoom by a factor, the point (x, y) of the canvas in CSS pixels staying where it is. */
  zoomBy(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const before = this.settings.zoom;
    const zoom = Math.min(Math.max(before * factor, 0.5), MOST_ZOOM);
    const view = this.viewAt(x);
    const centre = { x: view.left + view.width / 2, y: this.canvas.clientHeight / 2 };
    const ratio = zoom / before;
    this.set({
      zoom,
      x: x - centre.x - (x - centre.x - this.settings.x) * ratio,
      y: y - centre.y - (y - centre.y - this.settings.y) * ratio,
    });
  }

  panBy(x, y) {
    this.set({ x: this.settings.x + x, y: this.settings.y + y });
  }

  /** CSS pixels of the canvas that one pixel of the film takes. */
  scale(viewWidth) {
    const { width, height } = this.picture;
    return Math.min(viewWidth / width, this.canvas.clientHeight / height) * this.settings.zoom;
  }

  views() {
    const whole = this.canvas.clientWidth;
    if (this.settings.layout !== "beside") return [{ left: 0, width: whole }];
    return [{ left: 0, width: whole / 2 }, { left: whole / 2, width: whole / 2 }];
  }

  viewAt(x) {
    return this.views().findLast((view) => x >= view.left) ?? this.views()[0];
  }

  /** Draw at the next frame, once however often it is asked for. */
  draw() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      if (this.stale) this.paint();
      this.stale = false;
      this.compose();
    });
  }

  paint() {
    if (!this.picture) return;
    const { width, height, film, evidence } = this.picture;
    const now = this.settings;
    const table = windowTable(now.level, now.width, now.invert);
    const image = new ImageData(width, height);
    paintFilm(image.data, film, table);
    this.layers.film.getContext("2d").putImageData(image, 0, 0);
    if (now.map) paintMap(image.data, film, evidence, table, now.opacity, now.colours, width);
    this.layers.map.getContext("2d").putImageData(image, 0, 0);
  }

  compose() {
    const ratio = globalThis.devicePixelRatio || 1;
    const [across, down] = [this.canvas.clientWidth, this.canvas.clientHeight];
    if (!across || !down) return;
    this.canvas.width = Math.round(across * ratio);
    this.canvas.height = Math.round(down * ratio);
    const context = this.context;
    context.scale(ratio, ratio);
    context.fillStyle = "#000";
    context.fillRect(0, 0, across, down);
    if (!this.picture) return;
    const { layout, wipe } = this.settings;
    if (layout === "overlay") this.layer("map", { left: 0, width: across }, 0, across);
    if (layout === "wipe") {
      const line = across * wipe;
      this.layer("film", { left: 0, width: across }, 0, line);
      this.layer("map", { left: 0, width: across }, line, across - line);
      this.handle(line, down);
    }
    if (layout === "beside") {
      const [left, right] = this.views();
      this.layer("film", left, left.left, left.width - 1);
      this.layer("map", right, right.left + 1, right.width - 1);
    }
  }

  layer(name, view, from, length) {
    const context = this.context;
    const scale = this.scale(view.width);
    const [width, height] = [this.picture.width * scale, this.picture.height * scale];
    context.save();
    context.beginPath();
    context.rect(from, 0, length, this.canvas.clientHeight);
    context.clip();
    context.imageSmoothingEnabled = scale < 4; // close up, the film's own pixels are what there is to see
    context.imageSmoothingQuality = "high";
    const left = view.left + (view.width - width) / 2 + this.settings.x;
    const top = (this.canvas.clientHeight - height) / 2 + this.settings.y;
    context.drawImage(this.layers[name], left, top, width, height);
    context.restore();
  }

  handle(line, height) {
    const context = this.context;
    context.fillStyle = "#fff";
    context.fillRect(line - 1, 0, 2, height);
    context.beginPath();
    context.arc(line, height / 2, 13, 0, 2 * Math.PI);
    context.fill();
    context.fillStyle = "#111";
    context.font = "bold 15px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText("‹ ›", line, height / 2);
  }
}
