// The controls of a replay: the slider, the steps, the marks, and a lane of time for each loop.

import { seconds } from "./fields.js";
import { element, reconcile, setText } from "./panes.js";
import { parse, Replay } from "./replay.js";

/** Events before and after the cursor that the view of events has. */
const AROUND = 250;
/** Pixels of a lane, and the most spans of one. */
const LANE = 16, SPANS = 4000;
/** The shortest and the longest time that the lanes show, in seconds. */
const WINDOW = [1e-6, 3600];

const by = (id) => document.getElementById(id);

export class Player {
  /** `shown()` is called after each step, `problem(words)` for a recording that can't be read. */
  constructor(store, { shown, problem, connection }) {
    Object.assign(this, { store, shown, problem, connection, replay: null, count: 0, window: 0.01 });
    by("cursor").addEventListener("input", () => this.seek(Number(by("cursor").value)));
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
    new ResizeObserver(() => this.draw()).observe(by("lanes"));
  }

  get active() {
    return this.replay !== null;
  }

  get time() {
    return this.replay.timeAt(this.count);
  }

  /** Opens a recording at its end. False if it can't be read. */
  open(buffer) {
    try {
      this.replay = new Replay(parse(buffer));
    } catch (error) {
      this.problem(error.message);
      return false;
    }
    const { replay } = this;
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
    return true;
  }

  close() {
    this.replay = null;
    by("replay").hidden = true;
    this.store.views.delete("events");
  }

  seek(count) {
    const { replay } = this;
    this.count = Math.max(0, Math.min(replay.count, count));
    this.store.apply(replay.message(this.count, AROUND), true, performance.now());
    by("cursor").value = this.count;
    const from = this.time - replay.begin, all = replay.timeAt(replay.count) - replay.begin;
    setText(by("moment"), `event ${this.count} of ${replay.count}, ${seconds(from)} of ${seconds(all)}`);
    this.draw();
    this.shown();
  }

  step(direction) {
    this.seek(this.replay.step(this.count, direction, by("unit").value, this.connection()));
  }

  nextUnit() {
    const unit = by("unit");
    unit.selectedIndex = (unit.selectedIndex + 1) % unit.options.length;
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
    replay.loops.forEach((_, number) => {
      for (const [begin, end, name] of replay.spans(number, time - window / 2, time + window / 2, SPANS)) {
        context.fillStyle = name ? `hsl(${hue(name)} 55% 55%)` : style.borderColor;
        context.fillRect(x(begin), number * LANE + 1, Math.max(0.5, x(end) - x(begin)), LANE - 2);
      }
    });
    replay.at(this.count);
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
