// What a reader can do with the page: sort, filter and take tables with them, take figures, and page through maps.
// The page says all it has to say without this script. It fetches nothing and builds no HTML from text.
"use strict";

/** An element with properties and children: make("button", { type: "button" }, "CSV"). */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

function button(text, label, click) {
  const made = make("button", { type: "button", title: label }, text);
  made.setAttribute("aria-label", label);
  made.addEventListener("click", click);
  return made;
}

/** The name whole: headings may show it shortened. */
const textOf = (cell) => (cell.tagName === "TH" && cell.title) || cell.textContent.replace(/\s+/g, " ").trim();

// Tables: sorting

/** What a cell is sorted by: the number behind its text, its text, or null where there is nothing. */
function keyOf(cell) {
  if (!cell || cell.textContent.trim() === "–") return null;
  return "value" in cell.dataset ? Number(cell.dataset.value) : textOf(cell);
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

/** First click upwards, second downwards, third as it was; cells without a number stay last. */
function sortBy(table, heading, original) {
  const next = { none: "ascending", ascending: "descending", descending: "none" }[heading.ariaSort || "none"];
  for (const other of table.tHead.rows[0].cells) other.ariaSort = other === heading ? next : "none";
  const sign = next === "descending" ? -1 : 1;
  const keyed = original.map((row) => [keyOf(row.cells[heading.cellIndex]), row]);
  if (next !== "none") {
    keyed.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)));
  }
  table.tBodies[0].append(...keyed.map(([, row]) => row));
}

function makeSortable(table) {
  const original = [...table.tBodies[0].rows];
  for (const heading of table.tHead.rows[0].cells) {
    const sorter = make("button", { type: "button", className: "sort" }, ...heading.childNodes);
    sorter.addEventListener("click", () => sortBy(table, heading, original));
    heading.append(sorter);
    heading.ariaSort = "none";
  }
}

// Tables: CSV

/** A cell of a CSV file; what a spreadsheet would run as a formula gets an apostrophe. */
function csvCell(value) {
  const text = typeof value === "string" && /^[=+\-@]/.test(value) ? `'${value}` : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** The rows that are shown, in the order shown: numbers as they are behind their text, with their intervals. */
function csvOf(table) {
  const [head, ...rows] = [table.tHead.rows[0], ...table.tBodies[0].rows].filter((row) => !row.hidden);
  const columns = [...head.cells].map((heading, i) => {
    const wide = [...table.tBodies[0].rows].some((row) => row.cells[i] && "low" in row.cells[i].dataset);
    return { name: textOf(heading), wide };
  });
  const lines = [columns.flatMap(({ name, wide }) => (wide ? [name, `${name} low`, `${name} high`] : [name]))];
  for (const row of rows) lines.push(columns.flatMap(({ wide }, i) => csvCells(row.cells[i], wide)));
  return lines.map((line) => line.map(csvCell).join(",") + "\n").join("");
}

function csvCells(cell, wide) {
  const key = keyOf(cell);
  if (!wide) return [key ?? ""];
  return key === null ? ["", "", ""] : [key, Number(cell.dataset.low), Number(cell.dataset.high)];
}

/** A file name from a title, in characters that every system takes. */
const fileName = (text) => text.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 80) || "table";

function makeDownloadable(table) {
  const title = table.caption.querySelector("strong").textContent.trim().replace(/\.$/, "");
  const save = () => download(`${fileName(title)}.csv`, "text/csv;charset=utf-8", csvOf(table));
  const bar = make("p", { className: "tools" }, button("Download CSV", `Download as CSV: ${title}`, save));
  table.closest(".scroll").after(bar);
}

// Tables: filter

const LONG = 12; // rows from which on a table has a filter

function makeFilterable(table) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length < LONG) return;
  const box = make("input", { type: "search", placeholder: "Filter rows", spellcheck: false });
  const count = make("output");
  box.setAttribute("aria-label", `Filter rows: ${table.caption.querySelector("strong").textContent}`);
  const filter = () => {
    const wanted = box.value.trim().toLowerCase();
    for (const row of rows) row.hidden = ![...row.cells].some((cell) => textOf(cell).toLowerCase().includes(wanted));
    const shown = rows.filter((row) => !row.hidden).length;
    count.textContent = wanted ? `${shown} of ${rows.length} rows` : "";
  };
  box.addEventListener("input", filter);
  addEventListener("hashchange", () => {
    const row = document.getElementById(location.hash.slice(1))?.closest("tr");
    if (!row?.hidden || !table.contains(row)) return;
    box.value = "";
    filter();
    row.scrollIntoView();
  });
  table.closest(".scroll").before(make("p", { className: "tools" }, box, " ", count));
}

