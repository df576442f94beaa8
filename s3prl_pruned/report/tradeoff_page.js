"use strict";
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// --- the table: a click on a heading sorts by it, the best first; another one turns the order around ---
function compare(one, other) {
  if (one.dataset.value !== undefined) return Number(one.dataset.value) - Number(other.dataset.value);
  return one.textContent.localeCompare(other.textContent, "en", { numeric: true });
}

function sortBy(heading) {
  const body = document.querySelector("tbody");
  const turned = { ascending: "descending", descending: "ascending" };
  const order = heading.ariaSort ? turned[heading.ariaSort] : heading.dataset.first;
  const isNumber = !heading.classList.contains("text");
  const cell = (row) => row.children[heading.cellIndex];
  const has = (row) => !isNumber || cell(row).dataset.value !== undefined;
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...body.rows];
  rows.sort((a, b) => has(b) - has(a) || (has(a) ? sign * compare(cell(a), cell(b)) : 0)); // without a number: last
  body.append(...rows);
  for (const each of all("thead th")) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
}
for (const heading of all("thead th")) heading.querySelector("button").addEventListener("click", () => sortBy(heading));

// --- the pictures: one quality at a time, methods that the legend turns off ---
const chooser = document.querySelector("#chooser");
const panels = all(".panels");
function choose(chosen) {
  panels.forEach((each, i) => { each.hidden = i !== chosen; });
}
if (panels.length > 1) {
  const select = chooser.querySelector("select");
  chooser.hidden = false;
  select.addEventListener("change", () => choose(Number(select.value)));
  choose(Number(select.value));
}
for (const button of all("#legend button")) {
  button.addEventListener("click", () => {
    const off = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!off));
    for (const each of all(`.series[data-method="${button.dataset.method}"]`)) each.classList.toggle("off", off);
  });
}

// --- a model that is pointed at: its lines beside the pointer, its other points and its row marked ---
const tip = document.querySelector("#tip");
const texts = new Map();
let kept = false;
for (const point of all(".point")) { // in place of the browser's own, which come late and cannot be copied from
  const title = point.querySelector("title");
  texts.set(point, title.textContent.split("\n"));
  point.setAttribute("aria-label", title.textContent);
  title.remove();
}

function mark(model) {
  for (const each of all(".here")) each.classList.remove("here");
  if (model !== undefined) for (const each of all(`[data-model="${model}"]`)) each.classList.add("here");
}

function show(point) {
  tip.replaceChildren(...texts.get(point).map((line) => {
    const shown = document.createElement("div");
    shown.textContent = line;
    return shown;
  }));
  tip.hidden = false;
  mark(point.dataset.model);
  const at = point.querySelector(".dot").getBoundingClientRect();
  const { width, height } = tip.getBoundingClientRect();
  const below = at.bottom + 8 + height < innerHeight;
  tip.style.left = `${Math.max(8, Math.min(at.left + 12, innerWidth - width - 8))}px`;
  tip.style.top = `${below ? at.bottom + 8 : Math.max(8, at.top - height - 8)}px`;
}

function hide() {
  kept = false;
  tip.classList.remove("kept");
  tip.hidden = true;
  mark();
}

for (const point of texts.keys()) {
  point.addEventListener("pointerenter", () => { if (!kept) show(point); });
  point.addEventListener("pointerleave", () => { if (!kept) hide(); });
  point.addEventListener("focus", () => { if (!kept) show(point); });
  point.addEventListener("blur", () => { if (!kept) hide(); });
  point.addEventListener("click", (event) => {
    show(point);
    kept = true;
    tip.classList.add("kept");
    event.stopPropagation();
  });
}
for (const row of all("tbody tr")) {
  row.addEventListener("pointerenter", () => { if (!kept) mark(row.dataset.model); });
  row.addEventListener("pointerleave", () => { if (!kept) mark(); });
}
document.addEventListener("click", (event) => { if (kept && !tip.contains(event.target)) hide(); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
addEventListener("scroll", () => { if (!tip.hidden) hide(); });
