// Views, their columns, units, and the filter language. No DOM here: text goes in and text comes out.
//
// A server may be older or newer than this page: it may lack fields and views, or send unknown ones.
// Unknown fields become plain columns after the known ones.

/**
 * Known views in the order of their tabs, which the server and the terminal share:
 * `[name, singular, columns, sentence when empty]`. A column is the kind of a field, and a label if it isn't the field's name. Times are Unix times, shown as the
 * seconds that passed since, or that are left until. Hidden fields are shown only in the details.
 */
const KNOWN = [
  ["connections", "connection", {
    protocol: "name", peer: "text", state: "word", why: "why", rate_in: "speed", rate_out: "speed", buffered: "bytes",
    received: "since idle", made: "since age", in: "bytes", out: "bytes", layers: "word", host: "name",
    loop: "plain", wire_in: "bytes", wire_out: "bytes",
  }, "No connections. Each open connection is a row, with its peer, rates and buffers."],
  ["ports", "port", {
    host: "text", kind: "word", factory: "name", accepted: "count", rate: "rate", not_opened: "count", rejected: "count",
    turned_away: "count", received: "count", sent: "count", dropped: "count", buffered: "bytes", peer: "name",
    paused: "word",
  }, "No ports. Each listening port is a row, with the connections it accepted and rejected."],
  ["connectors", "connector", { target: "text", state: "word", why: "why", place: "place" },
    "No connectors. Each outgoing connection that is tried or open is a row."],
  ["services", "service", { name: "name", state: "word", why: "why", health: "word", restarts: "count" },
    "No services. Each service of the program is a row, with its health and restarts."],
  ["calls", "call", {
    kind: "word", name: "name", place: "place", due: "until", since: "since age", waits_for: "hidden", cyclic: "hidden",
  },
    "No timed calls. Each pending call is a row, with its due time."],
  ["tasks", "task", {
    name: "name", place: "place", since: "since age", kind: "hidden", waits_for: "hidden", cyclic: "hidden",
  }, "No tasks. Each running task is a row, with the reason for its wait."],
  ["deferreds", "deferred", {
    place: "place", state: "word", why: "why", consumer: "text", since: "since age", callbacks: "count", program: "hidden",
    waits_for: "links", history: "chain",
  },
    "No Deferreds. Each pending Deferred is a row, with the Deferreds that it waits for, and each of the last that have ended."],
  ["locks", "lock", {
    kind: "word", place: "place", held: "count", of: "count", waiting: "count", since: "since held", waits_for: "links",
  }, "No locks. Each lock that is held is a row, with its holders and the number of those that wait."],
  ["jobs", "job", { name: "name", place: "place", state: "word", why: "why", since: "since age", kind: "hidden", waits_for: "hidden", cyclic: "hidden" },
    "No jobs. Each blocking job on a thread of the pool is a row."],
  ["children", "child", { pid: "plain", command: "text", state: "word", why: "why", open: "word" },
    "No child processes. Each child of the program is a row."],
];

/** The view that a recording adds. */
const EVENTS = ["events", "event", {
  at: "plain", loop: "plain", connection: "name", event: "text", bytes: "bytes", took: "seconds", within: "text",
  waits_for: "hidden", between: "hidden", contents: "lines",
}, "No events."];

/** Fields that views share. Columns of a view that doesn't place them: `loop` is the first, `why` the last. */
const SHARED = { id: "plain", loop: "plain", why: "why" };

const VIEWS = new Map([...KNOWN, EVENTS].map(([name, one, fields, empty]) =>
  [name, { one, empty, fields: new Map(Object.entries(fields)) }]));

/** Fields whose recent past is kept. */
const HISTORY = new Map([["connections", ["rate_in", "rate_out", "buffered"]], ["ports", ["rate"]]]);

/** Least width of a column in characters, and its share of the spare width. */
const WIDTHS = {
  text: [21, 1], name: [15, 1], place: [22, 1], links: [20, 1], why: [44, 30], word: [12, 0],
  bytes: [12, 0], speed: [11, 0], seconds: [9, 0], since: [9, 0], until: [9, 0], count: [13, 0], rate: [9, 0], plain: [10, 0],
};
const NUMBERS = new Set(["bytes", "speed", "seconds", "since", "until", "count", "rate"]);

export const knownViews = KNOWN.map(([name]) => name);
export const historyOf = (view) => HISTORY.get(view) ?? [];
export const singular = (view) => VIEWS.get(view)?.one ?? view;

