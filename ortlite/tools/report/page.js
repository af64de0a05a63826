// What happens on the page: one search, one colouring and one chosen node for all charts and the table.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const data = read("data");
const items = read("items");
const byId = (id) => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");
const count = data.name.length;
const all = [...Array(count).keys()];
const readers = all.map(() => []);
data.reads.forEach((reads, node) => reads.forEach((other) => readers[other].push(node)));

const PROVIDERS = { light: ["#5b9be0", "#eb9a5c", "#5fb685", "#c084d6", "#cfae3f"], dark: ["#2f6db3", "#a85b1f", "#2f7d4f", "#8a4aa0", "#85700f"] };
const RAMP = { light: ["#e3eaf3", "#f4c27a", "#ea6a47"], dark: ["#2f3a4a", "#8a5a24", "#c2412d"] };
const METRICS = { provider: "provider", time: "time", memory: "memory of results", roof: "part of the roof" };
if (data.error) METRICS.error = "difference";
const providers = [...new Set(data.provider)].sort();
let metric = "time";
let found = new Set(all);
let picked = null;
const charts = {}; // name -> Bokeh document

// --- text ------------------------------------------------------------------------------------------------------------
function amount(value, unit = "") {
  if (value === null || value === undefined) return "";
  for (const [size, prefix] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (Math.abs(value) >= size) return `${(value / size).toPrecision(3)} ${prefix}${unit}`;
  return `${+value.toPrecision(3)} ${unit}`.trim();
}
const percent = (value) => (value === null ? "" : `${(100 * value).toPrecision(3)} %`);
const small = (value) => (value === null ? "" : value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(2) : String(+value.toPrecision(3)));
const ms = (value) => `${value >= 100 ? value.toFixed(1) : value.toPrecision(3)} ms`;
const element = (tag, text, attributes = {}) => Object.assign(document.createElement(tag), { textContent: text ?? "", ...attributes });

// --- colours ---------------------------------------------------------------------------------------------------------
const theme = () => (dark.matches ? "dark" : "light");
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const mix = (a, b, t) => "#" + [1, 3, 5].map((i) => Math.round((1 - t) * parseInt(a.slice(i, i + 2), 16) + t * parseInt(b.slice(i, i + 2), 16)).toString(16).padStart(2, "0")).join("");
function ramp(t) {
  const [low, middle, high] = RAMP[theme()];
  return t < 0.5 ? mix(low, middle, 2 * t) : mix(middle, high, 2 * t - 1);
}
const column = () => ({ time: data.ms, memory: data.memory, roof: data.roof, error: data.error })[metric];
function scale() {
  const values = column();
  const known = values.filter((v) => v !== null && v > 0);
  const most = known.length ? known.reduce((a, b) => Math.max(a, b)) : 1;
  if (metric === "roof") return (v) => Math.min(1, v);
  if (metric !== "error") return (v) => Math.sqrt(v / most);
  const least = known.length ? known.reduce((a, b) => Math.min(a, b)) : most / 10; // differences by their magnitude
  return (v) => (v <= 0 ? 0 : 0.1 + (0.9 * Math.log(v / least)) / Math.max(Math.log(most / least), 1e-9));
}
function colours() {
  if (metric === "provider") return data.provider.map((name) => PROVIDERS[theme()][providers.indexOf(name) % 5]);
  const place = scale();
  return column().map((value) => (value === null ? css("--group") : ramp(Math.max(0, Math.min(1, place(value))))));
}
function legend() {
  const box = byId("legend");
  box.replaceChildren();
  if (metric === "provider") {
    providers.forEach((name, index) => {
      const entry = element("span", "");
      const swatch = element("i", "");
      swatch.style.background = PROVIDERS[theme()][index % 5];
      entry.append(swatch, `${name}: ${data.provider.filter((p) => p === name).length} nodes`);
      box.append(entry);
    });
    return;
  }
  const known = column().filter((v) => v !== null);
  const most = known.reduce((a, b) => Math.max(a, b), 0);
  const bar = element("span", "", { className: "ramp" });
  bar.style.background = `linear-gradient(90deg, ${RAMP[theme()].join(", ")})`;
  const shown = { time: ms, memory: (v) => amount(v, "B") || "0 B", roof: () => "100 %", error: small }[metric];
  box.append(element("span", METRICS[metric]), element("span", metric === "roof" ? "0 %" : metric === "error" ? "equal" : "0"), bar, element("span", shown(most)));
  if (known.length < count) box.append(element("span", `grey: ${count - known.length} nodes of which nothing is known`));
}
function paint(only) {
  const colour = colours();
  const group = css("--group");
  const dim = (node) => (node < 0 || found.has(node) ? 1 : 0.12);
  for (const [name, doc] of Object.entries(charts)) {
    if (only && only !== name) continue;
    const source = doc.get_model_by_name(name);
    const nodes = source.data.node;
    const color = Array.from(nodes, (node) => (node < 0 ? group : colour[node]));
    if (name === "memory") color.fill(css("--accent"));
    if (name === "differences") source.data.beyond.forEach((beyond, i) => (color[i] = beyond ? css("--mark") : css("--accent")));
    source.data = { ...source.data, color, alpha: Array.from(nodes, dim) };
    doc.get_model_by_name("marks").visible = true;
  }
  legend();
}
function dress(doc) {
  const [panel, line, text, soft, edge, accent] = ["--panel", "--line", "--text", "--soft", "--edge", "--accent"].map(css);
  const visit = (model) => {
    if (model.children) model.children.forEach(visit);
    if (!model.renderers) return;
    for (const axis of [...model.left, ...model.below]) {
      Object.assign(axis, { axis_line_color: line, major_tick_line_color: line, minor_tick_line_color: null, major_label_text_color: soft, axis_label_text_color: soft, axis_label_text_font_style: "normal" });
    }
    for (const grid of model.center) if ("grid_line_color" in grid) grid.grid_line_color = line;
    for (const renderer of model.renderers) {
      const glyph = renderer.glyph;
      if (renderer.name === "labels") glyph.text_color = text;
      else if (renderer.name === "roof-label") Object.assign(glyph, { text_color: text, background_fill_color: panel });
      else if (glyph.type === "Quad") glyph.line_color = panel;
      else if (renderer.name === "edges") glyph.line_color = edge;
      else if (renderer.name === "ring") glyph.line_color = css("--mark");
      else if (renderer.name === "area") glyph.fill_color = accent;
      else if (renderer.name === "line") glyph.line_color = accent;
      else if ((renderer.name ?? "").startsWith("roof-")) glyph.line_color = soft;
    }
  };
  doc.roots().forEach(visit);
}

// --- charts ----------------------------------------------------------------------------------------------------------
async function embed(name) {
  const views = await Bokeh.embed.embed_item(items[name], name);
  const root = (views.roots ?? Object.values(views))[0];
  const doc = root.model.document;
  charts[name] = doc;
  dress(doc);
  if (name === "graph") fit(doc);
  if (name === "flame") flameLabels(doc);
  paint(name);
  if (picked !== null) ring();
  return doc;
}
function later(name) {
  const box = byId(name);
  const watch = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watch.disconnect();
    embed(name).then(() => (box.dataset.ready = "yes"));
  }, { rootMargin: "300px" });
  watch.observe(box);
}
function soon(update) { // once a frame
  let waiting = false;
  return () => {
    if (!waiting) requestAnimationFrame(() => ((waiting = false), update()));
    waiting = true;
  };
}
let home = null;
function fit(doc) {
  const figure = doc.get_model_by_name("graph-figure");
  home = [figure.x_range.start, figure.x_range.end, figure.y_range.start, figure.y_range.end];
  const marks = doc.get_model_by_name("graph").data;
  const labels = doc.get_model_by_name("graph-figure-labels");
  const update = soon(() => {
    const { x_range, y_range } = figure;
    const wide = byId("graph").clientWidth / (x_range.end - x_range.start);
    const high = byId("graph").clientHeight / (y_range.end - y_range.start);
    const inside = (n) => marks.x[n] >= x_range.start && marks.x[n] <= x_range.end && marks.y[n] >= y_range.start && marks.y[n] <= y_range.end;
    const shown = high < 27 || wide < 40 ? [] : all.filter(inside);
    const room = Math.floor(wide / 6);
    const text = shown.map((n) => (data.op[n].length <= room ? data.op[n] : `${data.op[n].slice(0, room - 1)}…`));
    labels.data = { x: shown.map((n) => marks.x[n]), y: shown.map((n) => marks.y[n] - 0.21), text };
  });
  figure.x_range.change.connect(update);
  figure.y_range.change.connect(update);
  update();
}
function view(x0, x1, y0, y1) {
  const figure = charts.graph.get_model_by_name("graph-figure");
  figure.x_range.setv({ start: x0, end: x1 });
  figure.y_range.setv({ start: y0, end: y1 });
}
function zoom(factor) {
  if (!charts.graph) return;
  if (!factor) return view(...home);
  const figure = charts.graph.get_model_by_name("graph-figure");
  const middle = picked === null ? null : place(picked);
  const around = (range, at) => {
    const centre = at ?? (range.start + range.end) / 2;
    const half = (factor * (range.end - range.start)) / 2;
    return [centre - half, centre + half];
  };
  view(...around(figure.x_range, middle?.[0]), ...around(figure.y_range, middle?.[1]));
}
function place(node) {
  const marks = charts.graph.get_model_by_name("graph").data;
  return [marks.x[node], marks.y[node]]; // the graph's marks are all nodes, in their order
}
function ring() {
  if (!charts.graph) return;
  const source = charts.graph.get_model_by_name("picked");
  if (picked === null) return void (source.data = { x: [], y: [] });
  const [x, y] = place(picked);
  source.data = { x: [x], y: [y] };
  const figure = charts.graph.get_model_by_name("graph-figure");
  const { x_range, y_range } = figure;
  if (x < x_range.start || x > x_range.end || y < y_range.start || y > y_range.end) {
    const [w, h] = [(x_range.end - x_range.start) / 2, (y_range.end - y_range.start) / 2];
    view(x - w, x + w, y - h, y + h);
  }
}
function flameLabels(doc) {
  const figure = doc.get_model_by_name("flame-figure");
  const update = soon(() => {
    const { left, right, top, name, node } = doc.get_model_by_name("flame").data;
    const { start, end } = figure.x_range;
    const pixels = (byId("flame").clientWidth - 40) / (end - start);
    const label = { x: [], y: [], text: [] };
    left.forEach((from, i) => {
      const room = Math.floor(((Math.min(right[i], end) - Math.max(from, start)) * pixels - 8) / 6.3);
      if (room < 3) return;
      const text = node[i] < 0 ? name[i] : data.name[node[i]];
      label.x.push(Math.max(from, start));
      label.y.push(top[i] + 0.47);
      label.text.push(text.length <= room ? text : `${text.slice(0, room - 1)}…`);
    });
    doc.get_model_by_name("flame-figure-labels").data = label;
  });
  figure.x_range.change.connect(update);
  update();
}
function flameView(start, end) {
  charts.flame?.get_model_by_name("flame-figure").x_range.setv({ start, end });
}

