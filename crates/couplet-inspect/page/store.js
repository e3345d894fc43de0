// The state of the program as this page knows it, and the connection that feeds it.
//
// INVARIANT: a `Row` is one object from its first message to its end; tables and panes may keep it.

import { historyOf } from "./fields.js";

/** Seconds of history that a chart shows. */
export const HISTORY_SECONDS = 60;
/** Milliseconds between reconnection attempts: the first, and the most after doubling. */
const FIRST_RETRY = 1000, LAST_RETRY = 10_000;
/** Milliseconds without a message, beyond the interval, after which the connection counts as lost. */
const SILENCE = 15_000;
/** Ended rows that a view may keep while it isn't shown. */
const SLACK = 1000;
/** Milliseconds between two entries of a history, at least, and entries kept. */
const STEP = 900, ENTRIES = 70;

/**
 * One object of the program. `values` are its fields by the server's latest messages, `mark` 2 if it is red, 1
 * if a yellow flag names it, else 0.
 */
class Row {
  constructor(view, id, values, history) {
    Object.assign(this, { view, id, values, history, mark: 0, text: null, key: undefined, ended: null });
  }
}

/** Values over time, as flat entries of a time and `width` values. */
export class History {
  constructor(width) {
    this.width = width + 1;
    this.entries = [];
  }

  record(now, values) {
    const { entries, width } = this;
    const last = entries.length - width;
    // Keeps one entry a step, whatever the interval of messages.
    const at = last >= width && now - entries[last - width] < STEP ? last : entries.length;
    entries[at] = now;
    for (let index = 0; index < values.length; index += 1) entries[at + 1 + index] = values[index];
    // Several at a time, which costs less.
    if (entries.length >= (ENTRIES + 16) * width) entries.splice(0, 16 * width);
  }

  /** `[time, value]` of one series. */
  *series(index) {
    for (let at = 0; at < this.entries.length; at += this.width) yield [this.entries[at], this.entries[at + 1 + index]];
  }
}

/**
 * The rows of one view, which are `age` seconds older than the moment of a replay, without `leftOut` rows. `sent` is null before the first message. `order` is sorted by the
 * table; `fresh` are rows that it has yet to add.
 */
class View {
  constructor(name) {
    Object.assign(this, {
      name, rows: new Map(), samples: new Map(), sent: null, count: 0, red: 0, age: 0, leftOut: 0,
      order: [], fresh: [], removed: false, changed: true, sort: { key: "red", down: true }, filter: "", group: "", selected: null,
    });
    this.tracked = historyOf(name);
  }

  put(values, now) {
    if (values === null || typeof values !== "object" || values.id === undefined) return;
    const id = String(values.id);
    let row = this.rows.get(id);
    if (row) {
      row.values = values;
      row.text = null;
    } else {
      row = new Row(this.name, id, values, this.tracked.length ? new History(this.tracked.length) : null);
      this.rows.set(id, row);
      this.fresh.push(row);
    }
    for (const key in values) {
      const sample = this.samples.get(key);
      if (sample === undefined || sample === null) this.samples.set(key, values[key]);
    }
    this.record(row, now);
  }

  /** Changes some of a row's values. */
  change(values, now) {
    const row = this.rows.get(String(values?.id));
    if (!row) return;
    Object.assign(row.values, values);
    row.text = null;
    this.record(row, now);
  }

  record(row, now) {
    const { values } = row;
    row.history?.record(now, this.tracked.map((key) => Number(values[key]) || 0));
    this.changed = true;
  }

  remove(id, now) {
    const row = this.rows.get(id);
    if (!row) return;
    this.rows.delete(id);
    row.ended = now;
    this.removed = this.changed = true;
  }

  /** Marks rows that are red, or that flags name: `flagged` has the mark of each id. */
  mark(flagged) {
    this.red = 0;
    for (const row of this.rows.values()) {
      const mark = row.values.red ? 2 : flagged?.get(row.id) ?? 0;
      this.changed ||= mark !== row.mark;
      row.mark = mark;
      this.red += row.mark === 2;
    }
  }

