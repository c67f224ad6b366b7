"use strict";
(() => {
  const about = JSON.parse(document.querySelector("meta[name=vmbackup-page]").content);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const one = (name) => document.getElementById(name);
  const spoken = (seconds) => {
    const units = [[172800, 86400, "d"], [7200, 3600, "h"], [120, 60, "min"], [0, 1, "s"]];
    const unit = units.find(([least]) => seconds >= least);
    return Math.floor(seconds / unit[1]) + " " + unit[2];
  };
  const written = new Date(about.written * 1000).toISOString().slice(0, 16).replace("T", " ") + "Z";

  // By the clock of whoever reads: what was all right is not known any more when nobody writes.
  const judge = () => {
    const age = Date.now() / 1000 - about.written;
    const expired = age > about.valid || age < -300;
    if (expired && !document.body.classList.contains("expired")) {
      const words = age < 0
        ? "This computer's clock is before " + written + ", when the page was written: it cannot be told whether it still counts"
        : "nobody has looked since " + written;
      document.body.classList.add("expired");
      for (const chip of all("[data-level=OK]")) {
        chip.className = "chip UNKNOWN";
        chip.dataset.level = "UNKNOWN";
        chip.textContent = words;
      }
      const top = one("answer").firstElementChild;
      top.className = "chip UNKNOWN";
      top.textContent = "UNKNOWN";
      one("said").textContent = words + ". It was: " + one("said").textContent;
      document.title = "UNKNOWN: " + words;
      if (one("none")) one("none").lastElementChild.textContent = "";
    }
    for (const time of all("time")) {
      time.dataset.text ??= time.textContent;
      const seconds = (Date.now() - Date.parse(time.dataset.text.replace(" ", "T"))) / 1000;
      if (seconds >= 0) time.textContent = time.dataset.text + " (" + spoken(seconds) + " ago)";
    }
  };

  const table = one("table");
  const rows = all(".vm", table);
  const found = rows.map((row) => row.rows[0].textContent.toLowerCase());
  const filter = () => {
    const wanted = one("text").value.toLowerCase().split(/\s+/);
    let shown = 0;
    rows.forEach((row, number) => {
      const chip = row.querySelector("[data-level]");
      const fits = wanted.every((word) => found[number].includes(word))
        && !(one("only").checked && chip.dataset.level === "OK");
      row.classList.toggle("gone", !fits);
      shown += fits;
    });
    one("count").textContent = shown + " of " + rows.length + " VMs";
  };

  const value = (row, column) => {
    const cell = row.rows[0].cells[column];
    return column === 1 ? cell.textContent.trim() : cell.dataset.s ?? cell.firstChild.textContent;
  };
  const heads = all("thead th", table);
  const sort = (column, down) => {
    const sorted = column === "" ? rows : [...rows].sort((a, b) =>
      value(a, column).localeCompare(value(b, column), "en", { numeric: true }) * (down ? -1 : 1));
    table.append(...sorted);
    heads.forEach((head, number) => {
      if (column === "" || number !== +column) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", down ? "descending" : "ascending");
    });
  };
  heads.forEach((head, column) => {
    if (column === 3) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sort(column, head.getAttribute("aria-sort") === "ascending"));
    head.replaceChildren(button);
  });
  one("order").addEventListener("change", (event) => {
    const column = event.target.value;
    sort(column === "" ? "" : +column, column === "2" || column === "4");
  });
  one("filter").hidden = false;
  one("filter").addEventListener("submit", (event) => event.preventDefault());
  one("text").addEventListener("input", filter);
  one("only").addEventListener("change", filter);
  filter();
  judge();
  setInterval(judge, 30000);
  document.addEventListener("visibilitychange", judge);
})();
