// Lets a reviewer select rows, and saves them as a file with the columns that `oodscreen labels` needs.
(() => {
  const bar = document.getElementById("selection");
  if (!bar) return;
  const status = document.getElementById("selected");
  const scores = JSON.parse(bar.dataset.scores);
  const boxes = Array.from(document.querySelectorAll("#gallery [data-source]"), (row) => {
    const label = document.createElement("label");
    const box = document.createElement("input");
    const name = row.querySelector("h3 bdi, :scope > bdi").textContent;
    label.className = "tick";
    box.type = "checkbox";
    box.setAttribute("aria-label", `Select ${name}`);
    label.append(box, "Select");
    (row.querySelector("article > h3") || row).after(label);
    if (!row.querySelector("article")) row.append(label);
    box.addEventListener("change", update);
    return { box, row };
  });

  const chosen = () => boxes.filter((one) => one.box.checked);

  function update() {
    const count = chosen().length;
    status.textContent = `${count} selected`;
    bar.classList.toggle("any", count > 0);
    for (const button of bar.querySelectorAll("[data-do=none], [data-do=csv], [data-do=jsonl]")) {
      button.disabled = count === 0;
    }
  }

  function record(row) {
    const values = JSON.parse(row.dataset.scores);
    const source = JSON.parse(row.dataset.source);
    return {
      shard: source.shard,
      row: source.row,
      id: source.id,
      predicted: row.dataset.class || null,
      flag_reasons: JSON.parse(row.dataset.reasons).join("; "),
      ...Object.fromEntries(scores.map((name) => [name, values[name] ?? null])),
      model_version: bar.dataset.version,
      input_footer: source.input_footer,
      label: null,
    };
  }

  // A spreadsheet runs a text that starts with one of these characters as a formula; the apostrophe prevents this.
  // `oodscreen labels` removes one apostrophe, so a text that has apostrophes before the character gets one more.
  function cell(value) {
    if (value === null) return "";
    if (typeof value === "number") return String(value);
    const text = /^'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/.test(value) ? `'${value}` : value;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  function save(format) {
    const records = chosen().map((one) => record(one.row));
    const names = Object.keys(records[0]);
    const text =
      format === "csv"
        ? [names, ...records.map((one) => names.map((name) => cell(one[name])))].map((row) => row.join(",") + "\r\n")
        : records.map((one) => JSON.stringify(one) + "\n");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(text, { type: format === "csv" ? "text/csv" : "application/x-ndjson" }));
    link.download = `selection.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  bar.addEventListener("click", (event) => {
    const action = event.target.dataset.do;
    if (action === "csv" || action === "jsonl") save(action);
    if (action === "none") for (const one of boxes) one.box.checked = false;
    if (action === "all") {
      for (const { box, row } of boxes) {
        if (!row.hasAttribute("data-filtered") && !row.closest("[hidden]")) box.checked = true;
      }
    }
    update();
  });
  bar.hidden = false;
  update();
})();