// --- choosing --------------------------------------------------------------------------------------------------------
window.report = {
  amount,
  says(node) {
    return node < 0 ? "" : `${data.name[node]} · ${data.op[node]} · ${data.provider[node]} · ${ms(data.ms[node])}${data.roof[node] === null ? "" : ` · ${percent(data.roof[node])} of the roof`}`;
  },
  clicked(name, indices) {
    if (!indices.length) return;
    const source = charts[name].get_model_by_name(name);
    const node = source.data.node[indices[0]];
    if (node >= 0) choose(node);
    else if (name === "flame") flameView(source.data.left[indices[0]], source.data.right[indices[0]]);
    source.selected.indices = [];
  },
};
function choose(node) {
  picked = node;
  ring();
  details();
  for (const row of document.querySelectorAll("#nodes tbody tr")) row.classList.toggle("picked", +row.dataset.node === node);
}
function links(title, nodes, says = (node) => `${data.op[node]} ${data.name[node]}`) {
  if (!nodes.length) return [];
  const box = element("div", "", { className: "links" });
  for (const node of nodes.slice(0, 30)) box.append(element("button", says(node), { type: "button", onclick: () => choose(node) }));
  if (nodes.length > 30) box.append(element("span", `and ${nodes.length - 30} more`));
  return [element("h3", title), box];
}
function details() {
  const n = picked;
  const body = byId("details-body");
  if (n === null) {
    const slowest = all.slice().sort((a, b) => data.ms[b] - data.ms[a]).slice(0, 12);
    const hint = element("p", "Choose a node here, in a chart or in the table.", { className: "hint" });
    return void body.replaceChildren(hint, ...links("Slowest", slowest, (node) => `${ms(data.ms[node])}  ${data.op[node]}  ${data.name[node]}`));
  }
  const list = element("dl", "");
  const facts = {
    operator: data.op[n], provider: data.provider[n], kernel: data.kernel[n],
    time: `${ms(data.ms[n])}, ${percent(data.share[n])}`, calls: data.calls[n],
    moves: amount(data.bytes[n], "B"), computes: data.flops[n] === null ? "not known" : amount(data.flops[n], "FLOPs"),
    speed: [data.gflops[n] === null ? "" : `${small(data.gflops[n])} GFLOP/s`, data.gbytes[n] === null ? "" : `${small(data.gbytes[n])} GB/s`].filter(Boolean).join(", "),
    "of the roof": percent(data.roof[n]), "results hold": amount(data.memory[n], "B"),
    difference: data.error ? (data.error[n] === null ? "not compared" : `${small(data.error[n])}${data.exceeds[n] ? ", beyond tolerance" : ""}`) : "",
    results: data.outputs[n].join(", "), module: data.scope[n],
  };
  for (const [name, value] of Object.entries(facts)) if (value !== "") list.append(element("dt", name), element("dd", value));
  const sources = data.sources[n].map((line) => element("code", data.lines[line]));
  const origin = data.origin[n].length > 1 ? [element("h3", "Made by the optimiser of"), element("div", data.origin[n].join(", "))] : [];
  body.replaceChildren(
    element("h3", data.name[n], { className: "name" }), list,
    ...(sources.length ? [element("h3", "Source"), ...sources] : []), ...origin,
    ...(data.parent[n] === null ? [] : links("In the body of", [data.parent[n]])),
    ...links("Reads what comes from", data.reads[n]), ...links("Read by", readers[n]),
  );
}
byId("graph").addEventListener("keydown", (event) => {
  const siblings = () => {
    const marks = charts.graph.get_model_by_name("graph").data;
    const column = all.filter((node) => marks.x[node] === marks.x[picked]).sort((a, b) => marks.y[b] - marks.y[a]);
    return [column[column.indexOf(picked) - 1], column[column.indexOf(picked) + 1]];
  };
  const first = () => all.reduce((a, b) => (data.order[a] <= data.order[b] ? a : b), 0);
  const moves = {
    ArrowLeft: () => data.reads[picked][0], ArrowRight: () => readers[picked][0],
    ArrowUp: () => siblings()[0], ArrowDown: () => siblings()[1], Home: first,
    Escape: () => null, "+": () => void zoom(0.6), "-": () => void zoom(1 / 0.6), 0: () => void zoom(0),
  };
  if (!(event.key in moves) || !count) return;
  event.preventDefault();
  const next = picked === null && event.key.startsWith("Arrow") ? first() : moves[event.key]();
  if (next !== undefined) choose(next);
});

