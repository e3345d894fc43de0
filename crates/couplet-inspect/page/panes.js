// Charts, the details of a row, and the pane of time.

import { Picture } from "./chain.js";
import { element, reconcile, setClass, setText, setWords } from "./elements.js";
import { count, fieldOf, format, historyOf, seconds, sentence, singular } from "./fields.js";
import { HISTORY_SECONDS } from "./store.js";

/** The address of a view or of one of its rows, for links. */
export const address = (view, id) => `#${encodeURIComponent(view)}${id === undefined ? "" : `/${encodeURIComponent(id)}`}`;

/** An empty chart: an SVG with one path. */
export function chart(words) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", `0 0 ${HISTORY_SECONDS} 20`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", words);
  svg.append(document.createElementNS(space, "path"));
  return svg;
}

/** Draws a series as steps over the last minute, up to `most` or the largest value; returns the largest. */
export function plot(svg, history, index, now, most = 0) {
  const points = [];
  let largest = 0;
  for (const [time, value] of history.series(index)) {
    const x = HISTORY_SECONDS - (now - time) / 1000;
    // One entry from before the window gives the level at its left edge.
    if (x <= 0) points.length = 0;
    points.push([Math.max(0, x), value]);
  }
  for (const [, value] of points) largest = Math.max(largest, value);
  const scale = 18 / (most || largest || 1);
  const path = points.map(([x, value], at) =>
    `${at === 0 ? "M" : "H"}${x.toFixed(1)}${at === 0 ? "," : "V"}${(19 - value * scale).toFixed(1)}`);
  svg.firstChild.setAttribute("d", path.length ? `${path.join("")}H${HISTORY_SECONDS}` : "");
  return largest;
}

/** Links of a row that are shown, at most. */
const MOST_LINKS = 40;

/** The pane of one row: its reason, history, fields and links. The pane stays after the row's end. */
export class Details {
  constructor(root, store, close) {
    Object.assign(this, { root, store, row: null, missing: null });
    this.title = element("h2");
    const button = element("button", { "aria-label": "Close details", "aria-keyshortcuts": "Escape" }, "Close");
    button.addEventListener("click", close);
    this.ended = element("p", { class: "ended", role: "status" });
    this.flags = element("ul");
    this.why = element("p", { class: "words" });
    this.charts = element("div");
    this.actions = element("div", { class: "actions" });
    this.outcome = element("p", { class: "dim", role: "status" });
    this.lines = element("pre", { class: "mono" });
    this.picture = new Picture();
    this.fields = element("dl");
    this.lists = [["Waits for", "below"], ["Waiters", "above"]].map(([name, place]) => {
      const list = element("ul");
      return { list, section: element("section", { class: `graph ${place}` }, element("h3", {}, name), list) };
    });
    root.replaceChildren(element("div", { class: "top" }, this.title, button), this.ended, this.flags, this.why,
      this.actions, this.outcome, this.charts, ...this.lists.map(({ section }) => section),
      this.picture.root, this.lines, this.fields);
  }

  /** Shows a row, or with `missing` the view and id of one that the page doesn't have; `null` hides. */
  show(row, missing = null) {
    this.row = row;
    this.missing = missing;
    this.root.hidden = !row && !missing;
    this.root.scrollTop = 0;
  }

