// The page of the inspector: header, flags, loops, tabs and keys. Other modules hold the rest:
// store.js the state and the connection, fields.js units and filters, table.js the rows, panes.js details and time,
// chain.js the picture of a Deferred, elements.js elements.
//
// Messages change the state; one animation frame then brings the page up to date.

import { element, reconcile, setClass, setText, setWords } from "./elements.js";
import { count, knownViews, seconds } from "./fields.js";
import { address, chart, Details, plot, Time } from "./panes.js";
import { Player } from "./player.js";
import { Live, Store } from "./store.js";
import { Table } from "./table.js";

/** Loops beyond which each shows only its state and busy share, unless it hangs. */
const MANY = 8;
/** Lines of a flag that are shown, one for each loop that raises it. */
const LINES = 4;
/** Milliseconds after which a hidden page asks only for flags and loops. */
const HIDDEN = 30_000;

const by = (id) => document.getElementById(id);
const store = new Store(knownViews);
let frame = 0;
const schedule = () => { frame ||= requestAnimationFrame(update); };
const live = new Live(store, () => {
  // A hidden page has no frames, but its title stays right.
  if (document.hidden) updateTitle();
  schedule();
});
let tab = "connections";
/** Whether the cursor of a replay has moved since the last update. */
let moved = false;
const details = new Details(by("details"), store, closeDetails);
const time = new Time(by("time"), store, schedule);
const table = new Table(store, {
  schedule,
  follow: (row) => {
    if (row?.view === "events") player.seek(Number(row.id));
    if (!details.root.hidden) details.show(row);
    remember();
  },
  open: (row) => details.show(row),
});

const player = new Player(store, {
  shown: () => {
    moved = true;
    schedule();
  },
  connection: () => store.views.get("connections").selected?.id,
  wantsTime: () => tab === "time",
});

function update() {
  frame = 0;
  const now = performance.now();
  // The address may name a row that the first message brings.
  if (details.missing && store.row(details.missing.view, details.missing.id)) navigate();
  // Without messages, times don't pass.
  const shown = store.frozen ? Math.min(now, store.received) : now;
  updateHeader(now);
  updateTitle();
  updateFlags(shown);
  updateLoops(shown);
  updateTabs();
  if (tab === "time") time.update();
  else table.update(now);
  // Now that the flags and loops have left the list its height.
  if (moved && tab === "events") pointToCursor();
  moved = false;
  details.update(shown);
}

/** Selects the event of a replay's cursor, and scrolls to it. */
function pointToCursor() {
  const row = store.row("events", String(player.count));
  table.point(row);
  if (row && !details.root.hidden) details.show(row);
}

// Header

function updateHeader(now) {
  const { name = "Couplet", version, pid } = store.program ?? {};
  setText(by("program"), String(name));
  setText(by("process"), [version, pid ? `pid ${pid}` : ""].filter(Boolean).join(" "));
  const up = Math.floor(store.unix(now) - store.program?.started);
  setText(by("uptime"), up >= 0 ? `up ${seconds(up)}` : "");
  const { state } = live;
  const status = by("status");
  const words = { live: "live", replay: "replay", paused: "paused", connecting: "connecting", lost: "connection lost" };
  setText(status, words[state]);
  if (status.dataset.state !== state) status.dataset.state = state;
  by("lost").hidden = state !== "lost";
  if (state === "lost") {
    const wait = Math.max(0, Math.ceil((live.retryAt - now) / 1000));
    const shown = store.program ? ` Showing the state of ${seconds(Math.floor((now - store.received) / 1000))} ago.` : "";
    setText(by("lost-words"), `${live.reason}${shown} ${wait > 0 ? `Next try in ${wait} s.` : "Trying."}`);
  }
  setClass(by("main"), "stale", state === "lost");
  by("pause").hidden = state === "replay";
  setText(by("pause"), live.paused ? "Resume" : "Pause");
  by("pause").setAttribute("aria-pressed", String(live.paused));
}

function updateTitle() {
  const name = store.program?.name ?? "Couplet";
  const red = (store.flags ?? []).filter(({ severity }) => severity === "red").length;
  const mark = live.state === "lost" ? "✕ " : red > 0 ? `● ${red} red – ` : "";
  const title = `${mark}${name}`;
  if (document.title !== title) document.title = title;
}

