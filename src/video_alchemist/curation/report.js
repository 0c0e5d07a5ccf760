const query = document.getElementById("query"), code = document.getElementById("code"), found = document.getElementById("found");
const cards = [...document.querySelectorAll("[data-text]")], groups = [...document.querySelectorAll("[data-code]")];

// A card is shown where every word of the query begins one of its words; a group where one of its cards is shown.
function filter() {
  const words = query.value.toLowerCase().split(/[^\p{L}\p{N}]+/u).filter(Boolean);
  for (const card of cards) card.hidden = !words.every((word) => card.dataset.text.includes(" " + word));
  for (const group of groups) {
    const other = code.value && group.dataset.code !== code.value;
    group.hidden = other || (words.length > 0 && !group.querySelector("[data-text]:not([hidden])"));
  }
  const shown = cards.filter((card) => card.checkVisibility()).length;
  found.textContent = words.length || code.value ? `${shown} of ${cards.length}` : "";
}

query.addEventListener("input", filter);
code.addEventListener("change", () => {
  filter();
  if (code.value) document.querySelector(`[data-code="${CSS.escape(code.value)}"]`).scrollIntoView();
});
for (const layer of ["boxes", "masks", "faces"]) {
  const box = document.getElementById(layer), apply = () => document.body.classList.toggle("no-" + layer, !box.checked);
  box.addEventListener("change", apply);
  apply();
}
for (const link of document.querySelectorAll("a[data-word]")) {
  link.addEventListener("click", () => { query.value = link.dataset.word; code.value = ""; filter(); });
}
for (const strip of document.querySelectorAll("button.strip")) {
  strip.addEventListener("click", () => strip.closest("article").classList.toggle("large"));
}
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !["INPUT", "SELECT"].includes(document.activeElement.tagName)) {
    event.preventDefault();
    query.focus();
  } else if (event.key === "Escape") {
    query.value = code.value = "";
    filter();
  }
});
filter();