  update(now) {
    if (this.root.hidden) return;
    const { row, store } = this;
    const view = row?.view ?? this.missing.view, id = row?.id ?? this.missing.id;
    const values = row?.values ?? {}, unix = store.unix(row?.ended ?? now);
    setText(this.title, `${singular(view)} ${id}`);
    setText(this.lists[0].section.firstChild, view === "events" ? "Recorded by" : "Waits for");
    const ended = row?.ended && `Ended ${seconds(Math.floor((now - row.ended) / 1000))} ago. Its last state:`;
    setText(this.ended, row ? ended || "" : "No such row: it ended earlier, or the server doesn't send it.");
    setText(this.why, format("why", values.why, unix));
    setClass(this.why, "red", row?.mark === 2);
    const flags = (store.flags ?? []).filter((flag) => flag.view === view && String(flag.row) === id);
    reconcile(this.flags, flags, (flag) => flag.id, () => element("li", { class: "words" }), (node, flag) => {
      setClass(node, "red", flag.severity === "red");
      setWords(node, `${flag.title}: ${flag.words ?? ""}. ${flag.remedy ?? ""}`);
    });
    this.offer(row, values);
    this.draw(row, now);
    this.link(this.lists[0], row && !row.ended ? store.chain(view, id, MOST_LINKS) : [], unix);
    this.link(this.lists[1], store.waiters(view, id).map((name) => ({ name, key: name, depth: 0 })), unix);
    const isChain = (key) => fieldOf(view, key).kind === "chain" && values[key] instanceof Object;
    this.picture.update(values[Object.keys(values).find(isChain)] ?? null, unix);
    // An older program sends a chain as lines.
    const isLines = (key) => ["lines", "chain"].includes(fieldOf(view, key).kind) && !isChain(key);
    setText(this.lines, Object.keys(values).filter(isLines).map((key) => String(values[key] ?? "")).join("\n"));
    this.lines.hidden = this.lines.textContent === "";
    const keys = Object.keys(values).filter((key) => key !== "why" && key !== "waits_for" && !isChain(key) && !isLines(key));
    reconcile(this.fields, keys.flatMap((key) => [[key, "dt"], [key, "dd"]]), ([key, tag]) => `${view}/${key}/${tag}`,
      ([key, tag]) => element(tag, {}, tag === "dt" ? fieldOf(view, key).label : ""), (node, [key, tag]) => {
        if (tag === "dd") setText(node, this.value(view, key, values[key], unix));
      });
  }

  /** The actions on a connection, if the program allows them. */
  offer(row, { why = "" }) {
    const { store } = this, { actions } = store.program ?? {};
    const isOpen = actions === true && !store.replaying && row?.view === "connections" && !row.ended;
    const isPaused = String(why).startsWith("reading paused by the inspector");
    const offered = isOpen ? [isPaused ? "resume" : "pause", "close", "reset"] : [];
    if (offered.length === 0) setText(this.outcome, "");
    reconcile(this.actions, offered, (action) => `${row.id} ${action}`, (action) => {
      const button = element("button", {}, action);
      button.addEventListener("click", () => this.act(row.id, action));
      return button;
    }, () => {});
  }

  async act(id, action) {
    setText(this.outcome, `${action}: asked`);
    try {
      const path = `connections/${encodeURIComponent(id)}/${action}${location.search}`;
      const answer = await fetch(path, { method: "POST", headers: { "x-couplet-action": action } });
      setText(this.outcome, `${action}: ${(await answer.text()).trim()}`);
    } catch (error) {
      setText(this.outcome, `${action}: ${error.message}`);
    }
  }

  /** A value in full: bytes and rates also as plain numbers. */
  value(view, key, value, unix) {
    if (value === null || value === "") return "–";
    if (typeof value === "boolean") return value ? "yes" : "no";
    const { kind } = fieldOf(view, key, value), text = format(kind, value, unix) || "–";
    if (kind === "since" || kind === "until") return `${text} (${new Date(value * 1000).toLocaleTimeString([], { hourCycle: "h23" })})`;
    return kind === "bytes" && value >= 1024 ? `${text} (${count(value)} B)` : text;
  }

  draw(row, now) {
    const series = row?.history ? historyOf(row.view).map((key, index) => ({ ...fieldOf(row.view, key, 0), index })) : [];
    reconcile(this.charts, series, ({ key }) => `${row.view}/${key}`, ({ label }) => element("div", { class: "history" },
      element("span", {}, label), element("span", { class: "dim" }), chart(`${label} over the last minute`),
    ), (node, { kind, index }) => {
      const largest = plot(node.lastChild, row.history, index, row.ended ?? now);
      setText(node.children[1], `most: ${format(kind, largest)}`);
    });
  }