/** The sentence of a view without rows; `sent` is false if the server doesn't send it, null if unknown. */
export function emptyWords(view, sent, replaying) {
  if (sent === null) return "Waiting for the first message.";
  if (!sent && replaying) return `The recording has no ${view} of this time.`;
  if (!sent) return `This server sends no ${view}.`;
  return VIEWS.get(view)?.empty ?? `No ${view}.`;
}

/** The kind and the label of a field; a guess by `sample` for unknown fields. */
export function fieldOf(view, key, sample) {
  const known = VIEWS.get(view)?.fields.get(key) ?? (Object.hasOwn(SHARED, key) ? SHARED[key] : undefined);
  const [kind, label = key.replaceAll("_", " ")] = known?.split(" ") ?? [typeof sample === "number" ? "count" : "text"];
  return { key, kind, label };
}

/** Columns of a view, given a sample value of each field that its rows have had; null has no column. */
export function columnsOf(view, samples) {
  const known = VIEWS.get(view)?.fields ?? new Map();
  const unknown = [...samples.keys()].filter((key) => !known.has(key) && key !== "red" && !Object.hasOwn(SHARED, key));
  const first = known.has("loop") ? ["id"] : ["id", "loop"], last = known.has("why") ? [] : ["why"];
  const isShown = (key) => !["hidden", "lines", "chain"].includes(known.get(key)) && (samples.size === 0 || (samples.get(key) ?? null) !== null);
  const keys = [...first, ...known.keys(), ...unknown, ...last].filter(isShown);
  const columns = keys.map((key) => {
    const field = fieldOf(view, key, samples.get(key)), [least, share] = WIDTHS[field.kind];
    return { ...field, least, share, number: NUMBERS.has(field.kind) };
  });
  return [{ key: "red", kind: "mark", label: "!", least: 3, share: 0, number: false }, ...columns];
}