  /** Drops ended rows that no table has removed, because the view isn't shown. */
  trim() {
    if (this.order.length + this.fresh.length <= 2 * this.rows.size + SLACK) return;
    const stays = (row) => !row.ended || row === this.selected;
    this.order = this.order.filter(stays);
    this.fresh = this.fresh.filter(stays);
  }

  /** Ends all rows but those in `kept`. */
  keep(kept, now) {
    for (const id of this.rows.keys()) if (!kept.has(id)) this.remove(id, now);
  }
}

export class Store {
  constructor(views) {
    this.program = null;
    this.loops = [];
    // Null: the server doesn't send them.
    this.flags = null;
    this.time = null;
    // While frozen, times don't pass: the state stays as of the last message.
    this.frozen = false;
    this.replaying = false;
    this.version = 0;
    this.views = new Map(views.map((name) => [name, new View(name)]));
    this.busy = new Map();
    this.received = 0;
  }

  row(view, id) {
    return this.views.get(view)?.rows.get(id);
  }

  /** Applies a message; the `first` of a connection has all rows and replaces the state. */
  apply(message, first, now) {
    const program = message.program ?? this.program ?? {};
    if (first) for (const view of this.views.values()) view.sent = null;
    if (first && this.program && (this.program.pid !== program.pid || this.program.started !== program.started)) {
      for (const view of this.views.values()) view.keep(new Map(), now);
      this.busy.clear();
    }
    this.program = program;
    this.received = now;
    this.version += 1;
    for (const field of ["loops", "flags", "time"]) {
      if (Array.isArray(message[field])) this[field] = message[field].filter((item) => item && typeof item === "object");
    }
    for (const loop of this.loops) {
      if (!this.busy.has(loop.id)) this.busy.set(loop.id, new History(1));
      this.busy.get(loop.id).record(now, [Number(loop.busy) || 0]);
    }
    const views = message.views ?? {}, counts = message.counts ?? {};
    // A view without rows so far may be only in the counts.
    for (const name of new Set([...Object.keys(counts), ...Object.keys(views)])) this.view(name).sent = true;
    for (const view of this.views.values()) {
      const changes = Object.hasOwn(views, view.name) ? views[view.name] ?? {} : {};
      this.change(view, changes, first || changes.all === true, now);
      if (view.sent === null) view.sent = false;
      Object.assign(view, { age: changes.age ?? 0, leftOut: changes.leftOut ?? 0 });
      view.trim();
      view.count = Number(counts[view.name] ?? view.rows.size);
    }
    this.mark();
  }

  /** The view of this name, which is created if need be. */
  view(name) {
    if (!this.views.has(name)) this.views.set(name, new View(name));
    return this.views.get(name);
  }

  change(view, { rows = [], changed = [], gone = [] }, isAll, now) {
    for (const id of gone) view.remove(String(id), now);
    for (const row of rows) view.put(row, now);
    for (const values of changed) view.change(values, now);
    if (isAll) {
      view.keep(new Set(rows.map((row) => String(row?.id))), now);
      view.changed = true;
    }
  }

  mark() {
    const flagged = new Map();
    for (const { view, row, severity } of this.flags ?? []) {
      if (row === null || row === undefined) continue;
      if (!flagged.has(view)) flagged.set(view, new Map());
      const ids = flagged.get(view), mark = severity === "red" ? 2 : 1;
      ids.set(String(row), Math.max(mark, ids.get(String(row)) ?? 0));
    }
    for (const view of this.views.values()) view.mark(flagged.get(view.name));
  }

  /** The program's Unix time at `now` on this page's clock, which may be the end of a row. */
  unix(now) {
    const passed = (this.frozen ? Math.min(now, this.received) : now) - this.received;
    return (this.program?.now ?? NaN) + passed / 1000;
  }

