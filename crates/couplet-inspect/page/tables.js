// The tables of a recording other than its connections, as of a time. Each loop kept them from time to time; between
// two times, rows are known that began before the second one. No DOM here.

/** Views whose rows have the time of their beginning. */
const BEGIN = new Set(["calls", "tasks", "deferreds", "jobs"]);

const isObject = (value) => value !== null && typeof value === "object";
const list = (value) => Array.isArray(value) ? value.filter(isObject) : [];

/** The kept tables of one loop. */
class Kept {
  constructor(frames) {
    this.frames = list(frames).filter(({ time, views }) => Number.isFinite(time) && isObject(views)).sort((a, b) => a.time - b.time);
    this.reset();
  }

  reset() {
    Object.assign(this, { at: -1, views: new Map() });
  }

  /** The number of the last frame until a time; -1 if there is none. */
  find(time) {
    let low = 0, high = this.frames.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.frames[middle].time <= time) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  seek(number) {
    if (number < this.at) this.reset();
    while (this.at < number) {
      this.at += 1;
      for (const [name, changes] of Object.entries(this.frames[this.at].views)) this.apply(name, changes);
    }
  }

  apply(name, changes) {
    if (!this.views.has(name)) this.views.set(name, new Map());
    const rows = this.views.get(name);
    if (changes?.all === true) rows.clear();
    for (const id of Array.isArray(changes?.gone) ? changes.gone : []) rows.delete(String(id));
    for (const row of list(changes?.rows)) rows.set(String(row.id), row);
    for (const row of list(changes?.changed)) rows.set(String(row.id), { ...rows.get(String(row.id)), ...row });
  }

  /** The rows of a view at a time. */
  rowsOf(name, time) {
    const rows = this.views.get(name) ?? new Map(), next = BEGIN.has(name) ? this.frames[this.at + 1]?.views[name] : null;
    const begun = list(next?.rows).filter(({ id, since }) => since <= time && !rows.has(String(id)));
    return [...rows.values(), ...begun];
  }
}

export class Tables {
  /** `state` is the final state, if the recording has one. */
  constructor({ loops, state, made }) {
    const views = Object.entries(state?.views ?? {}).filter(([, rows]) => Array.isArray(rows));
    this.loops = loops.map(({ frames, id }) => {
      const own = (rows) => ({ all: true, rows: list(rows).filter(({ loop }) => loop === id) });
      const end = { time: made, views: Object.fromEntries(views.map(([name, rows]) => [name, own(rows)])) };
      return new Kept([...list(frames), ...(views.length > 0 ? [end] : [])]);
    });
  }

  /**
   * The tables at a time as the views of a message, each with `age`: how many seconds older than that it is at most.
   * `isStill(loop, since)` is true if a loop had no event between a time and that time.
   */
  at(time, isStill) {
    let age = 0, leftOut = 0;
    const views = {}, known = this.loops.filter((kept, loop) => {
      const number = kept.find(time);
      if (number < 0) return false;
      kept.seek(number);
      const { time: since, left_out } = kept.frames[number];
      if (!isStill(loop, since)) age = Math.max(age, time - since);
      leftOut += Number(left_out) || 0;
      return true;
    });
    for (const name of new Set(known.flatMap((kept) => [...kept.views.keys()]))) {
      views[name] = { rows: known.flatMap((kept) => kept.rowsOf(name, time)), all: true, age, leftOut };
    }
    delete views.connections;
    return views;
  }
}
