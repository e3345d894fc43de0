// A recording, and the state of the program at each of its events. No DOM here.
//
// Events have numbers in the order of their times, over all loops. A moment is the state after some of
// them; `Replay.at` begins with the nearest checkpoint, so a step back is as quick as one forward.

import { Tables } from "./tables.js";

const MAGIC = "couplet recording 1\n";
/** The bytes of an event. */
const RECORD = 16;
/** The ticks of a unit in which waits are counted. */
const SLEEP_UNIT = 64;
/** Events between two checkpoints, at least. */
const INTERVAL = 8192;
/** Checkpoints, at most. */
const CHECKPOINTS = 64;
/** Events before a moment at which a copy is kept, for the next step back. */
const NEAR = 512;
/** Events that the end of a callback may be away. */
const FAR = 2000;
/** Events that are read between two chances to pause. */
const SLICE = 4096;
/** Seconds for which a mark stays among the flags. */
const RECENT = 60;

/** The kinds of events, as in the ring. */
export const Kind = {
  Waited: 1, Received: 2, Wrote: 3, Blocked: 4, Accepted: 5, Connected: 6, Built: 7, Ended: 8, Failed: 9, Room: 10,
  Shut: 11, Closed: 12, Reading: 13, Other: 14, Call: 15, Returned: 16, Recorded: 17, Woken: 18,
  Late: 19,
};
const LAST_KIND = 19;

const of = (...kinds) => new Set(kinds);
/** Kinds whose first number is a connection that exists. */
const USES = of(Kind.Received, Kind.Wrote, Kind.Blocked, Kind.Ended, Kind.Room, Kind.Shut, Kind.Recorded);
const OPENS = of(Kind.Accepted, Kind.Connected, Kind.Built);
/** Kinds with which a callback of a connection begins, and names of their callbacks. */
const CALLBACKS = new Map([
  [Kind.Built, "connection made"], [Kind.Received, "data received"], [Kind.Room, "room for output"], [Kind.Ended, "end of input"],
]);
/** Kinds after which a callback of a connection continues. */
const INSIDE = of(Kind.Call, Kind.Returned, Kind.Recorded, Kind.Reading, Kind.Woken, Kind.Late);

const HAS_BYTES = of(Kind.Received, Kind.Wrote, Kind.Blocked, Kind.Recorded);
/** Whether the first number of an event may be a connection. */
const isOfOne = (kind) => USES.has(kind) || OPENS.has(kind) || kind === Kind.Closed || kind === Kind.Reading;

/** Reads a recording. Events of unknown kinds are left out. Throws an error in words. */
export function parse(buffer) {
  const text = new TextDecoder();
  if (text.decode(buffer.slice(0, MAGIC.length)) !== MAGIC) {
    throw new Error(`This is no recording of couplet: it does not begin with "${MAGIC.trim()}".`);
  }
  const view = new DataView(buffer), begin = MAGIC.length + 8;
  const length = buffer.byteLength < begin ? NaN : Number(view.getBigUint64(MAGIC.length, true));
  if (!(begin + length <= buffer.byteLength)) throw new Error("The recording is damaged: it is cut off.");
  let header;
  try {
    header = JSON.parse(text.decode(buffer.slice(begin, begin + length)));
  } catch (error) {
    throw new Error(`The header of the recording is damaged: ${error.message}`);
  }
  const loops = header?.loops, isNumber = (value) => typeof value === "number", isList = (value) => value === undefined || Array.isArray(value);
  const isLoop = (loop) => Number.isSafeInteger(loop?.count) && loop.count >= 0 && isNumber(loop.ticks)
    && isNumber(loop.origin) && isList(loop.connections) && isList(loop.names) && (loop.names ?? []).every(Array.isArray);
  if (!isNumber(header?.made) || !Array.isArray(loops) || !loops.every(isLoop)) {
    throw new Error("The header of the recording is damaged: a loop or the time is missing.");
  }
  const isKept = (kept) => kept === undefined || kept === null || (Number.isSafeInteger(kept.length) && kept.length >= 0);
  if (!loops.every(({ contents }) => isKept(contents))) throw new Error("The header of the recording is damaged: contents without a length.");
  const kept = ({ contents }) => contents?.length ?? 0;
  const expected = loops.reduce((sum, loop) => sum + loop.count * RECORD + kept(loop), 0), found = buffer.byteLength - begin - length;
  if (expected !== found) {
    throw new Error(`The recording is damaged: it has ${found} bytes of records instead of ${expected}.`);
  }
  let at = begin + length;
  const tracks = loops.map((loop) => {
    const track = readTrack(view, at, loop);
    at += loop.count * RECORD;
    return track;
  });
  loops.forEach((loop, number) => {
    readContents(tracks[number], new DataView(buffer, at, kept(loop)));
    at += kept(loop);
  });
  return { header, tracks };
}