// Flags

function updateFlags(now) {
  const isHung = store.loops.some(({ state }) => state === "hung");
  const groups = grouped(store.flags ?? []);
  // A recording has the flags of its end, and marks.
  by("calm").hidden = groups.length > 0 || isHung || store.replaying;
  if (store.program) setText(by("calm"), store.flags ? "No flags: no threshold is exceeded." : "All loops answer.");
  reconcile(by("flag-list"), groups, ({ key }) => key, createFlag, (node, { flags, hidden }) => {
    const { lines, rest, threshold, remedy, button } = node.parts, [{ threshold: limit, remedy: way }] = flags;
    reconcile(lines, flags, (flag) => String(flag.id), createLine, (line, flag) => updateLine(line, flag, now));
    setText(rest, hidden > 0 ? `and ${hidden} more` : "");
    setText(threshold, limit ? `Threshold: ${limit}.` : "");
    setWords(remedy, way ? `Remedy: ${way}` : "");
    button.hidden = !limit && !way;
  });
}

/** Flags of one rule in several loops share an item; red ones come first. */
function grouped(flags) {
  const groups = new Map();
  for (const flag of flags) {
    const key = `${flag.severity} ${flag.title}`;
    if (!groups.has(key)) groups.set(key, { key, flags: [], hidden: 0, severity: flag.severity, title: String(flag.title ?? flag.id) });
    const group = groups.get(key);
    if (group.flags.length < LINES) group.flags.push(flag);
    else group.hidden += 1;
  }
  const rank = ({ severity }) => severity === "red" ? 0 : 1;
  return [...groups.values()].sort((a, b) => rank(a) - rank(b));
}

/** The remedy is open for red flags; a button shows it for others. */
function createFlag({ severity, title }) {
  const isRed = severity === "red";
  const [threshold, remedy, rest] = Array.from({ length: 3 }, () => element("span"));
  const lines = element("ul"), more = element("p", { class: "more" }, remedy, " ", threshold);
  const button = element("button", { "aria-expanded": String(isRed) }, "Remedy");
  more.hidden = !isRed;
  button.addEventListener("click", () => {
    more.hidden = !more.hidden;
    button.setAttribute("aria-expanded", String(!more.hidden));
  });
  // A fault is a mark of a simulated world.
  const heading = element("h2", {}, severity === "fault" ? title : `${severity ?? "flag"}: ${title}`);
  const node = element("li", { class: isRed ? "flag is-red" : "flag" },
    element("div", { class: "top" }, heading, element("div", { class: "lines" }, lines, rest), button), more);
  node.parts = { lines, rest, threshold, remedy, button };
  return node;
}

function createLine() {
  const words = element("span"), link = element("a"), since = element("span", { class: "dim" });
  const node = element("li", {}, words, " ", link, " ", since);
  node.parts = { words, link, since };
  return node;
}

function updateLine({ parts: { words, link, since } }, flag, now) {
  setText(words, String(flag.words ?? ""));
  setText(since, flagAge(flag, now));
  link.hidden = !flag.view;
  if (link.hidden) return;
  const isRow = flag.row !== null && flag.row !== undefined;
  setText(link, isRow ? `${flag.view}/${flag.row}` : flag.view);
  const href = address(flag.view, isRow ? flag.row : undefined);
  if (link.getAttribute("href") !== href) link.setAttribute("href", href);
}

/** The age of a flag, or of the mark of one in a recording; `since` is a Unix time, or seconds if it is small. */
function flagAge({ since, isMark }, now) {
  if (typeof since !== "number") return "";
  const unix = store.unix(now), age = since > 1e9 ? unix - since : since + unix - store.program.now;
  const words = seconds(Math.max(0, Math.floor(age)));
  return isMark ? `${words} ago` : `for ${words}`;
}

// Loops

/** Numbers of a loop with their units; the second list is shown only where it isn't zero. */
const RATES = [["turns", "/s"], ["events", "/s"], ["connections", ""], ["tasks", ""], ["calls", ""], ["jobs", ""]];
const TROUBLE = [["unhandled_failures", ""], ["shed", ""]];

