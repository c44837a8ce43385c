// The page: colours, tables that are sorted, and what is open on paper.
"use strict";

const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");
const themes = ["as the system's", "light", "dark"];
let theme = 0;

function showTheme() {
  root.dataset.theme = theme === 2 || (theme === 0 && dark.matches) ? "dark" : "light"; // on paper the style is light
  const button = document.getElementById("theme");
  button.textContent = "Colours: " + themes[theme];
  button.setAttribute("aria-label", "Colours: " + themes[theme] + ". Change");
}

document.getElementById("theme").addEventListener("click", () => {
  theme = (theme + 1) % themes.length;
  showTheme();
});
dark.addEventListener("change", showTheme);
showTheme();
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => (each.open = true)));

// ------------------------------------------------------------------------------------------------------------ tables

function valueOf(row, column) {
  const cell = row.cells[column];
  return cell.dataset.v === undefined ? cell.textContent.trim() : Number(cell.dataset.v);
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1; // what is missing comes last
  return a.localeCompare(b, undefined, { numeric: true });
}

function sortBy(table, heading) {
  const order = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  table.querySelectorAll("th[aria-sort]").forEach((each) => each.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", order);
  const body = table.tBodies[0], column = heading.cellIndex, sign = order === "ascending" ? 1 : -1;
  const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
  rows.sort(([a], [b]) => (typeof a === typeof b ? sign : 1) * compare(a, b));
  body.append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table")) {
  for (const heading of table.tHead.rows[0].cells) {
    const column = heading.cellIndex;
    if ([...table.tBodies[0].rows].some((row) => row.cells[column].dataset.v !== undefined)) heading.classList.add("number");
    heading.querySelector("button")?.addEventListener("click", () => sortBy(table, heading));
  }
}