/** A value as text in the units of its kind at a Unix time; an absent value is empty. */
export function format(kind, value, unix) {
  if (value === null || value === undefined || value === "") return "";
  if (typeof value === "number") {
    switch (kind) {
      case "bytes": return bytes(value);
      case "speed": return value === 0 ? "0" : `${bytes(value)}/s`;
      case "seconds": return seconds(value);
      case "since": return passing(Math.max(0, unix - value));
      case "until": return passing(value - unix);
      case "rate": return `${count(value)}/s`;
      case "plain": return String(value);
      default: return count(value);
    }
  }
  if (kind === "why") return sentence(String(value), unix);
  if (typeof value === "boolean") return value ? "yes" : "";
  if (Array.isArray(value)) return value.map((item) => format("plain", item)).join(", ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** A time that passes, without the digits that would change too quickly to be read. */
function passing(value) {
  const size = Math.abs(value), sign = value < 0 ? "−" : "";
  if (size < 0.995) return `${sign}${Math.round(size * 100) * 10} ms`;
  return size < 59.95 ? `${sign}${size.toFixed(1)} s` : seconds(value);
}

/** A reason whose `{since:…}` and `{until:…}`, Unix times, are replaced by the time passed or left. */
export function sentence(text, unix) {
  return text.replace(/\{(since|until):(-?[\d.]+)\}/g, (_, kind, time) =>
    words(Math.max(0, kind === "since" ? unix - time : time - unix)));
}

/** The group that a value is counted in: an address without its port, a sentence without its numbers. */
export function groupOf(key, value) {
  const text = format("text", value);
  if (key === "peer") return text.replace(/:\d+$/, "");
  if (key !== "why") return text;
  return text.replace(/\{[^}]*\}|\d[\d.]*( (bytes|[KMG]iB))?/g, "…");
}

/** A time as the server spells it in sentences: `250 ms`, `3.2 s`, `5 min`, `2.5 h`. */
function words(value) {
  if (value < 1) return `${Math.floor(value * 1000)} ms`;
  if (value < 120) return `${value.toFixed(1)} s`;
  return value < 7200 ? `${(value / 60).toFixed(0)} min` : `${(value / 3600).toFixed(1)} h`;
}

/** Three digits, as far as they follow the point. */
const three = (number) => number.toFixed(Math.abs(number) >= 99.95 ? 0 : Math.abs(number) >= 9.995 ? 1 : 2);

export function bytes(value) {
  let size = value, unit = 0;
  for (; Math.abs(size) >= 1023.5 && unit < 5; unit += 1) size /= 1024;
  return `${unit === 0 ? Math.round(size) : three(size)} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit]}`;
}

export function count(value) {
  const text = Number.isInteger(value) || Math.abs(value) >= 99.95 ? value.toFixed(0) : three(value);
  return text.replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

const pad = (number) => String(number).padStart(2, "0");

/** Seconds as `12 µs`, `3.20 s`, `4m 05s`, `2h 07m` or `3d 04h`. */
export function seconds(value) {
  const size = Math.abs(value), sign = value < 0 ? "−" : "";
  if (size === 0) return "0 s";
  if (size < 0.9995e-6) return `${sign}${three(size * 1e9)} ns`;
  if (size < 0.9995e-3) return `${sign}${three(size * 1e6)} µs`;
  if (size < 0.9995) return `${sign}${three(size * 1e3)} ms`;
  if (size < 60 && Number.isInteger(size)) return `${sign}${size} s`;
  if (size < 59.95) return `${sign}${size < 9.995 ? size.toFixed(2) : size.toFixed(1)} s`;
  const whole = Math.round(size);
  if (whole < 3600) return `${sign}${Math.floor(whole / 60)}m ${pad(whole % 60)}s`;
  if (whole < 86400) return `${sign}${Math.floor(whole / 3600)}h ${pad(Math.floor(whole / 60) % 60)}m`;
  return `${sign}${Math.floor(whole / 86400)}d ${pad(Math.floor(whole / 3600) % 24)}h`;
}

// The filter language: see the help in index.html.

const TERM = /(-?)(?:([\p{L}_]+)(>=|<=|>|<|=|:))?("[^"]*"?|\S+)/gu;
const UNITS = {
  b: 1, kib: 1024, mib: 1024 ** 2, gib: 1024 ** 3, kb: 1e3, mb: 1e6, gb: 1e9,
  ns: 1e-9, us: 1e-6, µs: 1e-6, ms: 1e-3, s: 1, min: 60, m: 60, h: 3600, d: 86400, k: 1e3,
};
const COMPARE = {
  ">": (a, b) => a > b, "<": (a, b) => a < b, ">=": (a, b) => a >= b, "<=": (a, b) => a <= b, "=": (a, b) => a === b,
};

/** A number with an optional unit in its base unit, or `NaN`. A lone capital M is a million. */
export function quantity(text) {
  const [, digits, unit] = /^([-−]?\d*\.?\d+)\s*([a-zµ]*)(?:\/s)?$/iu.exec(text) ?? [];
  const factor = !unit ? 1 : unit === "M" ? 1e6 : Object.hasOwn(UNITS, unit.toLowerCase()) ? UNITS[unit.toLowerCase()] : NaN;
  return Number(digits?.replace("−", "-")) * factor;
}

/**
 * Compiles a filter for rows of `columns`: `test(row, unix)` is null if all rows match; `problem` is for
 * the reader.
 */
export function filter(text, columns) {
  const tests = [];
  let problem = null;
  for (const [all, minus, column, operator, quoted] of text.matchAll(TERM)) {
    const value = quoted.replace(/^"|"$/g, "").toLowerCase();
    const found = column && named(columns, column);
    let test;
    if (found && operator === ":") {
      test = (row) => textOf(row.values[found.key]).includes(value);
    } else if (found && operator) {
      test = comparison(found, operator, value);
      if (!test) problem ??= `${quoted} is not a number`;
    } else if (operator && operator !== ":") {
      problem ??= `no column ${column}`;
    } else {
      const word = (minus ? all.slice(1) : all).replace(/^"|"$/g, "").toLowerCase();
      test = (row) => (row.text ??= textOf(Object.values(row.values))).includes(word);
    }
    if (test) tests.push(minus ? (row, unix) => !test(row, unix) : test);
  }
  return { problem, test: tests.length === 0 ? null : (row, unix) => tests.every((test) => test(row, unix)) };
}

function named(columns, name) {
  const wanted = name.toLowerCase(), label = wanted.replaceAll("_", " ");
  return columns.find((column) => column.key === wanted || column.label === label)
    ?? columns.find((column) => column.key.startsWith(wanted) || column.label.startsWith(label));
}

function comparison(column, operator, value) {
  const number = quantity(value);
  if (Number.isNaN(number)) {
    return operator === "=" ? (row) => textOf(row.values[column.key]) === value : null;
  }
  const compare = COMPARE[operator];
  const { kind, key } = column;
  return (row, unix) => {
    const value = row.values[key];
    if (value === null || value === undefined || value === "") return false;
    return compare(kind === "since" ? unix - value : kind === "until" ? value - unix : Number(value), number);
  };
}

function textOf(value) {
  if (Array.isArray(value)) return value.map(textOf).join(", ");
  if (value instanceof Object) return Object.values(value).map(textOf).join(" ");
  return value === null || value === undefined ? "" : String(value).toLowerCase();
}
