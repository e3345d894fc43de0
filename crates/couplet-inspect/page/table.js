// The table of one view: sorted, filtered, and drawn only as far as it is in sight.
//
// A slot is the element of one line; scrolling and messages refill slots, and create none.

import { element, reconcile, setClass, setText } from "./elements.js";
import { columnsOf, count, emptyWords, filter, format, groupOf, seconds, singular } from "./fields.js";

/** Pixels of a line. Browsers limit elements to some 33 million pixels: 1.3 million rows. */
const LINE = 24;
/** Lines above and below the visible ones, so that scrolling shows no gap. */
const SPARE = 4;
/** Counts that are shown, the largest first. */
const GROUPS = 20;
/** Milliseconds for which a selected row stays in the table after its end. */
const LINGER = 3000;

/** The sign of a row's mark, and its words for screen readers. */
const MARKS = [["", ""], ["○", "yellow"], ["●", "red"]];

const collator = new Intl.Collator(undefined, { numeric: true });

export class Table {
  /** `follow(row)` is called when the selection changes, `open(row)` when details are requested. */
  constructor(store, { follow, open, schedule }) {
    for (const id of ["grid", "sheet", "head", "body", "empty", "filter", "matches", "group", "groups"]) {
      this[id] = document.getElementById(id);
    }
    Object.assign(this, { store, follow, open, schedule, view: null, version: 0, columns: [], slots: [], shown: [], signature: "" });
    this.grid.style.setProperty("--row", `${LINE}px`);
    this.grid.addEventListener("scroll", schedule, { passive: true });
    new ResizeObserver(schedule).observe(this.grid);
    this.body.addEventListener("mousedown", (event) => {
      const row = this.rowAt(event.target);
      if (!row || event.button !== 0) return;
      this.select(row);
      open(row);
    });
    this.body.addEventListener("mouseover", ({ target }) => {
      // The whole text of a cell that is cut.
      if (!target.matches(".row > div")) return;
      target.title = target.scrollWidth > target.clientWidth ? target.textContent : "";
    });
    this.head.addEventListener("click", (event) => {
      const key = event.target.closest("button")?.dataset.key;
      if (key) this.sortBy(key);
    });
    this.filter.addEventListener("input", () => {
      this.view.filter = this.filter.value;
      this.compile();
    });
    this.group.addEventListener("change", () => {
      this.view.group = this.group.value;
      this.view.changed = true;
      schedule();
    });
  }

  get selected() {
    return this.view?.selected ?? null;
  }

  rowAt(target) {
    const slot = this.slots.find((slot) => slot.line === target.closest(".row"));
    return slot && this.shown[slot.index];
  }

  show(view) {
    this.view = view;
    this.filter.value = view.filter;
    this.grid.setAttribute("aria-label", view.name);
    this.grid.scrollTop = 0;
    this.signature = "";
    view.changed = true;
    this.schedule();
  }

  sortBy(key) {
    const { sort } = this.view;
    const column = this.columns.find((column) => column.key === key);
    // Numbers begin with the largest: the busiest row is the one that matters.
    const down = sort.key === key ? !sort.down : Boolean(column?.number || key === "red");
    this.view.sort = { key, down };
    this.resort = this.view.changed = true;
    this.schedule();
  }

  setFilter(text) {
    this.view.filter = this.filter.value = text;
    this.compile();
  }

  compile() {
    const { problem, test } = filter(this.view.filter, this.columns);
    this.problem = problem;
    this.test = test;
    this.filter.setAttribute("aria-invalid", String(Boolean(problem)));
    this.view.changed = true;
    this.schedule();
  }

  select(row) {
    if (this.view.selected === row) return;
    if (this.view.selected?.ended) this.view.removed = this.view.changed = true;
    this.view.selected = row;
    this.schedule();
    this.follow(row);
  }

  /** Selects `row`, and scrolls to it; a filter that hides it is cleared. */
  reveal(row) {
    this.view.changed = true;
    this.update(performance.now());
    if (!this.shown.includes(row)) this.setFilter("");
    this.select(row);
    this.update(performance.now());
    this.scrollTo(this.shown.indexOf(row));
  }

  /** Selects `row` and scrolls to it, without following it. */
  point(row) {
    if (this.view.selected?.ended) this.view.removed = true;
    this.view.selected = row ?? null;
    this.view.changed = true;
    this.update(performance.now());
    if (row) this.scrollTo(this.shown.indexOf(row));
  }

  /** Moves the selection by lines; without a selection, begins at the first line in sight. */
  move(lines) {
    if (this.shown.length === 0) return;
    const at = this.shown.indexOf(this.selected);
    const first = Math.ceil(this.grid.scrollTop / LINE);
    const next = at < 0 && Number.isFinite(lines) ? first : (at < 0 ? 0 : at) + lines;
    const index = Math.max(0, Math.min(this.shown.length - 1, next));
    this.select(this.shown[index]);
    this.scrollTo(index);
  }

