// Elements of the page: made, changed only where they differ, and kept by key.
//
// SAFETY of names: peers choose names and addresses, so text enters only as text nodes and attributes.

/** An element with attributes; `false` and `undefined` omit one. Children are nodes or text. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false && value !== "") made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Sets the text of an element without children if it differs; true if it did. */
export function setText(node, text) {
  const child = node.firstChild;
  if (child ? child.data === text : text === "") return false;
  if (child) child.data = text;
  else node.textContent = text;
  return true;
}

/** Sets a text whose parts between backquotes are code. */
export function setWords(node, text) {
  if (node.words === text) return;
  node.words = text;
  node.replaceChildren(...text.split("`").map((part, at) => at % 2 === 1 ? element("code", {}, part) : part));
}

export function setClass(node, name, wanted) {
  if (node.classList.contains(name) !== wanted) node.classList.toggle(name, wanted);
}

/** Makes the elements of `items` the children of `parent`, and keeps elements, and so focus, by key. */
export function reconcile(parent, items, keyOf, create, update) {
  const kept = parent.kept ??= new Map();
  const wanted = new Map(items.map((item) => [keyOf(item), item]));
  // Removes first, so that the elements that stay are not moved, which would drop the focus.
  for (const [key, node] of kept) {
    if (wanted.has(key)) continue;
    node.remove();
    kept.delete(key);
  }
  let before = parent.firstChild;
  for (const [key, item] of wanted) {
    if (!kept.has(key)) kept.set(key, create(item));
    const node = kept.get(key);
    if (node === before) before = before.nextSibling;
    else parent.insertBefore(node, before);
    update(node, item);
  }
}
