// What the page can do beyond being read: tables that sort and filter, links that open what they lead to, one chart.
"use strict";
(() => {
  const collator = new Intl.Collator("en", { numeric: true });

  // A link into something folded unfolds it; the point is then read from its heading.
  function unfold(id) {
    const there = id && document.getElementById(id);
    if (!there) return;
    for (let at = there; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    there.scrollIntoView();
    there.focus({ preventScroll: true });
  }
  function go(id) {
    if (location.hash === `#${id}`) unfold(id);
    else location.hash = id;
  }
  addEventListener("hashchange", () => unfold(location.hash.slice(1)));
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (link && link.getAttribute("href") === location.hash) unfold(location.hash.slice(1));
  });

  // Tables. Each row is a <tbody>, so that what belongs to it moves with it. A cell's data-v is its number.
  function value(row, column) {
    const cell = row.rows[0].cells[column];
    if (!cell) return null;
    const number = Number.parseFloat(cell.dataset.v);
    if (!Number.isNaN(number)) return number;
    const text = cell.dataset.v === undefined ? cell.textContent.trim() : "";
    return text === "" || text === "–" ? null : text;
  }
  function compare(a, b, way) {
    if (a === null || b === null) return (a === null) - (b === null); // what is missing comes last either way
    if (typeof a === "number" && typeof b === "number") return way * (a - b);
    return way * collator.compare(String(a), String(b));
  }

  function enhance(table) {
    const rows = [...table.tBodies];
    const heads = [...table.tHead.rows[0].cells];
    const status = document.createElement("p");
    status.className = "count";
    status.setAttribute("role", "status");
    let sorted = "";

    const choices = [];
    function show() {
      const words = filter ? filter.value.toLowerCase().split(/\s+/).filter(Boolean) : [];
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        const fits =
          words.every((word) => text.includes(word)) &&
          choices.every(([select, column]) => !select.value || choice(row, column) === select.value);
        row.hidden = !fits;
        shown += fits;
      }
      status.textContent = `${shown} of ${rows.length} rows${sorted}`;
      if (table.dataset.filters) tellChart(table, shown < rows.length);
    }
    function tellChart(of, some) {
      const names = some ? rows.filter((row) => !row.hidden).map((row) => value(row, 0)) : null;
      of.dispatchEvent(new CustomEvent("filtered", { detail: names }));
    }
    function choice(row, column) {
      const cell = row.rows[0].cells[column];
      return cell.dataset.choice || cell.textContent.trim();
    }

    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      const name = button.innerText.replace(/\s+/g, " ").trim() || button.textContent.trim();
      button.title = `Sort by ${name}`;
      button.addEventListener("click", () => {
        const way = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
        const keys = new Map(rows.map((row) => [row, value(row, column)]));
        rows.sort((a, b) => compare(keys.get(a), keys.get(b), way));
        table.append(...rows);
        sorted = `, sorted by ${name}, ${way > 0 ? "ascending" : "descending"}`;
        show();
      });
    });

    let filter = null;
    if (table.classList.contains("filtered")) {
      const tools = document.createElement("div");
      tools.className = "tools";
      filter = document.createElement("input");
      filter.type = "search";
      filter.placeholder = "words in a row";
      filter.addEventListener("input", show);
      tools.append(labelled("Filter", filter));
      heads.forEach((head, column) => {
        if (head.dataset.choose === undefined) return;
        const options = [...new Set(rows.map((row) => choice(row, column)))].sort(collator.compare);
        if (options.length < 2) return;
        const select = document.createElement("select");
        select.add(new Option("all", ""));
        for (const option of options) select.add(new Option(option, option));
        select.addEventListener("change", show);
        choices.push([select, column]);
        tools.append(labelled(head.dataset.choose, select));
      });
      tools.append(status);
      // The tools of a table that filters a chart, too, stand where the chart can be seen.
      const place = table.dataset.tools && document.getElementById(table.dataset.tools);
      if (place) place.append(tools);
      else table.parentElement.before(tools);
    }
    show();
  }
  function labelled(text, control) {
    const label = document.createElement("label");
    label.append(`${text} `, control);
    return label;
  }
  for (const table of document.querySelectorAll("table.sorted")) enhance(table);

  // Charts. A mark is pressed to go to its point; by keyboard the table below the chart leads there.
  const specs = document.getElementById("charts");
  if (specs && typeof vegaEmbed === "function") {
    const charts = JSON.parse(specs.textContent);
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const options = {
      mode: "vega-lite",
      renderer: "svg",
      actions: false,
      ast: true, // the page's policy allows no evaluation of text
      tooltip: { theme: dark ? "dark" : "light" },
    };
    const draw = (place, spec, values) =>
      vegaEmbed(place, values ? { ...spec, data: { values } } : spec, options);

    for (const place of document.querySelectorAll("[data-chart]")) {
      draw(place, charts[place.dataset.chart]).then(({ view }) => {
        view.addEventListener("click", (event, item) => {
          const name = item && item.datum && item.datum.name;
          if (name && document.getElementById(name)) go(name);
        });
        const table = place.id && document.querySelector(`table[data-filters="${place.id}"]`);
        if (table) table.addEventListener("filtered", ({ detail }) => view.signal("shown", detail).runAsync());
      });
    }

    const pictures = { weights: drawWeights, eigenvalues: drawEigenvalues, function: drawFunction };
    // Pictures of single points are drawn from their tables, when they come near to being seen.
    const seen = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        seen.unobserve(target);
        for (const [name, picture] of Object.entries(pictures)) if (target.classList.contains(name)) picture(target);
      }
    }, { rootMargin: "600px" });
    document.documentElement.classList.add("scripted"); // room is kept for what is still to be drawn
    for (const place of document.querySelectorAll(".picture")) seen.observe(place);

    function drawWeights(place) {
      for (const table of place.parentElement.querySelectorAll(":scope > details table.numbers")) {
        if (table.closest("details").previousElementSibling.previousElementSibling !== place) continue;
        const [groups, heads] = table.tHead.rows;
        const blocks = [...groups.cells].slice(1).flatMap((cell) => Array(cell.colSpan).fill(cell.textContent));
        const columns = [...heads.cells].map((cell) => cell.textContent);
        const largest = {};
        const values = [...table.tBodies[0].rows].flatMap((row) =>
          columns.map((column, k) => {
            const text = row.cells[k + 1].textContent.trim();
            const value = Number.parseFloat(text) || 0;
            largest[blocks[k]] = Math.max(largest[blocks[k]] || 0, Math.abs(value));
            const unit = row.cells[0].textContent.trim();
            const label = blocks[k] === column ? column : `${blocks[k]} ${column}`;
            return { unit, column, block: blocks[k], label, value, text };
          }),
        );
        for (const each of values) each.part = Math.abs(each.value) / (largest[each.block] || 1);
        const title = table.dataset.layer && `hidden layer ${table.dataset.layer}`;
        const spec = title ? { ...charts.weights, title } : charts.weights;
        draw(place.appendChild(document.createElement("div")), spec, values);
      }
    }

    function drawFunction(place) {
      const { spec, on_data, at, data_at, targets } = charts.functions;
      const cell = document.querySelector(`[data-function="${CSS.escape(place.dataset.of)}"]`);
      const onData = cell.dataset.onData !== undefined;
      const places = onData ? data_at : at;
      const values = cell.querySelector("span").textContent.split("; ").flatMap((row, output) =>
        row.split(", ").map((text, k) => {
          const value = Number.parseFloat(text);
          const there = targets ? { target: places[k][output] ?? places[k][0] } : places[k];
          return { ...there, value, output };
        }),
      );
      draw(place.appendChild(document.createElement("div")), onData ? on_data : spec, values);
    }

    function drawEigenvalues(place) {
      const values = place.dataset.of.split(" ").flatMap((name) => {
        const list = document.querySelector(`[data-eigenvalues="${CSS.escape(name)}"]`);
        const [, zero, negative] = list.dataset.signs.split(" ").map(Number);
        return list.textContent.split(", ").map((text, k) => {
          const sign = k < negative ? "negative" : k < negative + zero ? "zero" : "positive";
          return { name, sign, text, value: sign === "zero" ? 0 : Number.parseFloat(text) };
        });
      });
      const powers = values.filter(({ value }) => value).map(({ value }) => Math.log10(Math.abs(value)));
      if (!powers.length) return;
      const lowest = Math.floor(Math.min(...powers));
      const ticks = [0];
      for (const sign of [-1, 1]) {
        const own = values.filter(({ value }) => value * sign > 0);
        const most = Math.ceil(Math.log10(Math.max(0, ...own.map(({ value }) => Math.abs(value)))));
        for (let power = lowest + 1; power <= most; power += 2) ticks.push(sign * 10 ** power);
      }
      const spec = structuredClone(charts.eigenvalues);
      spec.encoding.x.scale.constant = 10 ** lowest;
      spec.encoding.x.axis.values = ticks;
      draw(place.appendChild(document.createElement("div")), spec, values);
    }
  }

  unfold(location.hash.slice(1));
})();