// --- tables ----------------------------------------------------------------------------------------------------------
const number = (format) => (value, kind) => (kind === "display" ? format(value) : value ?? -1);
const escaped = (text) => element("span", text).innerHTML;
function nodeTable(DataTable) {
  const short = (node) => {
    const lines = data.sources[node];
    if (!lines.length) return "";
    const [, file, line] = /([^/\\]*?):(\d+)(?=:|$)/.exec(data.lines[lines[0]]) ?? ["", data.lines[lines[0]], ""];
    return `${file}:${line}${lines.length > 1 ? ` +${lines.length - 1}` : ""}`;
  };
  const text = (title, values, visible = true) => ({ title, className: "text", type: "string", visible, data: (n) => values(n), render: (v, kind) => (kind === "display" ? escaped(v) : v) });
  const figure = (title, values, format) => ({ title, className: "number", type: "num", searchable: false, orderSequence: ["desc", "asc"], data: (n) => values[n], render: number(format) });
  const columns = [
    { title: "Node", className: "text", type: "string", data: (n) => data.name[n], render: (v, kind, n) => (kind === "display" ? `<button type="button" class="node" data-node="${n}">${escaped(v)}</button>` : v) },
    text("Operator", (n) => data.op[n]), text("Provider", (n) => data.provider[n]), text("Kernel", (n) => data.kernel[n]),
    figure("Calls", data.calls, String), figure("ms", data.ms, (v) => v.toFixed(4)), figure("Share", data.share, percent),
    figure("Bytes", data.bytes, (v) => amount(v, "B")), figure("FLOPs", data.flops, (v) => amount(v)),
    figure("GFLOP/s", data.gflops, small), figure("GB/s", data.gbytes, small), figure("Of roof", data.roof, percent),
    ...(data.error ? [figure("Difference", data.error, small)] : []),
    text("Source", short),
    text("Module", (n) => data.scope[n], false),
    text("More", (n) => [...data.sources[n].map((line) => data.lines[line]), ...data.outputs[n], ...data.origin[n]].join(" "), false),
  ];
  const table = new DataTable("#nodes", {
    data: all.slice(), columns, order: [[5, "desc"]], deferRender: true, autoWidth: false, pageLength: 25, lengthMenu: [25, 100, 500],
    layout: { topStart: null, topEnd: null, bottomStart: ["pageLength", "info"], bottomEnd: "paging" },
    createdRow: (row, node) => {
      row.dataset.node = node;
      row.classList.toggle("picked", node === picked);
    },
    language: { info: "_START_ to _END_ of _TOTAL_ nodes", infoEmpty: "no nodes", infoFiltered: "(of _MAX_)", lengthMenu: "_MENU_ a page", zeroRecords: "No node has all of these words." },
  });
  byId("nodes").addEventListener("click", (event) => {
    const row = event.target.closest("tbody tr[data-node]");
    if (row) choose(+row.dataset.node);
  });
  let waiting;
  const filter = () => {
    table.search(byId("search").value).draw();
    found = new Set(table.rows({ search: "applied" }).data().toArray());
    byId("count").textContent = found.size === count ? `${count} nodes` : `${found.size} of ${count} nodes`;
    paint();
  };
  byId("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 120);
  });
  byId("count").textContent = `${count} nodes`;
  return table;
}
function valueTable(DataTable) {
  const { head, rows, exceeds } = data.differences;
  const numeric = new Set(["absolute", "relative", "ULP"]);
  return new DataTable("#values", {
    data: rows, order: [], deferRender: true, autoWidth: false, pageLength: 25, lengthMenu: [25, 100, 500],
    columns: head.map((title, i) => ({ title: escaped(title[0].toUpperCase() + title.slice(1)), className: numeric.has(title) || title.endsWith(" error") ? "number" : "text",
      ...(numeric.has(title) || title.endsWith(" error") ? { type: "num", render: (v, kind) => (kind === "display" ? escaped(v) : v === "" ? -1 : +v.replaceAll(",", "")) } : { render: (v, kind) => (kind === "display" ? escaped(v) : v) }) })),
    layout: { topStart: "search", topEnd: null, bottomStart: ["pageLength", "info"], bottomEnd: "paging" },
    createdRow: (row, cells, index) => exceeds[index] && row.classList.add("picked"),
    language: { search: "Search values", info: "_START_ to _END_ of _TOTAL_ values", lengthMenu: "_MENU_ a page" },
  });
}
function texts() {
  const scopes = new Map(); // a module may be called "constructor"
  const scope = (n) => data.scope[n] || data.op[n];
  all.forEach((n) => scopes.set(scope(n), (scopes.get(scope(n)) ?? 0) + data.ms[n]));
  const top = [...scopes].sort((a, b) => b[1] - a[1]).slice(0, 3).map(([name, time]) => `${name} ${ms(time)}`);
  byId("flame-text").textContent = `Most time: ${top.join(", ")}.`;
  const largest = all.reduce((a, b) => (data.memory[a] >= data.memory[b] ? a : b), 0);
  if (count) byId("memory-text").textContent = `Largest results: ${data.name[largest]}, ${amount(data.memory[largest], "B")}.`;
  const known = all.filter((n) => data.roof[n] !== null);
  const share = known.reduce((sum, n) => sum + data.roof[n] * data.ms[n], 0) / Math.max(known.reduce((sum, n) => sum + data.ms[n], 0), 1e-12);
  byId("roofline-text").textContent = known.length ? `The roofs ask for ${percent(share)} of the time.` : "No roofs were measured.";
}