  get page() {
    return Math.max(1, Math.floor(this.grid.clientHeight / LINE) - 2);
  }

  scrollTo(index) {
    const { grid } = this, top = index * LINE;
    if (top < grid.scrollTop) grid.scrollTop = top;
    // One line of the visible height is the head.
    const least = top + 2 * LINE - grid.clientHeight;
    if (least > grid.scrollTop) grid.scrollTop = least;
    this.schedule();
  }

  /** Brings rows and lines up to date; called once a frame. */
  update(now) {
    const { view } = this;
    const ended = view.selected?.ended;
    if (ended && now - ended >= LINGER && view.order.includes(view.selected)) view.removed = view.changed = true;
    // A filter may compare ages, which change without the rows.
    if (this.test && this.version !== this.store.version) view.changed = true;
    this.version = this.store.version;
    if (view.changed) {
      view.changed = false;
      this.build();
      this.collect(now);
      this.sort();
      const unix = this.store.unix(now);
      this.shown = this.test ? view.order.filter((row) => this.test(row, unix) || row === view.selected) : view.order;
      this.describe();
      this.count();
    }
    this.draw(now);
  }

  /** Builds the head again if the fields of the view changed. */
  build() {
    const columns = columnsOf(this.view.name, this.view.samples);
    const signature = `${this.view.name} ${columns.map((column) => column.key + column.kind)}`;
    if (signature === this.signature) return;
    this.signature = signature;
    this.columns = columns;
    this.grid.style.setProperty("--columns",
      columns.map(({ least, share }) => share ? `minmax(${least}ch, ${share}fr)` : `${least}ch`).join(" "));
    this.sheet.style.minWidth = `${columns.reduce((sum, { least }) => sum + least, 0)}ch`;
    this.grid.setAttribute("aria-colcount", columns.length);
    this.head.replaceChildren(...columns.map(({ key, kind, label, number }, index) => {
      const button = element("button", { "data-key": key, tabindex: 0, title: `Sort by ${label}` }, label);
      if (key === "red") button.setAttribute("aria-label", "needs attention");
      return element("div",
        { role: "columnheader", "aria-colindex": index + 1, class: number ? "number" : kind === "mark" ? "mark" : "" }, button);
    }));
    const groups = columns.filter(({ key, kind, number }) => !number && kind !== "mark" && key !== "id");
    this.group.replaceChildren(element("option", { selected: "" }, ""),
      ...groups.map(({ key, label }) => element("option", { value: key }, label)));
    this.group.value = groups.some(({ key }) => key === this.view.group) ? this.view.group : "";
    this.body.replaceChildren();
    this.slots = [];
    this.resort = true;
    this.compile();
    this.view.changed = false;
  }

  /** Adds new rows to the order, and removes ended ones, except a selected one for a while. */
  collect(now) {
    const { view } = this;
    if (view.removed) {
      const { selected } = view;
      view.order = view.order.filter((row) => !row.ended || (row === selected && now - row.ended < LINGER));
      view.removed = false;
    }
    for (const row of view.fresh) if (!row.ended) view.order.push(row);
    this.resort ||= view.fresh.length > 0;
    view.fresh = [];
  }

  /** Sorts, stably, if a key changed. The order is almost sorted, which makes it cheap. */
  sort() {
    const { view } = this, { key, down } = view.sort;
    const kind = this.columns.find((column) => column.key === key)?.kind;
    let changed = this.resort;
    for (const row of view.order) {
      // Objects that have ended come after the others.
      const value = key === "red" ? row.mark - (row.values.state === "ended" ? 0.5 : 0) : keyOf(kind, row.values[key]);
      if (value !== row.key) {
        row.key = value;
        changed = true;
      }
    }
    for (const cell of this.head.children) {
      const is = cell.firstChild.dataset.key === key;
      cell.setAttribute("aria-sort", !is ? "none" : down ? "descending" : "ascending");
    }
    if (changed) view.order.sort(down ? (a, b) => compare(b.key, a.key, -1) : (a, b) => compare(a.key, b.key, 1));
    this.resort = false;
  }

