// The chain of a Deferred as a picture: the Deferred and its callbacks as boxes, from top to bottom, and between two
// of them an arrow for the result that passes: at the left for a value, at the right for a failure.

import { element, setText } from "./elements.js";
import { format, seconds } from "./fields.js";

/** Words for the states of a callback. */
const STATES = { value: "returned a value", next: "is next", waiting: "waits", running: "is running", skipped: "was skipped" };

export class Picture {
  constructor() {
    this.root = element("section", { class: "picture", "aria-label": "Chain of callbacks" });
    Object.assign(this, { shown: null, passing: [] });
    this.root.hidden = true;
  }

  /** Draws a chain at a Unix time; `null` hides it. Only times that pass change until another one comes. */
  update(chain, unix) {
    if (chain !== this.shown) {
      Object.assign(this, { shown: chain, passing: [] });
      this.root.hidden = chain === null;
      const begin = chain?.made ?? chain?.ended ?? null;
      this.root.replaceChildren(...(chain ? [element("h3", {}, "Callbacks"), this.chain(chain, begin)] : []));
    }
    for (const { node, words, since } of this.passing) setText(node, `${words} ${format("since", since, unix)}`);
  }

  /** A Deferred and its callbacks. Times are those since `begin`. */
  chain(chain, begin) {
    const list = element("ol", { class: "chain" });
    const origin = box("origin", "Deferred", chain.state === "pending" ? "has not fired" : "fired", chain.place);
    this.lasts(origin, chain.made, chain.ended, chain.state === "pending", "after");
    list.append(origin, ...fate(chain));
    let flow = chain.state === "pending" ? null : chain;
    let next = "is next";
    for (const step of chain.steps ?? []) {
      if (step.left_out) {
        list.append(element("li", { class: "left-out dim" }, `… ${step.left_out} callbacks left out`));
        continue;
      }
      const isOpen = step.state === "next";
      list.append(arrow(isOpen && next !== "is next" ? null : flow, begin, step.called));
      list.append(this.step(step, isOpen ? next : STATES[step.state] ?? step.state, begin));
      if (isOpen) next = "follows";
      if (step.state === "value" || step.state === "failed") {
        list.append(...fate(step));
        flow = step;
      } else if (step.state !== "skipped") {
        flow = null;
      }
    }
    if (flow && flow !== chain) list.append(arrow(flow, begin, flow.ended));
    return list;
  }

  step(step, state, begin) {
    const words = step.inner && step.state === "value" ? "waited, then a value" : state;
    const title = `${step.number}. ${step.method}`;
    const node = box(`step ${step.handles} ${step.state}`, title, words, step.place, step.name);
    if (step.inner) {
      this.lasts(node, step.called, step.ended, step.state === "waiting", "for");
      const inner = element("div", { class: "inner" });
      if (step.inner.steps) inner.append(this.chain(step.inner, begin));
      else inner.append(element("p", { class: "dim" }, "a Deferred made at ", element("span", { class: "mono" }, step.inner.place)));
      node.append(inner);
    }
    return node;
  }

  /** Adds how long a box lasted, or has lasted so far. */
  lasts(box, since, until, isOpen, words) {
    if (typeof since !== "number") return;
    const node = element("span", { class: "lasts" });
    box.firstChild.append(node);
    if (typeof until === "number") setText(node, `${words} ${seconds(Math.max(0, until - since))}`);
    else if (isOpen) this.passing.push({ node, words: "for", since });
  }
}

function box(name, title, state, place, code = "") {
  const head = element("p", {}, element("b", {}, title), " ", element("span", { class: "state" }, state), " ");
  const node = element("li", { class: `box ${name}` }, head);
  if (code) node.append(element("p", { class: "mono", title: code }, short(code)));
  node.append(element("p", { class: "mono dim" }, place ?? ""));
  return node;
}

/** The name of a function without the paths of its modules. A closure keeps the name of its function. */
const short = (name) => name.replace(/\b(?:\w+::)+(?=\w)/g, "");

/** The failure of a box, and the places that it has passed. */
function fate({ failure }) {
  if (!failure) return [];
  const levels = (failure.levels ?? []).map((place) => element("li", { class: "mono" }, place));
  const list = element("ol", { class: "levels" }, ...levels);
  const node = element("li", { class: "failure" }, element("p", { class: "red" }, failure.text ?? ""),
    element("p", { class: "dim" }, "began at ", element("span", { class: "mono" }, failure.place ?? "")));
  if (levels.length > 0) node.append(element("p", { class: "dim" }, "passed"), list);
  return [node];
}

/** An arrow for a result, with the time at which the box below it was called. */
function arrow(flow, begin, called) {
  const kind = !flow ? "open" : flow.state === "failed" ? "failed" : "value";
  const at = called ?? flow?.ended;
  const time = flow && typeof at === "number" && begin !== null ? ` +${seconds(Math.max(0, at - begin))}` : "";
  return element("li", { class: `arrow ${kind}` }, kind === "open" ? "" : kind === "failed" ? `failure${time}` : `value${time}`);
}