function updateLoops(now) {
  setClass(by("loops"), "many", store.loops.length > MANY);
  reconcile(by("loops"), store.loops, (loop) => String(loop.id), createLoop, (node, loop) => {
    const { name, thread, state, busy, bar, share, rates, line, ended } = node.parts;
    const part = Math.min(1, Math.max(0, Number(loop.busy) || 0));
    setClass(node, "is-hung", loop.state === "hung");
    setText(name, String(loop.name ?? `loop ${loop.id}`));
    setText(thread, String(loop.thread ?? ""));
    setText(state, String(loop.state ?? ""));
    busy.hidden = typeof loop.busy !== "number";
    const scale = `scaleX(${part.toFixed(3)})`;
    if (bar.style.transform !== scale) bar.style.transform = scale;
    setText(share, `${(part * 100).toFixed(part < 0.0995 ? 1 : 0)} %`);
    plot(line, store.busy.get(loop.id), 0, now, 1);
    const items = RATES.filter(([key]) => typeof loop[key] === "number")
      .concat(TROUBLE.filter(([key]) => loop[key] > 0)).map(([key, unit]) => [key, count(loop[key]) + unit]);
    if (typeof loop.late === "number") items.push(["timers late", seconds(loop.late)]);
    reconcile(rates, items, ([key]) => key, ([key]) => element("span", {}, element("b"), ` ${key}`),
      (item, [, text]) => setText(item.firstChild, text));
    const reasons = Object.entries(loop.ended ?? {}).filter(([, number]) => number > 0);
    setText(ended, reasons.length ? `ended: ${reasons.map(([reason, number]) => `${count(number)} ${reason}`).join(", ")}` : "");
    updateDoing(node.parts, loop);
  });
}

function createLoop({ id }) {
  const [thread, state, share] = ["thread dim", "state", "share"].map((name) => element("span", { class: name }));
  const name = element("button", { class: "name", title: "Filter the rows by this loop" });
  name.addEventListener("click", () => { if (tab !== "time") table.setFilter(`loop=${id}`); });
  const bar = element("div", { class: "bar" }), line = chart("busy share over the last minute");
  const rates = element("div", { class: "rates" }), ended = element("p", { class: "ended dim" });
  const doing = element("p", { class: "doing dim" }), notes = element("details", { class: "notes dim" }, element("summary"), element("ul"));
  const summary = element("summary"), frames = element("ol", { class: "mono", start: 0 });
  const box = element("details", {}, summary, frames);
  const busy = element("div", { class: "busy" }, element("div", { class: "track" }, bar), share, line);
  const node = element("article", { class: "loop" }, element("div", { class: "top" }, name, thread, state),
    busy, rates, ended, doing, box, notes);
  node.parts = { name, thread, state, busy, bar, share, rates, line, ended, doing, summary, frames, box, notes };
  return node;
}

/** The call in progress, with its backtrace, and the loop's notes. */
function updateDoing({ doing, summary, frames, box, notes }, loop) {
  const now = loop.doing, trace = Array.isArray(now?.backtrace) ? now.backtrace : [];
  const time = now && seconds(Number(now.for) || 0);
  const words = !now ? "" : loop.state === "hung" ? `hung for ${time} in ${now.what ?? "a call"}` : `in ${now.what ?? "a call"} for ${time}`;
  doing.hidden = trace.length > 0 || words === "";
  box.hidden = trace.length === 0;
  setText(doing, words);
  setText(summary, words);
  reconcile(frames, trace.map((text, at) => ({ text: String(text), at })), ({ at }) => at, () => element("li"),
    (node, { text }) => setText(node, text));
  const lines = Array.isArray(loop.notes) ? loop.notes.map((text, at) => ({ text: String(text), at })) : [];
  notes.hidden = lines.length === 0;
  setText(notes.firstChild, lines.length === 1 ? "1 note" : `${lines.length} notes`);
  reconcile(notes.lastChild, lines, ({ at }) => at, () => element("li"), (node, { text }) => setText(node, text));
}

// Tabs

const tabNames = () => [...store.views.keys(), "time"];

