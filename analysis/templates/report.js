"use strict";
// The layer table: sort by any column, show one design or level. Without scripts the whole table is there, unsorted.
(() => {
  const table = document.getElementById("layer-table");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  const filters = [...document.querySelectorAll("select[data-column]")];
  const value = (row, column) => row.cells[column].textContent;
  const numeric = (text) => Number(text.replaceAll(",", ""));

  const sortBy = (column) => {
    const heading = headings[column];
    const isText = heading.classList.contains("text");
    const before = heading.getAttribute("aria-sort");
    const down = before === null ? !isText : before === "ascending";
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const compare = isText
      ? (a, b) => value(a, column).localeCompare(value(b, column), "en", { numeric: true })
      : (a, b) => numeric(value(a, column)) - numeric(value(b, column));
    rows.sort((a, b) => (down ? -compare(a, b) : compare(a, b)));
    body.append(...rows);
  };

  const filter = () => {
    for (const row of rows) {
      row.hidden = filters.some((f) => f.value !== "" && value(row, Number(f.dataset.column)) !== f.value);
    }
  };

  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sortBy(column));
    heading.append(button);
  });
  filters.forEach((f) => f.addEventListener("change", filter));
})();
