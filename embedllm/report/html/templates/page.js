// Tables are whole without this script; it makes them sortable and filterable.
const source = document.getElementById("tables-script").textContent;
const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
const { default: DataTable } = await import(address);
URL.revokeObjectURL(address);

// A list that a screen or two can hold is not cut into pages.
const rowsOnAPage = 60;

// Rows without a number come last, whichever way the others are sorted.
const isMissing = (value) => Number(Number.isNaN(value));
Object.assign(DataTable.ext.type.order, {
  "score-pre": (text) => (text === "" ? NaN : Number(text)),
  "score-asc": (a, b) => isMissing(a) - isMissing(b) || a - b || 0,
  "score-desc": (a, b) => isMissing(a) - isMissing(b) || b - a || 0,
});

function upgrade(table) {
  const numRows = table.tBodies[0].rows.length;
  const isLong = numRows > rowsOnAPage;
  const sortable = new DataTable(table, {
    autoWidth: false,
    columnDefs: [{ targets: ".number", type: "score", orderSequence: ["desc", "asc", ""] }],
    language: {
      search: "",
      searchPlaceholder: "Filter",
      info: "_START_ to _END_ of _TOTAL_ rows",
      infoFiltered: "(of _MAX_)",
      infoEmpty: "no rows",
      zeroRecords: "No row has this.",
      paginate: { previous: "Back", next: "Next" },
    },
    layout: {
      topStart: numRows > 5 ? "search" : null,
      topEnd: null,
      bottomStart: isLong ? "info" : null,
      bottomEnd: isLong ? { paging: { firstLast: false, numbers: false } } : null,
    },
    order: [],
    pageLength: rowsOnAPage,
    paging: isLong,
  });
  const caption = table.getAttribute("aria-label");
  const filter = table.closest(".dt-container").querySelector("input[type=search]");
  filter?.setAttribute("aria-label", `Filter: ${caption}`);
  // Who has no mouse scrolls a wide table with the arrow keys.
  const room = table.parentElement;
  room.tabIndex = 0;
  room.setAttribute("role", "region");
  room.setAttribute("aria-label", caption);
  return sortable;
}

const tables = [];
// Those below closed details wait until someone looks.
for (const table of document.querySelectorAll("table.data")) {
  const details = table.closest("details");
  if (!details) tables.push(upgrade(table));
  else details.addEventListener("toggle", () => tables.push(upgrade(table)), { once: true });
}
// On paper there is no second page to turn to.
addEventListener("beforeprint", () => tables.forEach((t) => t.page.len(-1).draw()));
addEventListener("afterprint", () => tables.forEach((t) => t.page.len(rowsOnAPage).draw()));
document.documentElement.dataset.ready = "";
