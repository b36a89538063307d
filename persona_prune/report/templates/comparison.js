"use strict";

const byId = (id) => document.getElementById(id);

// The table of runs: a click on a heading sorts, the second one the other way round; empty cells stay last.
const table = byId("runs");
const rows = Array.from(table.tBodies[0].rows);
const order = (cell) => "order" in cell.dataset ? Number(cell.dataset.order) : cell.textContent;
const isEmpty = (value) => value === "" || Number.isNaN(value);

function compare(a, b) {
  if (typeof a === "number") return a - b;
  return a.localeCompare(b, undefined, { numeric: true });
}

function sortBy(column, sign) {
  const keyed = rows.map((row) => [order(row.cells[column]), row]);
  keyed.sort(([a], [b]) => (isEmpty(a) - isEmpty(b)) || (isEmpty(a) ? 0 : sign * compare(a, b)));
  table.tBodies[0].append(...keyed.map(([, row]) => row));
}

for (const heading of table.tHead.rows[0].cells) {
  heading.firstElementChild.addEventListener("click", () => {
    const descending = heading.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    sortBy(heading.cellIndex, descending ? -1 : 1);
  });
}

byId("filter").addEventListener("input", (event) => {
  const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  byId("count").textContent = words.length ? `${shown} of ${rows.length} runs` : `${rows.length} runs`;
});

// One alignment metric at a time; without a script all plots are there.
const alignment = byId("alignment");
if (alignment) {
  const select = () => {
    for (const figure of document.querySelectorAll("figure[data-metric]")) {
      figure.hidden = figure.dataset.metric !== alignment.value;
    }
  };
  alignment.addEventListener("change", select);
  select();
}

// Two runs, item by item.
const embedded = byId("data");
if (embedded) {
  const { texts, sets, arms } = JSON.parse(embedded.textContent);
  const members = sets.map((set) => new Map(set.map((item, place) => [item, place])));
  const first = byId("first");
  const second = byId("second");
  const form = (value) => (value < 0 ? "" : "+") + value.toFixed(3);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  const fill = (select, numbers, chosen) => {
    select.replaceChildren(...numbers.map((number) => new Option(arms[number].name, number)));
    if (numbers.includes(chosen)) select.value = chosen;
  };

  const shared = (a, b) => sets[arms[a].set].filter((item) => members[arms[b].set].has(item));

  // The same numbers every time: mulberry32.
  const generator = (seed) => () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };

  const interval = (values) => {
    const random = generator(0);
    const means = Array.from({ length: 4000 }, () => {
      let sum = 0;
      for (let i = 0; i < values.length; i++) sum += values[Math.floor(random() * values.length)];
      return sum / values.length;
    }).sort((a, b) => a - b);
    return [means[99], means[3899]];
  };

  const show = () => {
    const [a, b] = [arms[first.value], arms[second.value]];
    const body = byId("items").tBodies[0];
    const found = b ? shared(Number(first.value), Number(second.value)).map((item) => {
      const margins = [a, b].map((arm) => arm.margins[members[arm.set].get(item)]);
      return { item, margins, difference: margins[0] - margins[1] };
    }).filter(({ margins }) => !margins.includes(null)) : [];
    found.sort((x, y) => y.difference - x.difference);
    body.replaceChildren(...found.map(({ item, margins, difference }) => {
      const row = document.createElement("tr");
      [form(difference), ...margins.map(form), ...texts[item]].forEach((text, column) => {
        const cell = row.insertCell();
        cell.textContent = text;
        if (column < 3) cell.className = "number";
      });
      return row;
    }));
    if (!found.length) {
      byId("difference").textContent = "No other run has the same items.";
      return;
    }
    const differences = found.map(({ difference }) => difference);
    const [low, high] = interval(differences);
    byId("difference").textContent =
      `${found.length} items: A ${form(mean(found.map(({ margins }) => margins[0])))}, ` +
      `B ${form(mean(found.map(({ margins }) => margins[1])))}, A - B ${form(mean(differences))} ` +
      `[${form(low)}, ${form(high)}]. Perplexity ratio: A ${a.ratio}, B ${b.ratio}.`;
  };

  const offer = () => {
    const chosen = Number(first.value);
    const others = arms.map((_, number) => number).filter((n) => n !== chosen && shared(chosen, n).length > 0);
    fill(second, others, Number(second.value));
    show();
  };

  fill(first, arms.map((_, number) => number), 0);
  first.addEventListener("change", offer);
  second.addEventListener("change", show);
  offer();
}