  /** Links to rows, each with its name and place, and the last of a chain with its reason. A cycle is red. */
  link({ list, section }, links, unix) {
    section.hidden = links.length === 0;
    reconcile(list, links, ({ key }) => key, ({ name, depth, cyclic }) => {
      const [view, ...id] = name.split("/");
      const link = element("a", { href: address(view, id.join("/")) }, cyclic ? `${name}: a cycle` : name);
      const node = element("li", { class: cyclic ? "red" : "" }, link, element("span", { class: "dim" }));
      node.style.marginLeft = `${14 * depth}px`;
      return node;
    }, (node, { name, cyclic, ends }) => {
      const [view, ...id] = name.split("/");
      const { name: own, place, event, why, state } = this.store.row(view, id.join("/"))?.values ?? {};
      const all = cyclic ? [] : [own, place, event, ends ? why ?? state : null];
      const words = all.filter((text) => typeof text === "string" && text).join(", ");
      setText(node.lastChild, words ? ` ${sentence(words, unix)}` : "");
    });
  }
}

/** The pane of time, over the last minute: an icicle of loop, kind, name and cause, a list, and a histogram. */
export class Time {
  constructor(root, store, schedule) {
    Object.assign(this, { root, store, schedule, path: [] });
    this.up = element("button", {}, "All loops");
    this.up.addEventListener("click", () => this.zoom([]));
    this.words = element("span", { class: "dim", role: "status" });
    this.flame = element("div", { class: "flame", role: "group", "aria-label": "Time by loop, kind, name and cause" });
    this.rows = element("tbody");
    this.heading = element("h2");
    this.histogram = element("ul", { class: "histogram" });
    const heads = ["share", "seconds", "calls", "each", "kind", "name"];
    const head = element("tr", {}, ...heads.map((name, at) => element("th", { scope: "col", class: at < 4 ? "number" : "" }, name)));
    root.replaceChildren(
      element("div", { class: "bar" }, this.up, this.words), this.flame,
      element("h2", {}, "Largest parts"), element("table", {}, element("thead", {}, head), this.rows),
      this.heading, this.histogram,
    );
  }

  zoom(path) {
    this.path = path;
    this.schedule();
  }

  /** One level up; false at the top. */
  rise() {
    if (this.path.length === 0) return false;
    this.zoom(this.path.slice(0, -1));
    return true;
  }

  update() {
    const { time, loops } = this.store;
    const root = tree(time ?? [], loops);
    let node = root;
    const names = [];
    for (const key of this.path) {
      node = node.parts.get(key) ?? node;
      names.push(node.words);
    }
    const name = names.join(" › ") || root.words;
    const all = node.busy + node.idle;
    const words = all > 0 ? `busy ${seconds(node.busy)}, ${percent(node.busy / all)} of` : `${seconds(node.seconds)} in`;
    const nothing = time ? "No loop was busy in the last minute." : "This server sends no times.";
    setText(this.words, root.seconds > 0 ? `${name}: ${words} the last minute` : nothing);
    this.up.hidden = this.path.length === 0;
    this.drawFlame(root, node);
    this.drawRows(node);
    setText(this.heading, `Calls of ${names[0] ?? root.words} by duration (logarithmic heights)`);
    // A replay counts no durations.
    this.heading.hidden = node.histogram.length === 0;
    this.drawHistogram(node);
  }

  drawFlame(root, zoomed) {
    const blocks = [];
    const place = (node, left, width) => {
      if (width < 0.002) return;
      blocks.push({ node, left, width });
      let at = left;
      for (const part of sorted(node)) {
        const share = node.seconds > 0 ? width * part.seconds / node.seconds : 0;
        place(part, at, share);
        at += share;
      }
    };
    for (let depth = 0, above = root; depth < zoomed.path.length; depth += 1) {
      blocks.push({ node: above, left: 0, width: 1, above: true });
      above = above.parts.get(zoomed.path[depth]);
    }
    place(zoomed, 0, 1);
    reconcile(this.flame, blocks, ({ node }) => node.path.join("\n"), ({ node }) => {
      const button = element("button", { class: `level${node.path.length}` }, node.words);
      button.style.top = `${node.path.length * 31}px`;
      button.addEventListener("click", () => this.zoom(node.path));
      return button;
    }, (button, { node, left, width, above }) => {
      button.style.left = `${left * 100}%`;
      button.style.width = `${width * 100}%`;
      setClass(button, "is-above", Boolean(above));
      const part = zoomed.seconds > 0 ? `, ${percent(node.seconds / zoomed.seconds)}` : "";
      button.title = `${node.words}: ${seconds(node.seconds)}${above ? "" : part}`;
      button.setAttribute("aria-label", button.title);
    });
  }

