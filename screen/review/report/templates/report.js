"use strict";
(() => {
  const gallery = document.getElementById("gallery");
  if (gallery) setUpGallery(gallery);
  document.querySelectorAll("table.sortable").forEach(setUpTable);

  function setUpGallery(list) {
    const form = document.getElementById("filters");
    const status = document.getElementById("shown");
    const none = document.getElementById("none");
    const cards = Array.from(list.children, (element, rank) => ({
      element,
      rank,
      prediction: element.dataset.class,
      reasons: JSON.parse(element.dataset.reasons),
      scores: JSON.parse(element.dataset.scores),
    }));
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
        const value = card.scores[score];
        const fits =
          (field("class").value === "" || card.prediction === field("class").value) &&
          (field("reason").value === "" || card.reasons.includes(field("reason").value)) &&
          (!limited || (value !== undefined && value >= low && value <= high));
        card.element.hidden = !fits;
        shown += fits ? 1 : 0;
      }
      const value = (card) => (card.scores[score] === undefined ? -Infinity * -sign : card.scores[score]);
      const ordered = cards.slice();
      if (score !== "") ordered.sort((a, b) => sign * (value(a) - value(b)) || a.rank - b.rank);
      list.append(...ordered.map((card) => card.element));
      status.textContent = `Showing ${shown} of ${cards.length} images`;
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
  }

  function setUpTable(table) {
    const body = table.tBodies[0];
    const heads = Array.from(table.tHead.rows[0].querySelectorAll("th"));
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const first = head.dataset.first || "descending";
        const other = first === "descending" ? "ascending" : "descending";
        const direction = head.getAttribute("aria-sort") === first ? other : first;
        for (const one of heads) one.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", direction);
        const sign = direction === "ascending" ? 1 : -1;
        const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
        const rows = Array.from(body.rows);
        rows.sort((a, b) => sign * compare(key(a), key(b)));
        body.append(...rows);
      });
    });
  }

  function compare(a, b) {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y;
  }
})();
