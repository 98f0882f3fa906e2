"use strict";
(() => {
  const find = (id) => document.getElementById(id);

  // The theme: the system's, until the reader chooses the other one.
  const root = document.documentElement;
  const button = find("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const remembered = (value) => {
    try { // a page that was opened as a file may have no storage
      if (value) localStorage.setItem("pagemerge-theme", value);
      return localStorage.getItem("pagemerge-theme");
    } catch { return null; }
  };
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const label = () => { button.textContent = isDark() ? "Light theme" : "Dark theme"; };
  const chosen = remembered();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remembered(root.dataset.theme);
    label();
  });
  dark.addEventListener("change", label);
  label();

  const size = (bytes) => {
    const units = ["bytes", "kB", "MB", "GB", "TB"];
    let at = 0;
    while (bytes >= 999.5 && at < 4) { bytes /= 1000; at += 1; }
    const digits = at === 0 || bytes >= 99.95 ? 0 : bytes < 9.995 ? 2 : 1;
    return `${bytes.toFixed(digits)} ${units[at]}`;
  };

  // The table: buttons in its head sort it, the field above it chooses rows.
  const table = find("table");
  if (table) {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({
      row,
      name: row.cells[0].textContent,
      values: row.dataset.v.split(",").map(Number),
      text: [...row.cells].slice(0, 3).map((it) => it.textContent)
        .concat(row.dataset.domain || "").join("\n").toLowerCase(),
    }));
    const heads = [...table.tHead.rows[0].cells];
    const sort = (head) => {
      const by = head.dataset.by;
      const was = head.getAttribute("aria-sort");
      const first = by === "name" ? "ascending" : "descending";
      const way = was ? (was === "ascending" ? "descending" : "ascending") : first;
      const sign = way === "ascending" ? 1 : -1;
      rows.sort((a, b) => sign * (by === "name"
        ? a.name.localeCompare(b.name) : a.values[by] - b.values[by]));
      body.append(...rows.map((it) => it.row));
      heads.forEach((it) => it.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", way);
    };
    heads.forEach((head) => {
      const inside = document.createElement("button");
      inside.type = "button";
      inside.append(...head.childNodes);
      inside.addEventListener("click", () => sort(head));
      head.append(inside);
    });
    const search = find("search");
    const choose = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      rows.forEach((it) => {
        const fits = words.every((word) => it.text.includes(word));
        it.row.hidden = !fits;
        count += fits;
      });
      find("found").textContent = `${count} of ${rows.length} rows`;
    };
    search.addEventListener("input", choose);
    search.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { search.value = ""; choose(); }
    });
    find("tools").hidden = false;
    choose();
  }

  // The matrix: the pointer or the arrow keys choose a pair, and a line says what it shares.
  const matrix = find("matrix");
  if (matrix) {
    const cells = find("cells");
    const names = [...matrix.querySelectorAll("li")];
    const count = names.length;
    const pages = cells.dataset.pages.split(",").map(Number);
    let row = 0;
    let column = Math.min(1, count - 1);
    const common = (a, b) => {
      const [i, j] = a < b ? [a, b] : [b, a];
      return pages[i * count - (i * (i + 1)) / 2 + j - i - 1] * Number(cells.dataset.pageSize);
    };
    const show = () => {
      const lines = [["cross-row", "width", "y", row], ["cross-column", "height", "x", column]];
      lines.forEach(([id, length, place, at]) => {
        find(id).setAttribute(length, count);
        find(id).setAttribute(place, at);
      });
      names.forEach((it, at) => it.classList.toggle("chosen", at === row || at === column));
      const told = (at) => `${at + 1} ${names[at].textContent}`;
      find("matrix-said").textContent = row === column ? told(row)
        : `${told(row)} and ${told(column)}: ${size(common(row, column))} in common`;
    };
    const within = (at) => Math.max(0, Math.min(count - 1, at));
    cells.addEventListener("pointermove", (event) => {
      const box = cells.getBoundingClientRect();
      row = within(Math.floor((event.clientY - box.top) / box.height * count));
      column = within(Math.floor((event.clientX - box.left) / box.width * count));
      show();
    });
    matrix.addEventListener("focus", show);
    matrix.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
      if (!(event.key in step)) return;
      event.preventDefault();
      row = within(row + step[event.key][0]);
      column = within(column + step[event.key][1]);
      show();
    });
  }
})();
