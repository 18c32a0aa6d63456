// Filters and orders the cards. A card is shown if its row, or a row with a similar image, matches the filters.
(() => {
  const list = document.getElementById("gallery");
  if (!list) return;
  const form = document.getElementById("filters");
  const status = document.getElementById("shown");
  const none = document.getElementById("none");
  const cards = Array.from(list.children, (element, rank) => ({
    element,
    rank,
    scores: JSON.parse(element.dataset.scores),
    details: element.querySelector("details"),
    rows: [element, ...element.querySelectorAll("details li")].map((row) => ({
      element: row,
      prediction: row.dataset.class,
      reasons: JSON.parse(row.dataset.reasons),
      scores: JSON.parse(row.dataset.scores),
    })),
  }));
  const total = cards.reduce((sum, card) => sum + card.rows.length, 0);
  const field = (name) => form.elements.namedItem(name);
  const limit = (name, fallback) => (field(name).value === "" ? fallback : Number(field(name).value));

  function update() {
    const score = field("score").value;
    const sign = field("direction").value === "low" ? 1 : -1;
    const low = limit("least", -Infinity);
    const high = limit("most", Infinity);
    const limited = low !== -Infinity || high !== Infinity;
    let shown = 0;
    for (const card of cards) {
      let fitting = 0;
      for (const row of card.rows) {
        const value = row.scores[score];
        const fits =
          (field("class").value === "" || row.prediction === field("class").value) &&
          (field("reason").value === "" || row.reasons.includes(field("reason").value)) &&
          (!limited || (value !== undefined && value >= low && value <= high));
        row.element.toggleAttribute("data-filtered", !fits);
        if (row !== card.rows[0]) row.element.hidden = !fits;
        fitting += fits ? 1 : 0;
      }
      card.element.hidden = fitting === 0;
      if (fitting && card.element.hasAttribute("data-filtered")) card.details.open = true;
      shown += fitting;
    }
    const value = (card) => (card.scores[score] === undefined ? -Infinity * -sign : card.scores[score]);
    const ordered = cards.slice();
    if (score !== "") ordered.sort((a, b) => sign * (value(a) - value(b)) || a.rank - b.rank);
    list.append(...ordered.map((card) => card.element));
    status.textContent = `Showing ${shown} of ${total} images`;
    none.hidden = shown > 0;
  }

  let waiting = 0;
  form.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(update, 120);
  });
  form.addEventListener("reset", () => setTimeout(update));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  update();
})();