function updateTabs() {
  reconcile(by("tabs"), tabNames(), (name) => name, createTab, (button, name) => {
    const view = store.views.get(name), selected = String(name === tab);
    if (button.getAttribute("aria-selected") !== selected) {
      button.setAttribute("aria-selected", selected);
      button.tabIndex = name === tab ? 0 : -1;
    }
    const number = button.lastChild;
    setText(number, !view ? "" : !view.sent ? "–" : view.red ? `${count(view.count)} · ${view.red} red` : count(view.count));
    setClass(number, "red", Boolean(view?.red));
  });
}

function createTab(name) {
  const button = element("button", { role: "tab", id: `tab-${name}`, "aria-controls": "panel" },
    element("span", {}, name), element("span", { class: "count" }));
  button.addEventListener("click", () => { location.hash = address(name); });
  return button;
}

function show(name) {
  if (!tabNames().includes(name)) return;
  tab = name;
  by("panel").setAttribute("aria-labelledby", `tab-${name}`);
  by("rows").hidden = name === "time";
  by("time").hidden = name !== "time";
  by("nearby").hidden = !player.active || ["events", "time"].includes(name);
  if (name !== "time") table.show(store.views.get(name));
  details.show(null);
  // The lists have the event of the cursor in sight, and times are counted if they are shown.
  if (player.active) player.seek(player.count);
  schedule();
}

/** Follows the address: `#view` or `#view/id`. */
function navigate() {
  const [name, ...rest] = location.hash.slice(1).split("/").map(decode);
  if (!tabNames().includes(name)) return;
  if (name !== tab || !table.view) show(name);
  if (rest.length === 0 || name === "time") return;
  const id = rest.join("/");
  if (name === "events" && player.active) player.seek(Number(id) || 0);
  if (table.selected?.id === id) {
    details.show(table.selected);
  } else if (store.row(name, id)) {
    table.reveal(store.row(name, id));
    details.show(table.selected);
  } else {
    details.show(null, { view: name, id });
  }
  schedule();
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Puts the selection into the address, without an entry in the history. */
function remember() {
  history.replaceState(null, "", location.search + address(tab, table.selected?.id));
}

function closeDetails() {
  details.show(null);
  by("grid").focus();
  schedule();
}

// Keys

const MOVES = {
  ArrowDown: () => 1, j: () => 1, ArrowUp: () => -1, k: () => -1, PageDown: () => table.page,
  PageUp: () => -table.page, Home: () => -Infinity, End: () => Infinity,
};

const STEPS = {
  ",": () => player.step(-1), ".": () => player.step(1), b: () => player.nextUnit(),
  "+": () => player.zoom(0.5), "-": () => player.zoom(2),
};

function escape() {
  if (tab === "time") time.rise();
  else if (!details.root.hidden) closeDetails();
  else if (table.selected) table.select(null);
}

function pressed(event) {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || by("help").open) return;
  if (target.id === "filter") {
    if (key === "Escape") table.setFilter("");
    else if (key !== "Enter" && key !== "ArrowDown") return;
    by("grid").focus();
  } else if (target.matches("select, input") || (target.getAttribute("role") === "tab" && arrowTabs(key))) {
    return;
  } else if (key === "/" && tab !== "time") {
    by("filter").focus();
    by("filter").select();
  } else if (key === "g" && tab !== "time") {
    by("group").focus();
  } else if (key >= "0" && key <= "9" && key.length === 1) {
    const name = key === "0" ? "time" : tabNames()[key - 1];
    if (name) location.hash = address(name);
  } else if (key === "?") {
    by("help").showModal();
  } else if (key === "r") {
    if (player.active) resume();
    else replay();
  } else if (key === "p" && !player.active) {
    live.setPaused(!live.paused);
  } else if (player.active && Object.hasOwn(STEPS, key)) {
    STEPS[key]();
  } else if (key === "Escape") {
    escape();
  } else if (tab === "time" || !table.view) {
    return;
  } else if (Object.hasOwn(MOVES, key) && ("jk".includes(key) || !target.closest("#details, #flags, #loops"))) {
    // Enter then opens the row, wherever the focus was.
    by("grid").focus({ preventScroll: true });
    table.move(MOVES[key]());
  } else if (key === "Enter" && table.selected && !target.closest("button, a, summary")) {
    details.show(table.selected);
    schedule();
  } else {
    return;
  }
  event.preventDefault();
}