// Figures

const SVG = "http://www.w3.org/2000/svg";
const TEXTS = new Map(); // from a mark of a figure to what it stands for
const REACH = 12; // pixels from a mark within which it is still meant

/** What a mark stands for, beside it, and a ring around it: one of each, for all figures. */
const tip = make("output", { className: "tip" });
const ring = make("div", { className: "ring" });

let shown = null;

function show(mark, quiet) {
  shown = mark;
  const place = mark.getBoundingClientRect();
  const size = Math.max(place.width, place.height, 8) + 6;
  // A ring is for points: a line or a cell is seen without.
  ring.hidden = mark.tagName !== "use";
  Object.assign(ring.style, {
    left: `${place.x + (place.width - size) / 2}px`, top: `${place.y + (place.height - size) / 2}px`,
    width: `${size}px`, height: `${size}px`,
  });
  tip.setAttribute("aria-live", quiet ? "off" : "polite");
  tip.textContent = TEXTS.get(mark);
  tip.hidden = false;
  const left = Math.min(place.x + place.width / 2 + 12, document.documentElement.clientWidth - tip.offsetWidth - 8);
  const below = place.bottom + 10 + tip.offsetHeight < innerHeight;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${below ? place.bottom + 10 : Math.max(8, place.top - 10 - tip.offsetHeight)}px`;
}

function hide() {
  shown = null;
  tip.hidden = ring.hidden = true;
}

/** The mark that is pointed at, or the nearest point within reach. */
function markAt(marks, event) {
  const direct = event.target.closest?.("use, path");
  if (TEXTS.has(direct)) return direct;
  let best = null, least = REACH;
  for (const mark of marks) {
    if (mark.tagName !== "use") continue;
    const { x, y, width, height } = mark.getBoundingClientRect();
    const distance = Math.hypot(event.clientX - x - width / 2, event.clientY - y - height / 2);
    if (distance < least) [best, least] = [mark, distance];
  }
  return best;
}

/** Pointing at a mark, or the arrow keys, tell what it stands for; the texts of the browser's own tooltips give way. */
function makeTelling(card) {
  const titles = [...card.querySelectorAll("use > title, path > title")];
  if (!titles.length) return;
  const marks = titles.map((title) => title.parentNode);
  titles.forEach((title) => { TEXTS.set(title.parentNode, title.textContent); title.remove(); });
  let at = -1;
  const point = (event) => {
    const mark = markAt(marks, event);
    if (!mark) return hide();
    at = marks.indexOf(mark);
    show(mark, true);
  };
  card.addEventListener("pointermove", point);
  card.addEventListener("click", point);
  card.addEventListener("pointerleave", hide);
  card.addEventListener("blur", hide);
  card.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || event.target !== card) return;
    event.preventDefault();
    at = Math.min(Math.max(at + step, 0), marks.length - 1);
    marks[at].scrollIntoView({ block: "nearest", inline: "nearest" });
    show(marks[at], false);
  });
  card.setAttribute("aria-label", `${card.getAttribute("aria-label")}: arrow keys go from number to number`);
}

function makeAllTelling() {
  const cards = document.querySelectorAll(".card");
  if (!cards.length) return;
  hide();
  document.body.append(ring, tip);
  cards.forEach(makeTelling);
  document.getElementById("hint")?.append(" With the keyboard, the arrow keys go from mark to mark in a figure.");
  addEventListener("scroll", () => shown && show(shown, true), { capture: true, passive: true });
}

/** The figure as a file of its own: the page's sizes are left out, its marks have their texts as in the page's source. */
function svgOf(svg) {
  const copy = svg.cloneNode(true);
  const [own, copied] = [svg, copy].map((root) => [...root.querySelectorAll("use, path")]);
  own.forEach((mark, i) => {
    if (!TEXTS.has(mark)) return;
    const title = document.createElementNS(SVG, "title");
    title.textContent = TEXTS.get(mark);
    copied[i].append(title);
  });
  copy.setAttribute("style", "stroke-linejoin: round; stroke-linecap: butt");
  return `<?xml version="1.0" encoding="utf-8"?>\n${new XMLSerializer().serializeToString(copy)}\n`;
}

function makeSavable(figure) {
  if (!figure.querySelector(".card svg")) return;
  const name = figure.dataset.name;
  const save = () => download(`${name}.svg`, "image/svg+xml", svgOf(figure.querySelector(".card svg")));
  const card = figure.querySelector(".card");
  if (card.scrollWidth > card.clientWidth + 1) figure.querySelector("figcaption").prepend("Scroll the figure sideways. ");
  figure.querySelector(".files").prepend(button("Download SVG", `Download as SVG: ${name}`, save), " · ");
}

// Maps: one picture, and a slider over the checkpoints on the scale that they share

const MOST_NAMES = 5; // written below a slider

/** One rectangle per patch; its title says the value. */
function overlay(values, limit, shades, unit) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${values[0].length} ${values.length}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  values.forEach((line, y) => line.forEach((value, x) => {
    const share = limit ? Math.min(Math.max(value / limit, 0), 1) : 0;
    const patch = document.createElementNS(SVG, "rect");
    const fill = shades[Math.round(share * (shades.length - 1))];
    for (const [key, text] of Object.entries({ x, y, width: 1, height: 1, fill })) patch.setAttribute(key, text);
    const title = document.createElementNS(SVG, "title");
    title.textContent = `${value} ${unit}, row ${y + 1}, column ${x + 1}`;
    patch.append(title);
    svg.append(patch);
  }));
  return svg;
}

const number = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3 }).replace("-", "−");

function makeGallery(place) {
  const { names, pictures, shades, unit, mapUnit } = JSON.parse(place.dataset.maps);
  const image = make("img", { alt: "" });
  const screen = make("div", { className: "screen" }, image);
  const title = make("p", { className: "asked" });
  const name = make("strong"), score = make("span"), high = make("span");
  const slider = make("input", { type: "range", min: 0, max: names.length - 1, step: 1, value: 0 });
  slider.setAttribute("aria-label", "Checkpoint");
  const written = names.length > MOST_NAMES ? [names[0], names.at(-1)] : names;
  const ends = make("p", { className: "names" }, ...written.map((text) => make("span", { title: text }, text)));
  ends.setAttribute("aria-hidden", "true");
  const ramp = make("i");
  ramp.style.backgroundImage = `linear-gradient(to right, ${shades.join(", ")})`;
  let chosen = 0;

  const draw = () => {
    const { source, title: asked, limit, maps } = pictures[chosen];
    const { values, score: reached } = maps[slider.value];
    if (image.src !== source) image.src = source;
    screen.querySelector("svg")?.remove();
    screen.append(overlay(values, limit, shades, mapUnit));
    title.textContent = asked;
    name.textContent = names[slider.value];
    const change = slider.value > 0 ? `; ${names[0]}: ${number(maps[0].score)}` : "";
    score.textContent = `score ${number(reached)} ${unit}${change}`;
    high.textContent = `${number(limit)} ${mapUnit}`;
    slider.setAttribute("aria-valuetext", `${names[slider.value]}, ${score.textContent}`);
    picks.forEach((pick, i) => pick.setAttribute("aria-pressed", String(i === chosen)));
  };
  const picks = pictures.map(({ source, title: asked }, i) => {
    const pick = button("", asked, () => { chosen = i; draw(); });
    pick.append(make("img", { src: source, alt: "" }));
    return pick;
  });
  slider.addEventListener("input", draw);

  const panel = make("div", { className: "panel" },
    title, make("p", { className: "now" }, name, " ", score), slider, ends,
    make("p", { className: "ramp" }, "0", ramp, high));
  if (picks.length > 1) panel.prepend(make("div", { className: "picks" }, ...picks));
  place.append(screen, panel);
  draw();
  place.hidden = false;
}

for (const table of document.querySelectorAll("table")) {
  makeSortable(table);
  makeFilterable(table);
  makeDownloadable(table);
}
document.querySelectorAll("figure[data-name]").forEach(makeSavable);
makeAllTelling();
document.querySelectorAll("[data-maps]").forEach(makeGallery);