/** The events of one loop, as columns. A time is in seconds since 1970, and `slept` in seconds. */
function readTrack(view, begin, { count, ticks: scale, origin }) {
  const ticks = Math.max(1, scale);
  const times = new Float64Array(count), kinds = new Uint8Array(count), keys = new Uint32Array(count), values = new Uint32Array(count);
  /** The number of each event among the records of the file. */
  const numbers = new Uint32Array(count);
  let length = 0;
  for (let at = begin; at < begin + count * RECORD; at += RECORD) {
    const low = view.getUint32(at, true), kind = low & 255;
    if (kind === 0 || kind > LAST_KIND) continue;
    times[length] = origin + (view.getUint32(at + 4, true) * 2 ** 24 + (low >>> 8)) / ticks;
    kinds[length] = kind;
    values[length] = view.getUint32(at + 8, true);
    keys[length] = view.getUint32(at + 12, true);
    numbers[length] = (at - begin) / RECORD;
    length += 1;
  }
  return { times, kinds, keys, values, length, numbers, contents: new Map(), positions: new Uint32Array(length), slept: (at) => (keys[at] * 2 ** 32 + values[at]) * SLEEP_UNIT / ticks };
}

/** Adds the kept bytes of events to a track, by the places of the events. */
function readContents(track, view) {
  for (let at = 0, place = 0; at < view.byteLength;) {
    const head = at + 8 <= view.byteLength, length = head ? view.getUint32(at + 4, true) : 0;
    if (!head || at + 8 + length > view.byteLength) throw new Error("The contents of the recording are damaged: a chunk is cut off.");
    const number = view.getUint32(at, true);
    while (place < track.length && track.numbers[place] < number) place += 1;
    // Events of unknown kinds are left out.
    if (place < track.length && track.numbers[place] === number) track.contents.set(place, new Uint8Array(view.buffer, view.byteOffset + at + 8, length));
    at += 8 + length;
  }
}

const ESCAPES = { 9: "\\t", 10: "\\n", 13: "\\r", 34: '\\"', 39: "\\'", 92: "\\\\" };

/** Bytes as text: printable ASCII, and escapes for all others. */
export function escaped(bytes) {
  const escape = (byte) => ESCAPES[byte] ?? (byte < 32 || byte > 126 ? `\\x${byte.toString(16).padStart(2, "0")}` : String.fromCharCode(byte));
  return Array.from(bytes, escape).join("");
}

/** A connection from its first event to its last; -1 is before the first. */
class Life {
  constructor(loop, slot, begin) {
    Object.assign(this, { loop, slot, begin, end: Infinity, in: 0, out: 0, row: null, built: [] });
  }
}

/** The state of a connection at a moment. */
class Connection {
  constructor(life, base, time) {
    Object.assign(this, { life, in: base.in, out: base.out, name: null, received: time, made: time,
      paused: false, ended: false, shut: false, blocked: null, unsent: null });
  }
}

/** The state of all loops at a moment: after `count` events. */
class Moment {
  constructor(count, loops, connections) {
    Object.assign(this, { count, loops, connections });
  }

  copy() {
    const loops = this.loops.map((loop) => ({ ...loop, calls: [...loop.calls] }));
    const copied = (connection) => ({ ...connection });
    const connections = new Map([...this.connections].map(([key, connection]) => [key, copied(connection)]));
    return new Moment(this.count, loops, connections);
  }
}

export class Replay {
  /** Reads all events, unless `later`: then `build` has to be iterated first. */
  constructor({ header, tracks }, later = false) {
    Object.assign(this, { header, tracks, loops: header.loops, only: null, tables: new Tables(header) });
    this.count = tracks.reduce((sum, { length }) => sum + length, 0);
    if (!later) for (const _ of this.build()) continue;
  }