  /**
   * The rows that a row waits for, those that they wait for, and so on: `name`, `depth`, whether it is one
   * of the rows above it again (`cyclic`), and whether the chain ends there (`ends`).
   */
  chain(view, id, most) {
    const found = [], path = [];
    const follow = (name, depth) => {
      const at = name.indexOf("/"), { waits_for } = this.row(name.slice(0, at), name.slice(at + 1))?.values ?? {};
      path.push(name);
      for (const next of Array.isArray(waits_for) ? waits_for.map(String) : []) {
        if (found.length === most) break;
        const cyclic = path.includes(next);
        const link = { name: next, depth, cyclic, ends: true, key: `${path.join(" ")} ${next}` };
        found.push(link);
        const before = found.length;
        if (!cyclic) follow(next, depth + 1);
        link.ends = found.length === before;
      }
      path.pop();
    };
    follow(`${view}/${id}`, 0);
    return found;
  }

  /** Views and ids of rows whose `waits_for` names `view/id`. */
  waiters(view, id) {
    const name = `${view}/${id}`, found = [];
    for (const other of this.views.values()) {
      if (!other.samples.has("waits_for")) continue;
      for (const row of other.rows.values()) {
        const { waits_for } = row.values;
        if (Array.isArray(waits_for) && waits_for.includes(name)) found.push(`${other.name}/${row.id}`);
      }
    }
    return found;
  }
}

/** The WebSocket: reconnects with back-off. `state` is connecting, live, paused or lost. */
export class Live {
  constructor(store, changed) {
    Object.assign(this, { store, changed, state: "connecting", every: 1, paused: false, reason: "", retryAt: 0 });
    this.wait = FIRST_RETRY;
    this.heard = 0;
  }

  open() {
    this.close();
    this.first = true;
    if (this.state === "replay") this.enter("connecting");
    const address = new URL("live", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    address.search = location.search;
    const socket = this.socket = new WebSocket(address);
    this.heard = performance.now();
    socket.onmessage = ({ data }) => this.receive(data);
    socket.onclose = () => this.lose("The connection closed.");
  }

  /** Ends the connection for a replay; `open` begins another. */
  leave() {
    this.close();
    this.reason = "";
    this.enter("replay");
  }

  close() {
    clearTimeout(this.timer);
    if (!this.socket) return;
    this.socket.onmessage = this.socket.onclose = null;
    this.socket.close();
    this.socket = null;
  }

  receive(data) {
    let message;
    try {
      message = JSON.parse(data);
    } catch (error) {
      console.error(error);
      return;
    }
    this.heard = performance.now();
    this.store.apply(message, this.first, this.heard);
    if (this.first) {
      this.first = false;
      this.wait = FIRST_RETRY;
      this.reason = "";
      if (this.every !== 1) this.send({ every: this.every });
      if (this.paused) this.send({ pause: true });
    }
    this.enter(this.paused ? "paused" : "live");
  }

  enter(state) {
    this.state = state;
    this.store.replaying = state === "replay";
    this.store.frozen = state !== "live";
    this.changed();
  }

  lose(reason) {
    const refused = this.first;
    this.close();
    this.reason = reason;
    this.retryAt = performance.now() + this.wait;
    this.timer = setTimeout(() => this.open(), this.wait);
    this.wait = Math.min(2 * this.wait, LAST_RETRY);
    if (refused) this.explain();
    this.enter("lost");
  }

  /** A WebSocket hides the status of a refusal; a request for the state shows it. */
  async explain() {
    const stop = new AbortController();
    try {
      const { status } = await fetch(`state.json${location.search}`, { signal: stop.signal, cache: "no-store" });
      if (status === 401 || status === 403) {
        this.reason = "The server rejects the token of this page: open the address that the program prints.";
      }
      stop.abort();
    } catch {
      this.reason = "The server doesn't answer.";
    }
    if (this.state === "lost") this.changed();
  }

  send(request) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(request));
  }

  setEvery(seconds) {
    this.every = seconds;
    this.send({ every: seconds });
  }

  setPaused(paused) {
    this.paused = paused;
    this.heard = performance.now();
    this.send({ pause: paused });
    this.enter(["live", "paused"].includes(this.state) ? (paused ? "paused" : "live") : this.state);
  }

  retry() {
    this.wait = FIRST_RETRY;
    this.open();
  }

  /** Called each second: a silent connection counts as lost. */
  check(now) {
    if (!this.socket || this.paused || now - this.heard < SILENCE + this.every * 1000) return;
    this.lose("The server sends nothing.");
  }
}
