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

/** The figure as a file of its own: the page's sizes are left out, its lines end as they do here. */
function svgOf(svg) {
  const copy = svg.cloneNode(true);
  copy.setAttribute("style", "stroke-linejoin: round; stroke-linecap: butt");
  return `<?xml version="1.0" encoding="utf-8"?>\n${new XMLSerializer().serializeToString(copy)}\n`;
}

function makeSavable(figure) {
  const name = figure.dataset.name;
  const save = () => download(`${name}.svg`, "image/svg+xml", svgOf(figure.querySelector(".card svg")));
  figure.querySelector(".files").prepend(button("Download SVG", `Download as SVG: ${name}`, save), " · ");
}

// Maps: one picture, and a slider over the checkpoints on the scale that they share

const SVG = "http://www.w3.org/2000/svg";
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
document.querySelectorAll("[data-maps]").forEach(makeGallery);