  /** Reads all events, and yields after each slice the part that is read, from 0 to 1. */
  *build() {
    const { header } = this;
    yield* this.merge();
    this.begin = this.count > 0 ? this.times[0] : header.made;
    this.marks = (Array.isArray(header.marks) ? header.marks : []).filter(({ time }) => Number.isFinite(time))
      .map((mark) => ({ ...mark, count: this.after(mark.time) })).sort((a, b) => a.time - b.time);
    yield* this.findLives();
    const loops = this.loops.map(() => ({ calls: [], callback: null, since: this.begin, turn: this.begin, turns: 0, events: 0 }));
    const connections = new Map();
    for (const life of this.lives) {
      if (life.begin < 0) connections.set(this.keyOf(life.loop, life.slot), new Connection(life, life.base, this.begin));
    }
    this.checkpoints = [new Moment(0, loops, connections)];
    this.interval = Math.max(INTERVAL, Math.ceil(this.count / CHECKPOINTS));
    const moment = this.checkpoints[0].copy();
    while (moment.count < this.count) {
      this.apply(moment);
      if (moment.count % this.interval === 0) this.checkpoints.push(moment.copy());
      if (moment.count % SLICE === 0) yield (2 + moment.count / this.count) / 3;
    }
    this.moment = moment;
  }

  keyOf(loop, slot) {
    return loop * 2 ** 32 + slot;
  }

  /** Puts the events of all loops into one order. */
  *merge() {
    const { tracks } = this;
    this.times = new Float64Array(this.count);
    this.loopOf = new Uint16Array(this.count);
    this.index = new Uint32Array(this.count);
    const next = tracks.map(() => 0);
    for (let at = 0; at < this.count; at += 1) {
      let first = -1;
      for (let loop = 0; loop < tracks.length; loop += 1) {
        if (next[loop] === tracks[loop].length) continue;
        if (first < 0 || tracks[loop].times[next[loop]] < tracks[first].times[next[first]]) first = loop;
      }
      this.times[at] = tracks[first].times[next[first]];
      this.loopOf[at] = first;
      this.index[at] = next[first];
      tracks[first].positions[next[first]] = at;
      next[first] += 1;
      if (at % SLICE === 0) yield at / this.count / 3;
    }
  }

  event(at) {
    const loop = this.loopOf[at], index = this.index[at], { kinds, keys, values } = this.tracks[loop];
    return { loop, time: this.times[at], kind: kinds[index], key: keys[index], value: values[index] };
  }

  /** Finds when each connection began and ended, and joins it with the rows of the header. */
  *findLives() {
    this.lives = [];
    this.births = new Map();
    const present = new Map(), bySlot = this.bySlot = new Map();
    const bear = (loop, slot, at) => {
      const key = this.keyOf(loop, slot), life = new Life(loop, slot, at);
      if (present.has(key)) present.get(key).end = at;
      present.set(key, life);
      if (!bySlot.has(key)) bySlot.set(key, []);
      bySlot.get(key).push(life);
      this.lives.push(life);
      if (at >= 0) this.births.set(at, life);
      return life;
    };
    for (let at = 0; at < this.count; at += 1) {
      const { loop, kind, key: slot, value } = this.event(at), key = this.keyOf(loop, slot);
      let life = present.get(key);
      if (kind === Kind.Accepted || kind === Kind.Connected || (kind === Kind.Built && !life)) life = bear(loop, slot, at);
      else if (USES.has(kind) && !life) life = bear(loop, slot, bySlot.has(key) ? at : -1);
      if (at % SLICE === 0) yield (1 + at / this.count) / 3;
      // A later connection of this slot is new.
      if (!life && (kind === Kind.Closed || kind === Kind.Failed) && !bySlot.has(key)) bySlot.set(key, []);
      if (!life) continue;
      if (kind === Kind.Built) life.built.push([at, value]);
      if (kind === Kind.Received) life.in += value;
      if (kind === Kind.Wrote || kind === Kind.Blocked) life.out += value;
      if (kind === Kind.Closed || kind === Kind.Failed) {
        life.end = at;
        present.delete(key);
      }
    }
    this.joinRows(present, bear);
    this.joinNames(bySlot);
  }

  /** Connections that exist at the end have rows, whose counts lead back to the beginning. */
  joinRows(present, bear) {
    const numbers = new Map(this.loops.map(({ id }, loop) => [id, loop]));
    for (const row of this.header.state?.views?.connections ?? []) {
      const loop = numbers.get(row.loop), slot = Number(String(row.id).split(".")[1]);
      if (loop === undefined || !Number.isInteger(slot)) continue;
      const key = this.keyOf(loop, slot), life = present.get(key) ?? (this.bySlot.has(key) ? null : bear(loop, slot, -1));
      if (life) life.row = row;
    }
    for (const life of this.lives) {
      const base = (field) => life.begin < 0 && life.row ? Math.max(0, life.row[field] - life[field]) : 0;
      life.base = { in: base("wire_in"), out: base("wire_out") };
    }
  }