  /** The count, or the reason for an empty table. */
  describe() {
    const { view, shown } = this, all = view.order.length;
    const words = view.sent === null ? "" : this.test ? `${count(shown.length)} of ${count(all)}` : `${count(all)} ${all === 1 ? singular(view.name) : view.name}`;
    const age = view.age > 0 ? `, as of ${seconds(view.age)} before` : "";
    const leftOut = view.leftOut > 0 ? `, ${count(view.leftOut)} rows of the tables left out` : "";
    setText(this.matches, this.problem ? `Filter: ${this.problem}` : words + age + leftOut);
    this.matches.classList.toggle("red", Boolean(this.problem));
    this.empty.hidden = shown.length > 0;
    setText(this.empty, all === 0 ? emptyWords(view.name, view.sent, this.store.replaying) : "No row matches the filter.");
    this.grid.setAttribute("aria-rowcount", shown.length + 1);
    this.body.style.height = `${shown.length * LINE}px`;
  }

  /** Counts the shown rows by the values of a column. A count filters by its value. */
  count() {
    const key = this.group.value, counts = new Map();
    this.groups.hidden = key === "";
    if (key !== "") {
      for (const row of this.shown) {
        const group = groupOf(key, row.values[key]);
        counts.set(group, (counts.get(group) ?? 0) + 1);
      }
    }
    const largest = [...counts].sort((a, b) => b[1] - a[1]).slice(0, GROUPS);
    reconcile(this.groups, largest, ([group]) => `${key} ${group}`, ([group]) => {
      const button = element("button", {}, element("b"), group || "–");
      button.addEventListener("click", () => {
        // Of a text with gaps, the longest part; a number or nothing as a whole.
        const part = group.split(/[…"]/).sort((a, b) => b.length - a.length)[0].trim();
        const isWhole = part === "" || typeof this.view.samples.get(key) === "number";
        this.setFilter(`${this.view.filter} ${key}${isWhole ? "=" : ":"}"${part}"`.trim());
      });
      return element("li", {}, button);
    }, (item, [, number]) => setText(item.firstChild.firstChild, count(number)));
  }

  /** Fills a slot for each line in sight. */
  draw(now) {
    const { grid, shown, slots } = this;
    const most = Math.min(shown.length, Math.ceil(grid.clientHeight / LINE) + 2 * SPARE);
    while (slots.length < most) this.addSlot();
    while (slots.length > most) slots.pop().line.remove();
    const first = Math.max(0, Math.min(Math.floor(grid.scrollTop / LINE) - SPARE, shown.length - most));
    for (let index = first; index < first + most; index += 1) this.fill(slots[index % most], index, now);
    const active = slots.find((slot) => shown[slot.index] === this.selected && this.selected);
    if (active) grid.setAttribute("aria-activedescendant", active.line.id);
    else grid.removeAttribute("aria-activedescendant");
  }

  addSlot() {
    const cells = this.columns.map(({ kind, number }, index) => element("div", {
      role: "gridcell", "aria-colindex": index + 1,
      class: number ? "number" : kind === "mark" ? "mark" : kind === "why" ? "why" : "",
    }));
    const line = element("div", { class: "row", role: "row", id: `line-${this.slots.length}` }, ...cells);
    this.body.append(line);
    this.slots.push({ line, cells, index: -1 });
  }

  fill(slot, index, now) {
    const row = this.shown[index], { line, cells } = slot;
    const unix = this.store.unix(row.ended ?? now);
    if (slot.index !== index) {
      slot.index = index;
      line.style.transform = `translateY(${index * LINE}px)`;
      line.setAttribute("aria-rowindex", index + 2);
      setClass(line, "even", index % 2 === 1);
    }
    this.columns.forEach(({ key, kind }, at) => {
      if (kind === "mark") {
        const [sign, words] = row.ended ? ["×", "ended"] : MARKS[row.mark];
        if (setText(cells[at], sign)) cells[at].setAttribute("aria-label", words);
      } else if (setText(cells[at], format(kind, row.values[key], unix))) {
        // Dim zeros let the numbers that matter stand out.
        setClass(cells[at], "zero", row.values[key] === 0 && kind !== "plain");
      }
    });
    setClass(line, "is-red", row.mark === 2);
    setClass(line, "is-yellow", row.mark === 1);
    setClass(line, "is-ended", Boolean(row.ended));
    const selected = String(row === this.selected);
    if (line.getAttribute("aria-selected") !== selected) line.setAttribute("aria-selected", selected);
  }
}

/** A value as a key of the order: absent values are null, and an age grows as its Unix time falls. */
function keyOf(kind, value) {
  if (typeof value === "number") return kind === "since" ? -value : value;
  if (value === null || value === undefined || value === "") return null;
  if (typeof value === "boolean") return Number(value);
  return Array.isArray(value) ? value.join(", ") : typeof value === "object" ? JSON.stringify(value) : value;
}

/** Absent values come last in both directions. */
function compare(a, b, direction) {
  if (a === b) return 0;
  if (a === null) return direction;
  if (b === null) return -direction;
  if (typeof a === "number" && typeof b === "number") return a - b;
  return collator.compare(a, b);
}