/** Left and right move between tabs; true if the key was one. */
function arrowTabs(key) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
  if (!step) return false;
  const names = tabNames();
  const next = names[(names.indexOf(tab) + step + names.length) % names.length];
  location.hash = address(next);
  by(`tab-${next}`).focus();
  return true;
}

// Replay

/** Replays a recording: the server's last events, or a file. */
async function replay(source = fetch(`recording${location.search}`, { cache: "no-store" })) {
  by("broken").hidden = true;
  try {
    const buffer = await fetched(source), recording = await player.read(buffer);
    if (!recording) return;
    live.leave();
    player.open(recording);
    show("events");
  } catch (error) {
    by("broken").hidden = false;
    setText(by("broken"), error.message);
  }
}

async function fetched(source) {
  try {
    const answer = await source;
    if (answer.ok === false) throw new Error(`${answer.status} ${answer.statusText}`);
    return await answer.arrayBuffer();
  } catch (error) {
    throw new Error(`The recording can't be fetched: ${error.message}`, { cause: error });
  }
}

/** Returns to the present. */
function resume() {
  // A server of a recording has nothing else.
  if (by("leave").hidden) return;
  by("broken").hidden = true;
  player.close();
  show(tab === "events" ? "connections" : tab);
  live.open();
}

function controlReplay() {
  by("replayed").addEventListener("click", () => replay());
  by("leave").addEventListener("click", resume);
  by("file").addEventListener("change", ({ target }) => {
    if (target.files.length > 0) replay(Promise.resolve(target.files[0]));
    target.value = "";
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) replay(Promise.resolve(file));
  });
}

// Controls

function kept(name) {
  try {
    return localStorage.getItem(`couplet-${name}`);
  } catch {
    return null;
  }
}

function keep(name, value) {
  try {
    localStorage.setItem(`couplet-${name}`, value);
  } catch {
    // A browser without storage forgets the choice.
  }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  setText(by("theme"), `Theme: ${theme}`);
}

function control() {
  setTheme(["light", "dark"].includes(kept("theme")) ? kept("theme") : "auto");
  by("theme").addEventListener("click", () => {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const order = dark ? ["auto", "light", "dark"] : ["auto", "dark", "light"];
    const theme = order[(order.indexOf(document.documentElement.dataset.theme) + 1) % 3];
    setTheme(theme);
    keep("theme", theme);
    player.draw();
  });
  const every = by("every");
  if ([...every.options].some(({ value }) => value === kept("every"))) every.value = kept("every");
  live.setEvery(Number(every.value));
  every.addEventListener("change", () => {
    live.setEvery(Number(every.value));
    keep("every", every.value);
  });
  by("pause").addEventListener("click", () => live.setPaused(!live.paused));
  by("retry").addEventListener("click", () => live.retry());
  by("ask").addEventListener("click", () => by("help").showModal());
  by("save").href = `state.json${location.search}`;
  by("record").href = `recording${location.search}`;
}

/** A page that is hidden for a while asks for no rows, and begins afresh when it is seen. */
function watchHiding() {
  let timer = 0, asleep = false;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (document.hidden) {
      timer = setTimeout(() => {
        if (player.active) return;
        live.send({ views: [] });
        asleep = true;
      }, HIDDEN);
    } else {
      if (asleep && !player.active) live.open();
      asleep = false;
      schedule();
    }
  });
}

control();
controlReplay();
watchHiding();
addEventListener("keydown", pressed);
addEventListener("hashchange", navigate);
addEventListener("click", ({ target }) => {
  // A link to the present address changes nothing, but may reopen the details.
  if (target.closest("a")?.hash && target.closest("a").hash === location.hash) navigate();
});
setInterval(() => {
  live.check(performance.now());
  schedule();
}, 1000);
show(tab);
// A server that has nothing but a recording says so in the address.
if (new URLSearchParams(location.search).has("recording")) {
  by("leave").hidden = true;
  replay();
} else {
  live.open();
}
navigate();