  /** The header may have the addresses of ended connections too, in the order of their beginnings. */
  joinNames(bySlot) {
    this.loops.forEach(({ connections }, loop) => {
      const known = new Map();
      for (const entry of connections ?? []) {
        if (!known.has(entry.slot)) known.set(entry.slot, []);
        known.get(entry.slot).push(entry);
      }
      for (const [slot, entries] of known) {
        const lives = bySlot.get(this.keyOf(loop, slot)) ?? [];
        for (let back = 1; back <= Math.min(lives.length, entries.length); back += 1) {
          lives.at(-back).row ??= entries.at(-back);
        }
      }
    });
  }

  /** Applies the next event to a moment. */
  apply(moment) {
    const at = moment.count, { loop: number, time, kind, key: slot, value } = this.event(at);
    const loop = moment.loops[number], key = this.keyOf(number, slot), born = this.births.get(at);
    moment.count += 1;
    if (born) {
      const made = born.row?.made ?? time;
      moment.connections.set(key, Object.assign(new Connection(born, born.base, time), { made: Math.min(made, time) }));
    }
    this.applyToLoop(loop, { time, kind, slot, value });
    const connection = moment.connections.get(key);
    if (!connection) return;
    switch (kind) {
      case Kind.Built: connection.name = value; break;
      case Kind.Received:
        connection.in += value;
        connection.received = time;
        break;
      case Kind.Wrote:
      case Kind.Blocked:
        connection.out += value;
        connection.blocked = kind === Kind.Blocked ? connection.blocked ?? time : null;
        if (connection.unsent !== null) connection.unsent = kind === Kind.Blocked ? Math.max(0, connection.unsent - value) : 0;
        break;
      case Kind.Recorded: connection.unsent = value; break;
      case Kind.Ended: connection.ended = true; break;
      case Kind.Room: connection.blocked = null; break;
      case Kind.Shut: connection.shut = true; break;
      case Kind.Reading: connection.paused = value === 0; break;
      case Kind.Closed:
      case Kind.Failed: moment.connections.delete(key); break;
      default:
    }
  }

  applyToLoop(loop, { time, kind, slot, value }) {
    if (!INSIDE.has(kind)) loop.callback = null;
    loop.since = time;
    loop.events += kind !== Kind.Waited && kind !== Kind.Call && kind !== Kind.Returned;
    if (kind === Kind.Waited) {
      loop.turn = time;
      loop.turns += 1;
      loop.calls.length = 0;
    } else if (kind === Kind.Call) {
      loop.calls.push({ name: slot, time });
    } else if (kind === Kind.Returned) {
      loop.calls.pop();
    } else if (CALLBACKS.has(kind)) {
      loop.callback = { slot, time, kind, name: kind === Kind.Built ? value : null };
    }
  }

  /** The moment after `count` events. */
  at(count) {
    const wanted = Math.max(0, Math.min(this.count, count)), near = Math.max(0, wanted - NEAR);
    if (wanted < this.moment.count || wanted - this.moment.count > this.interval) {
      const checkpoint = this.checkpoints[Math.min(this.checkpoints.length - 1, Math.floor(wanted / this.interval))];
      const isNear = this.near && this.near.count <= wanted && this.near.count > checkpoint.count;
      this.moment = (isNear ? this.near : checkpoint).copy();
      if (!isNear) this.near = null;
    }
    while (this.moment.count < wanted) {
      // Further steps back begin here.
      if (this.moment.count === near && !this.near) this.near = this.moment.copy();
      this.apply(this.moment);
    }
    return this.moment;
  }

  /** How many events there are until a time. */
  after(time) {
    return lastUntil(this.times, this.count, time) + 1;
  }

  /** The time of the moment after `count` events. */
  timeAt(count) {
    return count > 0 ? this.times[Math.min(count, this.count) - 1] : this.begin;
  }

  /** The moment after the next or previous event of a unit: event, turn, callback or connection. */
  step(count, direction, unit, connection) {
    const life = connection && this.lifeOf(connection);
    const fits = (at) => {
      const { loop, kind, key } = this.event(at);
      switch (unit) {
        case "turn": return kind === Kind.Waited;
        case "callback": return CALLBACKS.has(kind) || kind === Kind.Call;
        case "connection": return Boolean(life) && loop === life.loop && key === life.slot && at >= life.begin && at <= life.end
          && (USES.has(kind) || OPENS.has(kind) || kind === Kind.Closed || kind === Kind.Failed || kind === Kind.Reading);
        default: return true;
      }
    };
    // The event before the cursor is number `count - 1`.
    for (let at = count - 1 + direction; at >= 0 && at < this.count; at += direction) if (fits(at)) return at + 1;
    return direction < 0 ? 0 : this.count;
  }

