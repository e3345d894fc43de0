// The controls of a replay: the slider, the steps, the marks, and a lane of time for each loop.

import { element, reconcile, setClass, setText } from "./elements.js";
import { bytes, seconds } from "./fields.js";
import { parse, Replay } from "./replay.js";

/** Events before and after the cursor that the view of events has. */
const AROUND = 250;
/** The same for the list next to the other views. */
const NEARBY = 25;
/** Pixels of a lane, and the most spans of one. */
const LANE = 16, SPANS = 4000;
/** Milliseconds for which a recording is read before the page may draw. */
const PATIENCE = 12;
/** The shortest and the longest time that the lanes show, in seconds. */
const WINDOW = [1e-6, 3600];

const by = (id) => document.getElementById(id);

export class Player {
  /**
   * `shown()` is called after each step; `connection()` is the id of the selected connection, and
   * `wantsTime()` true if the time of calls is on show.
   */
  constructor(store, { shown, connection, wantsTime }) {
    Object.assign(this, { store, shown, connection, wantsTime, replay: null, drawn: [], count: 0, window: 0.01, opening: 0, frame: 0 });
    by("cursor").addEventListener("input", () => {
      this.frame ||= requestAnimationFrame(() => {
        this.frame = 0;
        if (this.active) this.seek(Number(by("cursor").value));
      });
    });
    by("unit").addEventListener("change", () => { if (this.active) this.seek(this.count); });
    by("back").addEventListener("click", () => this.step(-1));
    by("forward").addEventListener("click", () => this.step(1));
    by("lanes").addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(event.deltaY > 0 ? 1.25 : 0.8);
    }, { passive: false });
    by("lanes").addEventListener("click", ({ offsetX }) => {
      const part = offsetX / by("lanes").clientWidth - 0.5;
      this.seek(this.replay.after(this.time + part * this.window));
    });
    by("lanes").addEventListener("mousemove", (event) => this.describe(event));
    by("lanes").addEventListener("mouseleave", () => this.draw());
    by("nearby").addEventListener("click", ({ target }) => {
      const line = target.closest("li");
      if (line) this.seek(line.number);
    });
    new ResizeObserver(() => this.draw()).observe(by("lanes"));
  }

  get active() {
    return this.replay !== null;
  }

  get time() {
    return this.replay.timeAt(this.count);
  }

  /**
   * Reads a recording while the page stays alive. Null if another one is opened first. Throws an
   * error in words.
   */
  async read(buffer) {
    const number = this.opening += 1, replay = new Replay(parse(buffer), true);
    let begun = performance.now();
    for (const part of replay.build()) {
      if (performance.now() - begun < PATIENCE) continue;
      setText(by("reading"), `reading, ${Math.floor(100 * part)} %`);
      await new Promise((resolve) => setTimeout(resolve));
      if (number !== this.opening) return null;
      begun = performance.now();
    }
    setText(by("reading"), "");
    return replay;
  }

  /** Shows a recording from its end. */
  open(replay) {
    this.replay = replay;
    this.store.view("events").sort = { key: "id", down: false };
    this.window = Math.min(1, Math.max(1e-4, (replay.timeAt(replay.count) - replay.begin) / 20));
    by("replay").hidden = false;
    by("cursor").max = replay.count;
    reconcile(by("marks"), replay.marks, (mark) => `${mark.time} ${mark.text}`, (mark) => {
      const button = element("button", { class: mark.severity ?? "", title: mark.text, "aria-label": mark.text });
      button.style.left = `${replay.count > 0 ? 100 * mark.count / replay.count : 0}%`;
      button.addEventListener("click", () => this.seek(mark.count));
      return button;
    }, () => {});
    this.seek(replay.count);
  }

  close() {
    this.opening += 1;
    this.replay = null;
    setText(by("reading"), "");
    by("replay").hidden = true;
    this.store.views.delete("events");
  }

  seek(count) {
    const { replay } = this;
    this.count = Math.max(0, Math.min(replay.count, count));
    const only = by("unit").value === "connection" ? this.connection() ?? null : null;
    this.store.apply(replay.message(this.count, AROUND, only, this.wantsTime()), true, performance.now());
    by("cursor").value = this.count;
    const from = this.time - replay.begin, all = replay.timeAt(replay.count) - replay.begin;
    setText(by("moment"), `event ${this.count} of ${replay.count}, ${seconds(from)} of ${seconds(all)}`);
    this.draw();
    this.list();
    this.shown();
  }

  /** Lists the events around the cursor. */
  list() {
    const rows = [...this.store.view("events").rows.values()].map(({ values }) => values).sort((a, b) => a.id - b.id);
    const next = rows.findIndex(({ id }) => id > this.count), middle = next < 0 ? rows.length : next;
    const near = rows.slice(Math.max(0, middle - NEARBY), middle + NEARBY);
    reconcile(by("nearby"), near, ({ id }) => id, () => element("li", {}, element("span", { class: "dim" }), element("span")), (line, row) => {
      line.number = row.id;
      const passed = this.replay.timeAt(row.id) - this.time, isNow = row.id === this.count;
      setText(line.firstChild, isNow ? "now" : `${passed < 0 ? "" : "+"}${seconds(passed)}`);
      setText(line.lastChild, lineWords(row));
      line.title = row.within;
      setClass(line, "is-now", isNow);
      if (isNow) line.setAttribute("aria-current", "true");
      else line.removeAttribute("aria-current");
    });
    const now = by("nearby").querySelector(".is-now");
    if (now) by("nearby").scrollTop = now.offsetTop - by("nearby").clientHeight / 2;
  }

  /** Names the call below the pointer. */
  describe({ offsetX, offsetY }) {
    if (!this.active) return;
    const at = this.time + (offsetX / by("lanes").clientWidth - 0.5) * this.window;
    const found = this.drawn[Math.floor(offsetY / LANE)]?.find(([begin, end]) => begin <= at && at < end);
    const name = found ? found[2] || "the driver" : "waits";
    setText(by("window"), found && !this.dense ? `${name}, ${seconds(found[1] - found[0])}` : name);
  }

  step(direction) {
    this.seek(this.replay.step(this.count, direction, by("unit").value, this.connection()));
  }

  nextUnit() {
    const unit = by("unit");
    unit.selectedIndex = (unit.selectedIndex + 1) % unit.options.length;
    this.seek(this.count);
  }

  zoom(factor) {
    this.window = Math.max(WINDOW[0], Math.min(WINDOW[1], this.window * factor));
    this.draw();
  }

  /** Draws the spans of each loop around the cursor; a gap is a wait. */
  draw() {
    const canvas = by("lanes"), { replay, time, window } = this.active ? this : {};
    if (!replay || canvas.clientWidth === 0) return;
    const scale = devicePixelRatio, width = canvas.clientWidth, height = LANE * replay.loops.length;
    canvas.width = width * scale;
    canvas.height = height * scale;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d"), style = getComputedStyle(canvas);
    context.scale(scale, scale);
    const x = (at) => width * ((at - time) / window + 0.5);
    const from = time - window / 2, to = time + window / 2, isDense = replay.after(to) - replay.after(from) > SPANS;
    this.dense = isDense;
    this.drawn = replay.loops.map((_, number) => {
      const spans = isDense ? replay.samples(number, from, to, width) : replay.spans(number, from, to, SPANS);
      for (const [begin, end, name] of spans) {
        context.fillStyle = name ? `hsl(${hue(name)} 55% 55%)` : style.borderColor;
        context.fillRect(x(begin), number * LANE + 1, Math.max(0.5, x(end) - x(begin)), LANE - 2);
      }
      return spans;
    });
    context.fillStyle = style.color;
    context.fillRect(width / 2, 0, 1, height);
    setText(by("window"), `${seconds(window)} wide`);
  }
}

/** The colour of a name without its numbers, so that callbacks of one protocol look alike. */
function hue(name) {
  let sum = 0;
  for (const letter of name.replace(/\(connection.*/, "")) sum = (sum * 31 + letter.codePointAt(0)) % 360;
  return sum;
}

/** An event as a line: `1.7.3: bytes arrive, and are delivered, 100 B, 35 µs`. */
function lineWords({ connection, event, bytes: size, took }) {
  const words = connection ? `${connection}: ${event}` : event;
  return [words, size !== null && bytes(size), took !== null && seconds(took)].filter(Boolean).join(", ");
}
