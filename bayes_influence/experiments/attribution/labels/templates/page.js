"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SIZE = 50;
  const place = "bayes-influence labels " + data.id;
  const at = (id) => document.getElementById(id);
  const state = { page: 0, marks: load() };

  function load() {
    try { return JSON.parse(localStorage.getItem(place)) || {}; } catch { return {}; }
  }
  function store() {
    try { localStorage.setItem(place, JSON.stringify(state.marks)); } catch { /* kept until the page is closed */ }
  }
  function element(name, attributes, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    made.append(...children.filter((child) => child !== null));
    return made;
  }
  const number = (value) => Number(value.toPrecision(3)).toString();

  function look(id) {
    const found = data.looks[id];
    if (!found) return element("span", {}, "row " + id);
    if (found.picture) return element("img", { src: found.picture, alt: "row " + id + ", " + found.label });
    return element("span", {}, found.text);
  }
  function argument(title, ids) {
    if (!ids.length) return null;
    const items = ids.map((id) => element("li", {}, id + " (" + (data.looks[id] || { label: "" }).label + ") ", look(id)));
    const pictured = ids.every((id) => data.looks[id] && data.looks[id].picture);
    return element("div", {}, title, element("ul", { class: pictured ? "pictures" : "" }, ...items));
  }
  function evidence(row) {
    const facts = [["loss", row.loss], ["margin", row.margin], ["epistemic", row.epistemic],
      ["self-influence", row.self_influence]].filter(([, value]) => value !== null).map(([name, value]) => name + " " + number(value)).join(", ");
    return element("div", {}, element("span", { class: "number" }, facts),
      row.twins.length ? element("div", { class: "flag" }, "same row with another label: " + row.twins.join(", ")) : null,
      element("details", {}, element("summary", {}, "rows that speak for and against"),
        argument("for " + row.label + ":", row.supporting), argument("against " + row.label + ":", row.opposing),
        argument("for " + row.proposed + ":", row.proposing)));
  }
  function marks(row) {
    const mark = state.marks[row.row];
    const buttons = ["keep", "relabel", "drop"].map((name) => {
      const button = element("button", { type: "button", "data-do": name,
        "aria-pressed": String(Boolean(mark && mark.mark === name)), "aria-label": name + " row " + row.row }, name);
      button.addEventListener("click", () => set(row, name, true));
      return button;
    });
    const choice = element("select", { "data-do": "choose", "aria-label": "new label of row " + row.row });
    for (const name of data.classes.filter((one) => one !== row.label)) choice.append(element("option", { value: name }, name));
    choice.value = mark && mark.label !== undefined && mark.mark === "relabel" ? mark.label : row.proposed;
    choice.addEventListener("change", () => set(row, "relabel", false, choice.value));
    return element("div", {}, ...buttons, choice);
  }
  function line(row) {
    const cell = (name, content, kind) => element("td", { "data-name": name, class: kind || "" }, content);
    const own = element("tr", { tabindex: "0", "data-row": row.row },
      element("th", { scope: "row" }, String(row.row)),
      cell("What it is", element("div", {}, row.file ? row.file + " " : "", look(row.row))), cell("Label", row.label),
      cell("Proposed", row.proposed, "proposed"),
      cell("Wrong", element("span", {}, number(row.wrong), row.flagged ? element("span", { class: "flag" }, " \u2691 flagged") : ""), "number"),
      cell("List rate", row.false_discovery_rate === null ? "not known" : number(row.false_discovery_rate), "number"), cell("Evidence", evidence(row)),
      cell("Mark", marks(row)));
    if (state.marks[row.row]) own.setAttribute("data-mark", state.marks[row.row].mark);
    own.addEventListener("keydown", (event) => pressed(event, own, row));
    return own;
  }
  function pressed(event, own, row) {
    if (event.target !== own || event.ctrlKey || event.metaKey || event.altKey) return;
    const meant = { k: "keep", r: "relabel", d: "drop", u: "" }[event.key];
    const next = { ArrowDown: own.nextElementSibling, ArrowUp: own.previousElementSibling }[event.key];
    if (meant !== undefined) set(row, meant, false);
    if (next) next.focus();
    if (meant !== undefined || next) event.preventDefault();
  }
  function set(row, mark, toggles, label) {
    const old = state.marks[row.row];
    if (!mark || (toggles && old && old.mark === mark)) delete state.marks[row.row];
    else {
      const chosen = label || (old && old.mark === "relabel" ? old.label : row.proposed);
      state.marks[row.row] = { mark, from: row.label, label: mark === "relabel" ? chosen : row.label };
    }
    store();
    const own = document.querySelector('tr[data-row="' + row.row + '"]');
    if (own) {
      const inside = document.activeElement && own.contains(document.activeElement) ? document.activeElement : null;
      const anew = line(row);
      own.replaceWith(anew);
      if (inside) (inside === own ? anew : anew.querySelector('[data-do="' + inside.dataset.do + '"]') || anew).focus();
    }
    summarise(shown().length);
  }
  function shown() {
    const words = at("search").value.toLowerCase();
    const label = at("class").value, status = at("status").value, key = at("sort").value;
    const rows = data.rows.filter((row) => (!label || row.label === label)
      && (!status || (status === "flagged" ? row.flagged : status === "twins" ? row.twins.length
        : Boolean(state.marks[row.row]) === (status === "marked")))
      && (!words || [row.row, row.label, row.proposed, row.file || "", (data.looks[row.row] || {}).text || ""]
        .join(" ").toLowerCase().includes(words)));
    const rising = ["margin", "row", "label"].includes(key) !== at("reverse").checked;
    const compared = (a, b) => (a[key] < b[key] ? -1 : a[key] > b[key] ? 1 : 0);
    return rows.sort((a, b) => (rising ? compared(a, b) : compared(b, a)) || a.rank - b.rank);
  }
  function summarise(count) {
    const marked = Object.keys(state.marks).length, listed = data.rows.filter((row) => state.marks[row.row]);
    const flagged = listed.filter((row) => row.flagged);
    const right = flagged.filter((row) => state.marks[row.row].mark === "keep").length;
    at("summary").textContent = count + " of " + data.rows.length + " listed rows are shown; " + marked + " are marked"
      + (marked > listed.length ? ", " + (marked - listed.length) + " of them on a longer list of this search" : "")
      + (flagged.length ? ", and of the " + flagged.length + " flagged ones among these " + right + " kept their label" : "") + ".";
  }
  function draw() {
    const rows = shown(), pages = Math.max(1, Math.ceil(rows.length / SIZE));
    state.page = Math.min(state.page, pages - 1);
    const part = rows.slice(state.page * SIZE, (state.page + 1) * SIZE);
    document.querySelector("#rows tbody").replaceChildren(...part.map(line));
    at("page").textContent = "page " + (state.page + 1) + " of " + pages;
    at("previous").disabled = state.page === 0;
    at("next").disabled = state.page === pages - 1;
    summarise(rows.length);
  }
  function quoted(value) {
    let text = String(value);
    if (/^[=+\-@\t\r\n]/.test(text) && (text.trim() === "" || isNaN(Number(text)))) text = "'" + text;
    return '"' + text.replaceAll('"', '""') + '"';
  }
  function exported() {
    const lines = Object.entries(state.marks).map(([row, mark]) => [data.id, row, mark.from, mark.mark, mark.label]
      .map(quoted).join(","));
    return ["data,row,label,mark,new_label", ...lines].join("\n") + "\n";
  }
  for (const name of data.classes) at("class").append(element("option", { value: name }, name));
  for (const id of ["search", "class", "status", "sort", "reverse"]) {
    at(id).addEventListener("input", () => { state.page = 0; draw(); });
  }
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  at("previous").addEventListener("click", () => { state.page -= 1; draw(); });
  at("next").addEventListener("click", () => { state.page += 1; draw(); });
  at("clear").addEventListener("click", () => { if (confirm("Forget all marks?")) { state.marks = {}; store(); draw(); } });
  at("export").addEventListener("click", () => {
    const link = element("a", { download: "marks.csv" });
    link.href = URL.createObjectURL(new Blob([exported()], { type: "text/csv;charset=utf-8" }));
    link.click();
    URL.revokeObjectURL(link.href);
  });
  draw();
})();