  lifeOf(id) {
    return this.lives.find((life) => this.idOf(life) === id);
  }

  idOf(life) {
    const begin = life.begin < 0 ? "" : `.e${life.begin}`;
    life.id ??= String(life.row?.id ?? `${this.loops[life.loop].serial ?? life.loop}.${life.slot}${begin}`);
    return life.id;
  }

  // Words

  nameOf(loop, number) {
    const [kind, name] = this.loops[loop].names?.[number] ?? ["a callback", ""];
    return { kind, name: name || kind };
  }

  protocolOf(connection) {
    if (connection.name !== null) return this.nameOf(connection.life.loop, connection.name).name;
    return connection.life.row?.protocol ?? "a connection";
  }

  /** The call or callback that a loop is in, in words; empty if it is in none. */
  doing(moment, number) {
    const { calls, callback } = moment.loops[number];
    const call = calls.at(-1);
    if (call && !(callback && callback.time > call.time)) {
      return this.callWords(number, call.name);
    }
    if (!callback) return "";
    const connection = moment.connections.get(this.keyOf(number, callback.slot));
    return connection ? this.callbackWords(this.protocolOf(connection), connection.life) : "a callback";
  }

  callWords(loop, number) {
    const { kind, name } = this.nameOf(loop, number);
    return name === kind ? kind : `${kind} ${name}`;
  }

  callbackWords(protocol, life) {
    return `a callback of ${protocol} (connection ${this.idOf(life)})`;
  }

  /** An event in words. */
  words(at) {
    const { loop, kind, key, value } = this.event(at);
    const name = () => this.nameOf(loop, key).name;
    switch (kind) {
      case Kind.Waited: return "a turn begins, after a wait";
      case Kind.Received: return "bytes arrive, and are delivered";
      case Kind.Wrote: return "bytes are written";
      case Kind.Blocked: return "bytes are written, and the system takes only a part";
      case Kind.Accepted: return "a connection is accepted";
      case Kind.Connected: return "a connect succeeds";
      case Kind.Built: return `the protocol ${this.nameOf(loop, value).name} is built`;
      case Kind.Ended: return "the peer closes its side";
      case Kind.Failed: return "an error ends the connection or attempt";
      case Kind.Room: return "the system accepts bytes again";
      case Kind.Shut: return "our side is closed";
      case Kind.Closed: return value ? "the connection is reset" : "the connection is closed";
      case Kind.Reading: return value ? "reading is resumed" : "reading is paused";
      case Kind.Call: return `${this.nameOf(loop, key).kind} begins: ${name()}`;
      case Kind.Returned: return `${this.nameOf(loop, key).kind} ends: ${name()}`;
      case Kind.Recorded: return "a write is recorded";
      case Kind.Woken: return "another thread wakes the loop";
      case Kind.Late: return `timed calls are late by ${value / 1000} ms`;
      default: return "another event of the driver";
    }
  }

  /** How long the wait, call or callback that begins with an event took, in seconds; null if unknown. */
  took(at) {
    const { loop, kind, key, time, value } = this.event(at);
    if (kind === Kind.Waited) return this.tracks[loop].slept(this.index[at]);
    if (kind !== Kind.Call && !CALLBACKS.has(kind)) return null;
    const { kinds, keys, values, times, length } = this.tracks[loop];
    for (let next = this.index[at] + 1; next < Math.min(length, this.index[at] + FAR); next += 1) {
      const ends = kind === Kind.Call ? kinds[next] === Kind.Returned && keys[next] === key && values[next] === value : !INSIDE.has(kinds[next]);
      if (!ends) continue;
      return Math.max(0, times[next] - (kinds[next] === Kind.Waited ? this.tracks[loop].slept(next) : 0) - time);
    }
    return null;
  }

  /**
   * The number of the event that recorded the bytes of a write: of `Recorded`, of the connection's callback before it, or
   * else of the turn's last call before it, such as a task or a timed call.
   */
  recorder(at) {
    const { loop, kind, key } = this.event(at), isWrite = (other) => other === Kind.Wrote || other === Kind.Blocked;
    if (!isWrite(kind)) return null;
    let isSameTurn = true, call = null;
    for (let before = at - 1; before >= Math.max(0, at - FAR); before -= 1) {
      const other = this.event(before);
      if (other.loop !== loop) continue;
      if (other.kind === Kind.Waited) isSameTurn = false;
      if (isSameTurn && other.kind === Kind.Call) call ??= before;
      // The slot of a connection, as the key of these kinds.
      if (other.key !== key) continue;
      if (isWrite(other.kind) || other.kind === Kind.Accepted) break;
      if (other.kind === Kind.Recorded || (isSameTurn && CALLBACKS.has(other.kind))) return before;
    }
    return call;
  }