// --- begin -----------------------------------------------------------------------------------------------------------
for (const [value, label] of Object.entries(METRICS)) byId("metric").append(element("option", label, { value, selected: value === metric }));
byId("metric").addEventListener("change", (event) => {
  metric = event.target.value;
  paint();
});
byId("controls").addEventListener("submit", (event) => event.preventDefault());
for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => zoom(+button.dataset.zoom));
byId("unzoom").addEventListener("click", () => flameView(0, charts.flame?.get_model_by_name("flame").data.right.reduce((a, b) => Math.max(a, b), 0)));
const darken = () => {
  document.documentElement.classList.toggle("dark", dark.matches); // DataTables looks there
  Object.values(charts).forEach(dress);
  paint();
};
dark.addEventListener("change", darken);
document.documentElement.classList.toggle("dark", dark.matches);
Bokeh.set_log_level("warn");
texts();
details();
const url = URL.createObjectURL(new Blob([byId("datatables").textContent], { type: "text/javascript" }));
const [{ default: DataTable }] = await Promise.all([import(url), embed("graph")]);
URL.revokeObjectURL(url);
const labelled = (table, name) => table.table().container().querySelector("nav")?.setAttribute("aria-label", name);
labelled(nodeTable(DataTable), "pages of nodes");
for (const name of ["flame", "memory", "roofline"]) later(name);
if (data.differences) {
  byId("comparison").hidden = false;
  later("differences");
  labelled(valueTable(DataTable), "pages of values");
}
document.documentElement.dataset.ready = String(Math.round(performance.now()));
