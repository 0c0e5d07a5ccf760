const sheet = document.getElementById("sheet"), cards = [...sheet.children], found = document.getElementById("found");
const [metric, result, rising, query] = ["metric", "result", "rising", "query"].map((id) => document.getElementById(id));
const values = new Map(cards.map((card) => [card, JSON.parse(card.dataset.values)]));

// Samples without a value come last, either way.
function sort() {
  const sign = rising.checked ? 1 : -1, of = (card) => values.get(card)[result.value][metric.value];
  const order = (a, b) => (of(a) === null) - (of(b) === null) || sign * (of(a) - of(b));
  sheet.append(...cards.sort(order));
  for (const value of sheet.querySelectorAll("[data-metric]")) value.classList.toggle("chosen", value.dataset.metric === metric.value);
}

// A sample is shown where every word of the query begins one of its words.
function filter() {
  const words = query.value.toLowerCase().split(/[^\p{L}\p{N}]+/u).filter(Boolean);
  for (const card of cards) card.hidden = !words.every((word) => card.dataset.text.includes(" " + word));
  found.textContent = words.length ? `${cards.filter((card) => !card.hidden).length} of ${cards.length}` : "";
}

for (const control of [metric, result, rising]) control.addEventListener("change", sort);
query.addEventListener("input", filter);
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !["INPUT", "SELECT"].includes(document.activeElement.tagName)) {
    event.preventDefault();
    query.focus();
  }
});
sort();