  drawRows(zoomed) {
    const leaves = [], depth = Math.max(3, zoomed.path.length + 1);
    // Names, or the parts of the one that fills the picture.
    const collect = (node) => node.parts.size && node.path.length < depth ? [...node.parts.values()].forEach(collect) : leaves.push(node);
    collect(zoomed);
    leaves.sort((a, b) => b.seconds - a.seconds);
    const loops = zoomed.path.length === 0 && zoomed.parts.size > 1;
    reconcile(this.rows, leaves.slice(0, 40).filter((leaf) => leaf.seconds > 0), (leaf) => leaf.path.join("\n"), (leaf) => element("tr", {},
      ...Array.from({ length: 4 }, () => element("td", { class: "number" })),
      element("td", {}, leaf.kind ?? ""), element("td", { class: "name" })), (line, leaf) => {
      const each = leaf.calls > 0 ? seconds(leaf.seconds / leaf.calls) : "";
      const cells = [percent(leaf.seconds / (zoomed.seconds || 1)), seconds(leaf.seconds), count(leaf.calls), each];
      cells.forEach((text, at) => setText(line.children[at], text));
      setText(line.lastChild, loops && leaf.path.length > 1 ? `${leaf.words} (${leaf.loop})` : leaf.words);
    });
  }

  drawHistogram(zoomed) {
    const bars = zoomed.histogram;
    const most = Math.log1p(Math.max(1, ...bars.map((bar) => bar.count)));
    reconcile(this.histogram, bars, (bar) => `${bar.limit}`, (bar) => element("li", {},
      element("div", {}), element("div", { class: "column" }, element("div")),
      element("div", { class: "dim" }, bar.limit === null ? "more" : `≤ ${seconds(bar.limit).replace(/\.0+ /, " ")}`)), (node, bar) => {
      setText(node.firstChild, bar.count > 0 ? count(bar.count) : "");
      node.children[1].firstChild.style.transform = `scaleY(${Math.log1p(bar.count) / most})`;
    });
  }
}

const percent = (share) => `${(share * 100).toFixed(share < 0.0995 ? 1 : 0)} %`;
const sorted = (node) => [...node.parts.values()].sort((a, b) => b.seconds - a.seconds);

/** The tree of loop, kind, name, and cause of a protocol's callbacks. */
function tree(time, loops) {
  const root = part("all loops", [], null);
  const total = (number) => Number(number) || 0;
  for (const entry of time) {
    const name = String(loops.find(({ id }) => id === entry.loop)?.name ?? `loop ${entry.loop}`);
    const loop = part(name, [`${entry.loop}`], null);
    loop.busy = total(entry.busy);
    loop.idle = total(entry.idle);
    loop.histogram = (entry.histogram ?? []).map(({ limit, count: number }) => ({ limit: limit ?? null, count: total(number) }));
    for (const item of entry.kinds ?? []) {
      const kind = child(loop, String(item.kind), item.kind);
      const leaf = child(kind, String(item.name ?? ""), item.kind);
      leaf.loop = name;
      const parts = (item.parts ?? []).map((of) => [child(leaf, String(of.name), item.kind), of]);
      for (const [node, from] of [[kind, item], [leaf, item], ...parts]) {
        node.seconds += total(from.seconds);
        node.calls += total(from.calls);
      }
    }
    // Measured parts may exceed a busy time that was read a moment earlier.
    loop.seconds = Math.max(loop.busy, [...loop.parts.values()].reduce((sum, kind) => sum + kind.seconds, 0));
    for (const field of ["seconds", "busy", "idle"]) root[field] += loop[field];
    for (const bar of loop.histogram) {
      const same = root.histogram.find(({ limit }) => limit === bar.limit);
      if (same) same.count += bar.count;
      else root.histogram.push({ ...bar });
    }
    root.parts.set(`${entry.loop}`, loop);
  }
  return root;
}

function part(words, path, kind) {
  return { words, path, kind, seconds: 0, busy: 0, idle: 0, calls: 0, parts: new Map(), histogram: [] };
}

function child(parent, key, kind) {
  if (!parent.parts.has(key)) {
    const made = part(key || String(kind), [...parent.path, key], kind);
    made.histogram = parent.histogram;
    parent.parts.set(key, made);
  }
  return parent.parts.get(key);
}
