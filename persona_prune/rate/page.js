"use strict";
const $ = id => document.getElementById(id);
const data = JSON.parse($("data").textContent), ballots = data.ballots;
const KEY = `persona_prune_rate_${data.page}`;
const KEYS = {1: "1", 2: "2", t: "tie", n: "nonsense"};

/* rater: null before the start; at: the ballot shown, ballots.length for the end; given: id -> {choice, seconds};
   history: what undo takes back, [id, what was given before or null]. */
let state = {rater: null, at: 0, given: {}, history: []};
let since = null; // when the ballot came into view; null while it is not

function load() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY));
    if (kept) state = kept;
  } catch { trouble(); }
}
function keep() {
  try { localStorage.setItem(KEY, JSON.stringify(state)); } catch { trouble(); }
}
function trouble() {
  $("problem").textContent = "This browser keeps nothing for this page: export before you close or reload it.";
  $("problem").hidden = false;
}

const looked = new Map(); // id -> seconds that a ballot was in view since the page was opened
function look(on) {
  const ballot = ballots[state.at];
  if (since !== null && ballot) looked.set(ballot.id, (looked.get(ballot.id) ?? 0) + (performance.now() - since) / 1000);
  since = on && !document.hidden && state.rater !== null && ballot ? performance.now() : null;
}

function show(focus = false) {
  const started = state.rater !== null, ballot = ballots[state.at], rated = Object.keys(state.given).length;
  $("start").hidden = started;
  $("ballot").hidden = !started || !ballot;
  $("end").hidden = !started || Boolean(ballot);
  $("moves").hidden = !started;
  $("bar").max = ballots.length;
  $("bar").value = rated;
  const where = ballot ? `${state.at + 1} of ${ballots.length}` : "The end";
  $("progress").textContent = started ? `${where} · ${rated} rated` : `${ballots.length} ballots`;
  $("back").disabled = state.at === 0;
  $("next").disabled = !ballot;
  $("undo").disabled = state.history.length === 0;
  $("export").disabled = rated === 0;
  $("export").classList.toggle("main", rated === ballots.length);
  if (ballot) {
    $("about").textContent = ballot.about;
    $("prompt").textContent = ballot.prompt;
    $("text-1").textContent = ballot.first.trim();
    $("text-2").textContent = ballot.second.trim();
    const choice = state.given[ballot.id]?.choice;
    for (const button of document.querySelectorAll("[data-choice]")) {
      button.setAttribute("aria-pressed", String(button.dataset.choice === choice));
      button.closest("article")?.classList.toggle("chosen", button.dataset.choice === choice);
    }
    if (focus) $("ballot").focus({preventScroll: true});
  } else if (started) {
    const left = ballots.length - rated;
    $("summary").textContent = left ? `${rated} of ${ballots.length} are rated; you can export what there is.`
      : "All are rated, thank you. Export them, and send the file to whoever asked you.";
    $("rest").hidden = left === 0;
  }
}
function go(to) {
  if (to < 0 || to > ballots.length) return;
  look(false);
  state.at = to;
  keep();
  show(true);
  look(true);
  scrollTo(0, 0);
}
function choose(choice) {
  const ballot = ballots[state.at];
  if (state.rater === null || !ballot) return;
  look(true);
  state.history.push([ballot.id, state.given[ballot.id] ?? null]);
  const before = state.given[ballot.id]?.seconds ?? 0, now = looked.get(ballot.id) ?? 0;
  state.given[ballot.id] = {choice, seconds: Math.round((before + now) * 100) / 100};
  looked.delete(ballot.id);
  go(state.at + 1);
}
function undo() {
  if (!state.history.length) return;
  const [id, before] = state.history.pop();
  if (before) state.given[id] = before; else delete state.given[id];
  go(ballots.findIndex(ballot => ballot.id === id));
}
function exported() {
  const rated = ballots.filter(ballot => state.given[ballot.id]);
  const content = {
    page: data.page, rater: state.rater, seed: data.seed, ballots: rated.map(({id}) => ({id, ...state.given[id]})),
  };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1) + "\n"], {type: "application/json"}));
  link.download = `ratings-${state.rater.toLowerCase().replace(/[^a-z0-9]+/g, "-") || "unnamed"}-${data.page}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

$("start").addEventListener("submit", event => {
  event.preventDefault();
  state.rater = $("rater").value.trim();
  go(0);
});
for (const button of document.querySelectorAll("[data-choice]")) {
  button.addEventListener("click", () => choose(button.dataset.choice));
}
$("back").addEventListener("click", () => go(state.at - 1));
$("next").addEventListener("click", () => go(state.at + 1));
$("undo").addEventListener("click", undo);
$("export").addEventListener("click", exported);
$("rest").addEventListener("click", () => go(ballots.findIndex(ballot => !state.given[ballot.id])));
document.addEventListener("visibilitychange", () => look(true));
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || state.rater === null) return;
  const key = event.key.toLowerCase();
  if (Object.hasOwn(KEYS, key)) choose(KEYS[key]);
  else if (key === "u") undo();
  else if (key === "arrowleft") go(state.at - 1);
  else if (key === "arrowright") go(state.at + 1);
  else return;
  event.preventDefault();
});
load();
show();
look(true);