  /** The connection of a slot as of an event. */
  lifeAt(loop, slot, at) {
    const lives = this.bySlot.get(this.keyOf(loop, slot)) ?? [];
    let low = 0, high = lives.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (lives[middle].begin <= at) low = middle + 1;
      else high = middle;
    }
    const life = lives[low - 1];
    return life && at <= life.end ? life : undefined;
  }

  /** The numbers of a connection's events. */
  eventsOf(life) {
    if (this.only?.life === life) return this.only.events;
    const events = [], last = Math.min(life.end, this.count - 1);
    for (let at = Math.max(0, life.begin); at <= last; at += 1) {
      if (this.loopOf[at] !== life.loop) continue;
      const { kind, key } = this.event(at);
      if (key === life.slot && isOfOne(kind)) events.push(at);
    }
    this.only = { life, events };
    return events;
  }

  /** The calls and the callback that a loop is in after its record `index`, found from the turn's beginning. */
  stateAfter(loop, index) {
    const { kinds } = this.tracks[loop], state = { calls: [], callback: null };
    let from = Math.max(0, index);
    while (from > 0 && index - from < FAR && kinds[from] !== Kind.Waited) from -= 1;
    for (let at = from; at <= index; at += 1) this.applyRecord(state, loop, at);
    return state;
  }

  applyRecord(state, loop, index) {
    const { kinds, keys, values, times, positions } = this.tracks[loop], kind = kinds[index];
    this.applyToLoop(state, { time: times[index], kind, slot: keys[index], value: values[index] });
    if (CALLBACKS.has(kind)) state.callback.at = positions[index];
  }

  stateWords(loop, { calls, callback }) {
    const call = calls.at(-1);
    if (!callback || (call && callback.time <= call.time)) return call ? this.callWords(loop, call.name) : "";
    const life = this.lifeAt(loop, callback.slot, callback.at);
    if (!life) return "a callback";
    const built = life.built.findLast(([at]) => at <= callback.at);
    return this.callbackWords(this.protocolOf({ life, name: built ? built[1] : null }), life);
  }

  /** Rows about the events of one connection around a moment. */
  eventRowsOf(life, count, around) {
    const events = this.eventsOf(life);
    let middle = events.findIndex((at) => at >= count);
    if (middle < 0) middle = events.length;
    return events.slice(Math.max(0, middle - around), middle + around).map((at) =>
      this.eventRow(at, life));
  }

  /** The kept bytes of an event as fields: the text, and how many bytes were cut off. */
  contentsOf(at) {
    const loop = this.loopOf[at], kept = this.tracks[loop].contents.get(this.index[at]);
    return kept ? { contents: escaped(kept), cut: this.event(at).value - kept.length } : {};
  }

  contentsRow(at) {
    const { contents, cut } = this.contentsOf(at);
    return contents === undefined ? {} : { contents: contents + (cut > 0 ? ` … (${cut} more bytes were not kept)` : "") };
  }

  eventRow(at, life) {
    const { loop, kind, value, time } = this.event(at), recorder = this.recorder(at);
    const within = this.stateWords(loop, this.stateAfter(loop, this.index[at]));
    return {
      id: at + 1, at: (time - this.begin).toFixed(6), loop: this.loops[loop].host ?? this.loops[loop].id, event: this.words(at),
      connection: life && isOfOne(kind) ? this.idOf(life) : "", bytes: HAS_BYTES.has(kind) ? value : null,
      took: this.took(at), within,
      waits_for: recorder === null ? [] : [`events/${recorder + 1}`], between: recorder === null ? null : at - recorder - 1,
      ...this.contentsRow(at),
    };
  }

  /** Rows about the events around a moment. */
  eventRows(count, around) {
    const first = Math.max(0, count - around), last = Math.min(this.count, count + around), rows = [];
    for (let at = first; at < last; at += 1) rows.push(this.eventRow(at, this.lifeAt(this.loopOf[at], this.event(at).key, at)));
    return rows;
  }

  connectionRow(connection, time) {
    const { life, paused, ended, shut, blocked, unsent, received, made } = connection;
    const { peer = "unknown", host, layers } = life.row ?? {};
    const state = ended && shut ? "closing" : paused ? "paused" : ended || shut ? "half-closed" : connection.name === null && !life.row?.protocol ? "opening" : "open";
    const reasons = [
      blocked !== null && `the system takes no more bytes for {since:${blocked}}`, paused && "reading is paused",
      ended && "the peer has closed its side", shut && "our side is closed",
    ].filter(Boolean);
    return {
      id: this.idOf(life), loop: this.loops[life.loop].id, protocol: this.protocolOf(connection), peer, host, layers, state,
      ...(layers?.length ? {} : { in: connection.in, out: connection.out }), wire_in: connection.in, wire_out: connection.out, buffered: unsent, received, made: Math.min(made, life.row?.made ?? made),
      why: reasons.join("; ") || `last heard {since:${Math.min(received, time)}}`,
    };
  }

  /** The time at which the records of a loop begin. */
  beginOf({ times, kinds, length, slept }) {
    return length === 0 ? Infinity : times[0] - (kinds[0] === Kind.Waited ? slept(0) : 0);
  }

  /** The time at which a loop began the wait in which it is at a time, after its record `last`; null if it is in none. */
  waitsSince(number, last, time) {
    const { times, kinds, length, slept } = this.tracks[number], next = last + 1;
    if (length === 0 || (last >= 0 && times[last] >= time)) return null;
    if (next < length) return kinds[next] === Kind.Waited && times[next] - slept(next) < time ? times[next] - slept(next) : null;
    // A wait follows the loop's last record, unless a call is in progress.
    const { calls, callback } = this.stateAfter(number, last);
    return calls.length === 0 && !callback ? times[last] : null;
  }

  /** The turns and events of a loop in the second before a time, and its busy share of the recorded part of that second. */
  paceOf(number, time) {
    const track = this.tracks[number], { times, kinds, length, slept } = track;
    const from = Math.max(time - 1, this.beginOf(track)), last = lastUntil(times, length, time), since = this.waitsSince(number, last, time);
    let turns = 0, events = 0, idle = since === null ? 0 : time - Math.max(from, since);
    for (let index = lastUntil(times, length, time - 1) + 1; index <= last; index += 1) {
      if (kinds[index] === Kind.Waited) {
        turns += 1;
        idle += Math.min(slept(index), times[index] - from);
      } else if (kinds[index] < Kind.Call) {
        events += 1;
      }
    }
    const busy = from < time ? Math.max(0, Math.min(1, 1 - idle / (time - from))) : null;
    return { turns, events, busy, waits: since !== null };
  }

  /** The loops at a moment, with the rates of the second before. */
  loopRows(moment, time) {
    return this.loops.map((loop, number) => {
      const { waits, ...pace } = this.paceOf(number, time);
      const what = waits ? "" : this.doing(moment, number), { calls, callback } = moment.loops[number];
      const since = callback?.time ?? calls.at(-1)?.time ?? time;
      const own = [...moment.connections.values()].filter(({ life }) => life.loop === number);
      return {
        id: loop.id, name: loop.host ?? `loop ${loop.id}`, thread: loop.thread, state: waits ? "waits" : what ? "calls" : "runs", ...pace,
        connections: own.length,
        doing: what ? { what, for: Math.max(0, time - since), backtrace: [] } : null,
      };
    });
  }

  /** The marks of the minute before a time, as flags. */
  flags(count, time) {
    const recent = this.marks.filter((mark) => mark.count <= count && mark.time > time - RECENT);
    return recent.map(({ time: since, loop, text, severity }) =>
      ({ id: `${loop}.${since}.${text}`, loop, severity: severity ?? "yellow", title: severity === "fault" ? "Fault" : "Mark", words: text, since, isMark: true }));
  }

  /** The tables other than connections at a time. */
  tablesAt(time) {
    return this.tables.at(time, (loop, since) => {
      const { times, length } = this.tracks[loop], last = lastUntil(times, length, time);
      return last < 0 || times[last] <= since;
    });
  }

  /** The state at a moment as a message, like a server's. */
  message(count, around, only = null, withTime = false) {
    const moment = this.at(count), time = this.timeAt(count), { state = {} } = this.header;
    const connections = [...moment.connections.values()].map((connection) => this.connectionRow(connection, time));
    const whole = (rows) => ({ rows, all: true });
    const isEnd = count >= this.count;
    const ended = isEnd ? Object.entries(state.views ?? {}).map(([name, rows]) => [name, whole(rows)]) : [];
    const views = { ...this.tablesAt(time), ...Object.fromEntries(ended) };
    if (!isEnd || !views.connections) views.connections = whole(connections);
    const life = only === null ? undefined : this.lifeOf(only);
    views.events = whole(life ? this.eventRowsOf(life, count, around) : this.eventRows(count, around));
    const program = { name: "recording", ...state.program, now: isEnd ? state.program?.now ?? time : time };
    const loops = isEnd && state.loops?.length ? state.loops : this.loopRows(this.at(count), time);
    return { program, loops, views, flags: isEnd && state.flags ? state.flags : this.flags(count, time), time: withTime ? this.shares(time) : [] };
  }

  /** The time of each loop in the minute before a time, by the kinds and names of its calls. */
  shares(time) {
    return this.loops.map(({ id }, number) => {
      const track = this.tracks[number], { times, kinds, length, slept } = track, parts = new Map();
      const add = (state, worked, calls) => {
        const [kind, name, cause] = this.kindOf(number, state), key = `${kind}\n${name}`;
        if (!parts.has(key)) parts.set(key, { kind, name, seconds: 0, calls: 0, causes: new Map() });
        const part = parts.get(key);
        if (cause && !part.causes.has(cause)) part.causes.set(cause, { name: cause, seconds: 0, calls: 0 });
        for (const each of cause ? [part, part.causes.get(cause)] : [part]) {
          each.seconds += worked;
          each.calls += calls;
        }
      };
      const last = lastUntil(times, length, time), before = lastUntil(times, length, time - RECENT);
      const state = this.stateAfter(number, before);
      let begin = Math.max(time - RECENT, this.beginOf(track)), idle = 0, busy = 0;
      const pass = (until, rest) => {
        add(state, until - begin - rest, 0);
        busy += until - begin - rest;
        idle += rest;
      };
      for (let index = before + 1; index <= last; index += 1) {
        const kind = kinds[index];
        pass(times[index], kind === Kind.Waited ? Math.min(slept(index), times[index] - begin) : 0);
        this.applyRecord(state, number, index);
        if (kind === Kind.Call || CALLBACKS.has(kind)) add(state, 0, 1);
        begin = times[index];
      }
      const since = this.waitsSince(number, last, time);
      if (begin < time) pass(time, since === null ? 0 : time - Math.max(begin, since));
      const shares = [...parts.values()].map(({ causes, ...part }) => ({ ...part, parts: [...causes.values()] }));
      return { loop: id, idle, busy, kinds: shares, histogram: [] };
    });
  }

  /** The kind and the name of the call that a loop is in, and the cause of a protocol's callback. */
  kindOf(loop, { calls, callback }) {
    const call = calls.at(-1);
    if (callback && !(call && callback.time <= call.time)) {
      const life = this.lifeAt(loop, callback.slot, callback.at), built = life?.built.findLast(([at]) => at <= callback.at);
      return ["protocol", life ? this.protocolOf({ life, name: built ? built[1] : null }) : "a connection", CALLBACKS.get(callback.kind)];
    }
    if (!call) return ["driver", "reads, writes and the turn itself"];
    const { kind, name } = this.nameOf(loop, call.name);
    return [kind, name];
  }

  /** The spans of a loop between two times: `[begin, end, name]`; a name is empty outside of calls. */
  spans(number, from, to, most) {
    const { times, kinds, length, slept } = this.tracks[number], found = [];
    let index = lastUntil(times, length, from);
    const state = this.stateAfter(number, index);
    let begin = index < 0 ? Infinity : from, name = this.stateWords(number, state);
    const end = (next) => next < length ? times[next] - (kinds[next] === Kind.Waited ? slept(next) : 0) : this.timeAt(this.count);
    while (begin <= to || index < 0) {
      index += 1;
      const until = Math.min(to, end(index));
      if (until > begin) found.push([begin, until, name]);
      if (index >= length || times[index] > to || found.length >= most) break;
      this.applyRecord(state, number, index);
      begin = times[index];
      name = this.stateWords(number, state);
    }
    return found;
  }

  /** The call of a loop at each of `most` times between two times: `[begin, end, name]`, for long windows. */
  samples(number, from, to, most) {
    const { times, kinds, length, slept } = this.tracks[number], step = (to - from) / most, found = [];
    for (let n = 0; n < most; n += 1) {
      const time = from + (n + 0.5) * step, index = lastUntil(times, length, time);
      const next = index + 1, isOver = index < 0 || next >= length;
      if (isOver || (kinds[next] === Kind.Waited && times[next] - slept(next) <= time)) continue;
      found.push([from + n * step, from + (n + 1) * step, this.stateWords(number, this.stateAfter(number, index))]);
    }
    return found;
  }
}

/** The place of the last of `length` ascending times that is not after `time`; -1 if all are. */
function lastUntil(times, length, time) {
  let low = 0, high = length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (times[middle] <= time) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
