"use strict";
// Columns sort when their heading is pressed; without JavaScript the tables stand as ranked.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const rows = [...body.rows].map((row) => [key(row), row]);
      const isNumber = rows.every(([value]) => value === "" || !Number.isNaN(Number(value)));
      rows.sort(([one], [other]) => {
        if (one === "" || other === "") return (one === "") - (other === ""); // no number: last
        const order = isNumber ? one - other : one.localeCompare(other);
        return down ? -order : order;
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}
