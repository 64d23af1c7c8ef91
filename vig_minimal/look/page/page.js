/* The page: what is chosen (`state`), what follows from it (`refresh`), and the events that change it. */
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

/* i is the node looked at, hovered the one that the mouse is on, both as [row, column] of the first stage. */
const state = { model: 0, image: 0, layer: 0, step: 0, node: [0, 0], hovered: null, held: false, reverse: false, label: 0,
  mode: "look", settings: null, pixels: null };
let graphs = [], before = null, live = null, picture = new Image();
const pictures = {};

const model = () => data.models[state.model];
const view = () => data.views[state.model][state.image];
const steps = () => view().steps;
const layerStep = () => model().layers[state.layer].name;
const runs = () => model().live !== null;

/* ---- the network, in a Worker: one run at a time, and the last wish wins ---- */

const network = {
  worker: null, busy: false, wish: null, sent: null,
  start(about) {
    this.worker?.terminate();
    const code = new Blob([$("network").textContent], { type: "text/javascript" });
    this.worker = new Worker(URL.createObjectURL(code));
    const { weights, ...rest } = about;
    this.worker.postMessage({ about: rest, weights });
    this.worker.onmessage = ({ data: result }) => this.receive(result);
    this.busy = false;
    this.sent = null;
  },
  ask(pixels, settings) {
    this.wish = { pixels, settings: structuredClone(settings) };
    if (!this.busy) this.send();
  },
  send() {
    const { pixels, settings } = this.wish, last = this.sent;
    let first = 0;  // the first block whose settings differ
    if (last?.pixels === pixels)
      while (first < settings.length && JSON.stringify(last.settings[first]) === JSON.stringify(settings[first])) first++;
    this.sent = this.wish;
    this.wish = null;
    this.busy = true;
    this.worker.postMessage({ pixels, settings, first: Math.min(first, settings.length - 1) });
  },
  receive(result) {
    this.busy = false;
    const { pixels, settings } = this.sent;
    if (this.wish) this.send();
    show(result, pixels, settings);
  },
};

/* The network's result becomes the graphs that are shown; the first one of an image is kept to compare with. */
function show(result, pixels, settings) {
  live = { ...result, settings };
  graphs = result.layers.map((layer, l) => new Graph(model().layers[l],
    { weights: layer.weights, diversity: diversityOf(layer.z, model().live.dim) }));
  if (before?.pixels !== pixels) before = { pixels, graphs, logits: result.logits, settings };
  refresh();
  document.body.dataset.run = Number(document.body.dataset.run || 0) + 1;
  if (JSON.stringify(settings) !== JSON.stringify(state.settings)) network.ask(pixels, state.settings);
}

function run() {
  if (before?.pixels === state.pixels) network.ask(state.pixels, state.settings);
  else network.ask(state.pixels, model().live.settings);
}

/* ---- opening images ---- */

const load = (source) => (pictures[source] ??= new Promise((done) => {
  const image = new Image();
  image.onload = () => done(image);
  image.onerror = () => done(null);
  image.src = source;
}));

/* Scale an image until it just covers the model's size, and cut out its middle. */
function fit(image, top = 0, part = image.height) {
  const [height, width] = model().size, scale = Math.max(width / image.width, height / part);
  const w = width / scale, h = height / scale;
  const canvas = element("canvas", { width, height });
  canvas.getContext("2d", { willReadFrequently: true }).drawImage(image, (image.width - w) / 2, top + (part - h) / 2, w, h,
    0, 0, width, height);
  return canvas;
}

function take(canvas) {
  picture = canvas;
  if (runs()) {
    const rgba = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    state.pixels = rgba.filter((_, n) => n % 4 < 3);
    run();
  } else refresh();
}

async function openView() {
  const image = await load(data.pictures[view().picture]);
  const same = graphs.length && before?.model === state.model;
  if (!same) state.layer = Math.min(state.layer, model().layers.length - 1);
  state.step = Math.min(state.step, steps().length - 1);
  state.masks = view().masks;
  if (!runs()) graphs = model().layers.map((layer, l) => new Graph(layer, view().layers[l]));
  take(fit(image));
}

function openModel() {
  live = before = null;
  const [rows, columns] = model().grid;
  const [height, width] = model().size, large = 1024 / Math.max(height, width);
  Object.assign($("picture"), { width: Math.round(width * large), height: Math.round(height * large) });
  state.node = [Math.min(state.node[0] || rows >> 1, rows - 1), Math.min(state.node[1] || columns >> 1, columns - 1)];
  $("layer").max = model().layers.length - 1;
  $("about").textContent = `${model().about} · ${rows} × ${columns} patches of ${width} × ${height} pixels`;
  $("label-box").hidden = !model().layers.some((layer) => layer.ofLabels);
  $("label").replaceChildren(...model().classes.map((name, n) => new Option(name, n)));
  document.querySelectorAll(".live-only").forEach((part) => { part.hidden = !runs(); });
  if (runs()) {
    state.settings = structuredClone(model().live.settings);
    $("constructor").replaceChildren(...Object.keys(CONSTRUCTORS)
      .filter((name) => name !== "lrgc" || model().live.constructorName === "lrgc")
      .map((name) => new Option({ knn: "k nearest (ViG)", threshold: "similarity threshold (SViG)",
        lrgc: "LRGC", none: "none: itself alone" }[name] || name, name)));
    $("scene-box").hidden = !model().scenes;
    if (model().scenes) $("scene").max = model().scenes.count - 1;
    network.start(model().live);
  }
  return openView();
}

/* ---- what is drawn of one layer ---- */

/* The node of the graph that is looked at: a label, or the patch that covers the chosen one. */
const target = (graph) => (graph.ofLabels ? state.label : graph.nodeAt(...state.node, false));

function edgesOf(graph) {
  if (!state.reverse || graph.ofLabels) return graph.row(target(graph));
  const source = graph.nodeAt(...state.node, true);
  return source < 0 ? [] : graph.column(source);
}

function drawing(graph, l, small) {
  const i = target(graph), edges = edgesOf(graph), backward = state.reverse && !graph.ofLabels;
  const most = Math.max(...edges.map((edge) => Math.abs(edge.weight)), 1e-12), count = graph.targets;
  const here = { box: graph.box(backward ? graph.nodeAt(...state.node, true) : i, backward), colour: COLOUR.target };
  const seen = { grouped: graph.groups > 1, frames: graph.ofLabels ? [] : [here],
    sources: edges.map(({ j, weight, groups }) => ({ box: graph.box(j, !backward), share: Math.abs(weight) / most, groups })),
    boxes: Array.from({ length: backward ? count : graph.sources }, (_, j) => graph.box(j, !backward)) };
  const step = steps()[state.step];
  if (step.key === "global" && view().layers[l].labels)
    return { ...seen, sources: null, labels: view().layers[l].labels, caption: "partitions" };
  const map = !small && live && MAPS[step.key]?.(live, live.layers[l], i,
    { dim: model().live.dim, nodes: count, classes: model().classes });
  if (map) return { ...seen, sources: null, values: map[1], caption: map[0] };
  if (before && live && !backward) {  // what a change has done to this patch
    const old = before.graphs[l];
    for (const [colour, from, to] of [[COLOUR.lost, old, graph], [COLOUR.gained, graph, old]])
      for (const j of to.missing(from).rows[i]) seen.frames.unshift({ box: graph.box(j, true), colour, dashed: colour === COLOUR.lost });
  }
  return seen;
}

/* ---- refresh: everything that is on the page ---- */

function refresh() {
  if (!graphs.length) return;
  const graph = graphs[state.layer], edges = edgesOf(graph), drawn = drawing(graph, state.layer, false);
  if (state.held && state.hovered)
    drawn.frames.push({ box: [...state.hovered, 1], colour: COLOUR.aim });
  drawPicture($("picture"), picture, model().grid, drawn, data.colours);
  const changed = graphs.map((g, l) => before && live && before.graphs !== graphs
    ? { lost: g.missing(before.graphs[l]).count, gained: before.graphs[l].missing(g).count } : { lost: 0, gained: 0 });
  writeReading(graph, edges, drawn);
  writeStep();
  writeAnswer();
  writeLayers(changed);
  writeCharts(graph, edges);
  if (runs()) writeKnobs(changed);
  $("layer").value = state.layer;
  $("layer-value").textContent = graph.name.replace("layer ", "");
  $("sources").setAttribute("aria-pressed", !state.reverse);
  $("targets").setAttribute("aria-pressed", state.reverse);
  document.body.dataset.ready = "yes";
}

function writeReading(graph, edges, drawn) {
  const at = (box) => `${box[0] / box[2]},${box[1] / box[2]}`, backward = state.reverse && !graph.ofLabels;
  const name = graph.ofLabels ? `Label «${model().classes[state.label]}»` : `Patch ${at(drawn.frames.find(
    (frame) => frame.colour === COLOUR.target).box)}`;
  const many = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;
  $("reading").textContent = `${name} ${backward ? "is read by" : "reads from"} ${many(edges.length, graph.pool > 1 && !backward
    ? `${graph.pool} × ${graph.pool} mean` : "patch").replace("patchs", "patches")} in ${graph.name}${state.held ? " (held)" : ""}.`;
  $("picture").setAttribute("aria-label", $("reading").textContent);
  const weighted = edges.some((edge) => edge.weight !== 1);
  $("list").replaceChildren(...edges.map(({ j, weight, groups }) => element("li", {}, at(graph.box(j, !backward))
    + (weighted ? `: ${weight.toFixed(3)}` : "") + (graph.groups > 1 ? ` (group ${groups.join(", ")})` : ""))));
  [...$("list").children].forEach((item, n) => { item.dataset.node = edges[n].j; });
  const swatch = (colour, says) => [element("i", { style: `background: ${colour}` }), says];
  const ramp = () => element("i", { className: "ramp", style: `background: linear-gradient(90deg, ${HEAT.map((c) => `rgb(${c})`)})` });
  const changedHere = drawn.frames.some((frame) => [COLOUR.lost, COLOUR.gained].includes(frame.colour));
  $("legend").replaceChildren(...(drawn.values ? [ramp(), `${drawn.caption}, from ${Math.min(...drawn.values).toPrecision(3)} to ${Math.max(...drawn.values).toPrecision(3)}`]
    : drawn.labels ? drawn.attentionLabels || [...new Set(drawn.labels)].sort().flatMap((n) => swatch(data.colours[n], `partition ${n}`))
      : [...(graph.ofLabels ? [] : swatch(COLOUR.target, "chosen patch")),
        ...(graph.groups > 1 ? Array.from({ length: graph.groups }, (_, g) => swatch(data.colours[g], `group ${g}`)).flat()
          : swatch(COLOUR.source, (backward ? "its targets" : "its sources") + (weighted ? ", darker = heavier" : ""))),
        ...(changedHere ? [...swatch(COLOUR.lost, "gone"), ...swatch(COLOUR.gained, "new")] : [])]));
  writeWhy(graph, edges);
}

function writeWhy(graph, edges) {
  const from = state.held && state.hovered ? graph.nodeAt(...state.hovered, true) : -1;
  if (from < 0 || state.reverse || graph.ofLabels) { $("why").textContent = ""; return; }
  const [row, column, side] = graph.box(from, true), name = `${row / side},${column / side}`;
  if (live) {
    $("why").textContent = `And ${name}? ` + why(live.layers[state.layer], live.settings[state.layer], target(graph), from,
      graph.targets, model().live.dim);
    return;
  }
  const edge = edges.find(({ j }) => j === from), heavier = edges.filter(({ weight }) => weight > edge?.weight).length;
  $("why").textContent = `And ${name}? ` + (!edge ? "It does not read from there." : edges.every(({ weight }) => weight === 1)
    ? `It reads from there${graph.groups > 1 ? `, in group ${edge.groups.join(" and ")}` : ""}.`
    : `It reads from there with the weight ${edge.weight.toFixed(3)}, number ${heavier + 1} of ${edges.length}.`);
}

function writeStep() {
  const step = steps()[state.step], inside = step.values[0].layer !== "";
  $("step-number").textContent = `step ${state.step + 1} of ${steps().length}${inside ? ", in " + layerStep() : ""}`;
  $("step-title").textContent = step.title;
  $("equation").innerHTML = step.equation;  // made by Python from its own text
  $("says").textContent = step.says;
  $("where").textContent = step.where;
  const values = step.values.filter((value) => !inside || value.layer === layerStep());
  $("values").replaceChildren(...values.map(({ symbol, shape, low, high }) => {
    const now = live && liveRange(symbol, step.key);
    const [from, to] = now || [low, high];
    return element("tr", {}, element("td", { textContent: symbol }), element("td", { textContent: shape }),
      element("td", { textContent: `from ${Number(from).toPrecision(3)} to ${Number(to).toPrecision(3)}` }));
  }));
  $("pipeline").querySelectorAll("button").forEach((button, n) => {
    if (n === state.step) button.setAttribute("aria-current", "step"); else button.removeAttribute("aria-current");
  });
}

/* The range of a step's value in the network that runs here. */
function liveRange(symbol, key) {
  const layer = live.layers[state.layer];
  const values = { X: live.stem, "x′": layer.h, "α′": layer.score, "α": layer.weights, z: key === "ffn" ? layer.z : layer.score,
    m: layer.m, u: layer.update, y: layer.y, logits: live.logits, "N(i)": layer.weights }[symbol];
  return values && [values.reduce((a, b) => Math.min(a, b), Infinity), values.reduce((a, b) => Math.max(a, b), -Infinity)];
}

function writePipeline() {
  const parts = [], button = (n) => element("button", { textContent: steps()[n].short, onclick: () => { state.step = n; refresh(); } });
  const arrow = () => element("span", { className: "arrow", textContent: "→", ariaHidden: "true" });
  const block = element("span", { className: "block" });
  steps().forEach((step, n) => {
    const inside = step.values[0].layer !== "", home = inside ? block.childNodes : parts;
    if (inside && !block.isConnected && !parts.includes(block)) parts.push(arrow(), block);
    if (inside) block.append(...(home.length ? [arrow()] : []), button(n)); else parts.push(arrow(), button(n));
  });
  block.append(element("span", { className: "arrow", textContent: `× ${model().layers.length}` }));
  $("pipeline").replaceChildren("image", ...parts);
}

/* Shares of the classes; those of before a change as marks. */
const shares = (logits) => {
  if (model().multi) return Array.from(logits, sigmoid);
  const most = Math.max(...logits), powers = Array.from(logits, (value) => Math.exp(value - most));
  return powers.map((value) => value / powers.reduce((a, b) => a + b));
};

function writeAnswer() {
  const now = shares(live ? live.logits : view().logits), then = live && before.graphs !== graphs ? shares(before.logits) : null;
  const order = [...now.keys()].sort((a, b) => now[b] - now[a]).slice(0, 5);
  const first = then && then.indexOf(Math.max(...then));
  if (then && !order.includes(first)) order[4] = first;
  $("answer").replaceChildren(...order.map((n) => element("div", { className: "class" },
    element("span", { textContent: model().classes[n], title: model().classes[n] }),
    element("span", { className: "track" }, element("b", { style: `width: ${100 * now[n]}%` }),
      ...(then ? [element("i", { style: `width: ${100 * then[n]}%`, title: "before the change" })] : [])),
    element("span", { textContent: (100 * now[n]).toFixed(1) + " %" }))));
}

function writeLayers(changed) {
  while ($("layers").children.length > graphs.length) $("layers").lastChild.remove();
  graphs.forEach((graph, l) => {
    let button = $("layers").children[l];
    if (!button) {
      button = element("button", { onclick: () => { state.layer = l; refresh(); } }, element("canvas"), element("span"));
      $("layers").append(button);
    }
    const { lost, gained } = changed[l], canvas = button.firstChild;
    Object.assign(canvas, { width: $("picture").width / 4, height: $("picture").height / 4 });
    drawPicture(canvas, picture, model().grid, drawing(graph, l, true), data.colours);
    button.lastChild.replaceChildren(`${graph.name}: ${edgesOf(graph).length}`,
      ...(lost + gained ? [element("br"), element("span", { className: "minus", textContent: `−${lost} ` }),
        element("span", { className: "plus", textContent: `+${gained} edges` })] : []));
    button.setAttribute("aria-current", l === state.layer);
    button.setAttribute("aria-label", `${graph.name}, ${edgesOf(graph).length} edges at the chosen patch, ${lost} lost, ${gained} gained`);
  });
}

function writeCharts(graph, edges) {
  const described = graphs.map((g, l) => g.described ??= g.numbers(graphs[l - 1], state.masks));
  const i = target(graph), one = (value, digits = 2) => (value === null ? "–" : value.toFixed(digits));
  const share = (value) => (value === null ? "–" : (100 * value).toFixed(1) + " %");
  histogram($("histogram"), described[state.layer].degrees, graph.row(i).length);
  const columns = ["layer", "neighbours: mean", "least", "most", "isolated", "self loops", "edge length in patches",
    "edges shared with the layer before", "feature diversity", "edges within one shape (homophily)"];
  $("table").querySelector("thead").replaceChildren(element("tr", {}, ...columns.map((name) => element("th", { textContent: name, scope: "col" }))));
  $("numbers").replaceChildren(...described.map((d, l) => {
    const row = element("tr", { onclick: () => { state.layer = l; refresh(); } }, ...[graphs[l].name, one(d.mean, 1), d.least, d.most,
      share(d.isolated), share(d.loops), one(d.length), share(d.overlap), one(d.diversity), share(d.homophily)]
      .map((value) => element("td", { textContent: value })));
    row.setAttribute("aria-current", l === state.layer);
    return row;
  }));
  const own = live?.settings[state.layer], tau = live ? own.tau : graph.tau;
  const lrgc = live ? own.constructor === "lrgc" : graph.tau !== null;
  $("curve-box").hidden = !lrgc;
  if (lrgc) thresholdCurve($("curve"), tau, live
    ? Array.from({ length: graph.sources }, (_, j) => { const weight = graph.weights[i * graph.sources + j];
      return { score: live.layers[state.layer].score[i * graph.sources + j], weight, edge: weight !== 0 }; })
    : graph.row(i).map(({ weight }) => ({ score: scoreOf(weight, tau), weight, edge: true })));
  const { attention } = view().layers[state.layer];
  $("attention-box").hidden = !attention;
  const head = (n) => element("th", { style: `--of: ${data.colours[n]}`, ariaLabel: `partition ${n}` });
  if (attention) $("attention").replaceChildren(element("table", {}, element("tr", {}, element("td", { textContent: "reads from" }),
    ...attention.map((_, n) => head(n))), ...attention.map((row, n) => element("tr", {}, head(n), ...row.map((value) =>
    element("td", { textContent: value.toFixed(2), style: `background: ${heat(value)}; color: ${value < .6 ? "#fff" : "#111"}` }))))));
  document.querySelectorAll(".run-only").forEach((part) => { part.hidden = !data.history; });
  if (!data.history) return;
  const { epochs, neighbours, scores, name } = data.history, chosen = data.epochs[state.model];
  curves($("figure5"), "mean number of neighbours by layer over the epochs", epochs, neighbours, ["epoch", "neighbours, first layer dark, last one light"], chosen);
  $("score-name").textContent = name;
  curves($("scores"), `${name} over the epochs`, epochs, [scores], ["epoch", name], chosen);
}

/* The score that gives an edge's weight, α turned round. */
const scoreOf = (weight, tau) => { const s = Math.min(Math.atanh(Math.min(weight, 0.9999)) + sigmoid(tau), 1 - 1e-6);
  return Math.log(s / (1 - s)); };

/* ---- what a person may change ---- */

const KNOBS = { tau: ["τ", -6, 6, 0.01], k: ["k", 1, 64, 1], dilation: ["dilation d", 1, 8, 1], z: ["Φ⁻¹(q)", -2, 3, 0.01],
  seed: ["seed", 0, 99, 1] };
const USED = { lrgc: ["tau"], knn: ["k", "dilation"], threshold: ["z"], random: ["k", "seed"], grid: [], full: [], none: [] };

function writeKnobs(changed) {
  const own = state.settings[state.layer], used = USED[own.constructor];
  $("constructor").value = own.constructor;
  if ($("knobs").dataset.used !== used.join()) {
    $("knobs").dataset.used = used.join();
    $("knobs").replaceChildren(...used.map((name) => element("label", { className: "slider" }, element("span"),
      element("input", { type: "range", id: name, min: KNOBS[name][1], step: KNOBS[name][3],
        max: name === "k" ? Math.min(KNOBS.k[2], graphs[0].sources) : KNOBS[name][2], oninput: ({ target: { value } }) => change({ [name]: Number(value) }) }))));
  }
  for (const name of used) {
    if (document.activeElement !== $(name)) $(name).value = own[name];
    $(name).previousSibling.replaceChildren(KNOBS[name][0] + " = ", element("b", { textContent: own[name].toFixed(KNOBS[name][3] < 1 ? 2 : 0) }));
  }
  document.querySelectorAll(".mode").forEach((button) => button.setAttribute("aria-pressed", button.dataset.mode === state.mode));
  const lost = changed.reduce((sum, c) => sum + c.lost, 0), gained = changed.reduce((sum, c) => sum + c.gained, 0);
  const answer = (logits) => model().classes[logits.indexOf(Math.max(...logits))];
  const [old, now] = live ? [answer(before.logits), answer(live.logits)] : [];
  $("changed").textContent = lost + gained === 0 ? "" : `${lost} edges gone and ${gained} new in all layers. `
    + (old === now ? `The answer stays «${now}».` : `The answer changes from «${old}» to «${now}».`);
}

/* Change settings of this layer or, if that is ticked, of all. */
function change(settings) {
  state.settings.forEach((own, l) => { if ($("everywhere").checked || l === state.layer) Object.assign(own, settings); });
  run();
  refresh();
}

/* Cut the edge from a patch to the chosen one, or add it; an added edge gets the mean weight of the layer's edges. */
function toggleEdge(from) {
  const graph = graphs[state.layer], own = state.settings[state.layer], e = target(graph) * graph.sources + graph.nodeAt(...from, true);
  const present = graph.weights.filter((weight) => weight !== 0);
  const edges = { ...own.edges };
  if (e in edges) delete edges[e];
  else edges[e] = graph.weights[e] !== 0 ? 0 : own.constructor === "lrgc" && present.length ? present.reduce((a, b) => a + b) / present.length : 1;
  own.edges = edges;
  run();
}

function paint([x, y]) {
  const context = picture.getContext("2d"), size = Math.max(1, Math.round(picture.width / 24));
  context.fillStyle = $("colour").value;
  context.fillRect(Math.round(x * picture.width - size / 2), Math.round(y * picture.height - size / 2), size, size);
  take(picture);
}

/* ---- events ---- */

function placeOf(event) {
  const box = $("picture").getBoundingClientRect(), { width, height } = $("picture");
  const scale = Math.min(box.width / width, box.height / height);  // object-fit: contain
  const x = (event.clientX - box.left - (box.width - width * scale) / 2) / (width * scale);
  const y = (event.clientY - box.top - (box.height - height * scale) / 2) / (height * scale);
  return x >= 0 && x < 1 && y >= 0 && y < 1 ? [x, y] : null;
}

function pointAt(event, pressed) {
  const place = placeOf(event);
  if (!place) return;
  const patch = [Math.floor(place[1] * model().grid[0]), Math.floor(place[0] * model().grid[1])];
  if (state.mode === "paint" && runs()) { if (event.buttons) paint(place); return; }
  if (pressed && state.mode === "edges" && runs() && state.held) { toggleEdge(patch); return; }
  if (pressed) {
    const again = state.held && patch.join() === state.node.join();
    Object.assign(state, { node: patch, held: !again, hovered: null });
  } else if (state.held) {
    if (patch.join() === String(state.hovered)) return;
    state.hovered = patch;
  } else if (patch.join() === state.node.join()) return;
  else state.node = patch;
  refresh();
}

$("picture").addEventListener("pointermove", (event) => pointAt(event, false));
$("picture").addEventListener("pointerdown", (event) => pointAt(event, true));
$("picture").addEventListener("pointerleave", () => { state.hovered = null; refresh(); });

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
document.addEventListener("keydown", (event) => {
  if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
  const { key } = event, [rows, columns] = model().grid;
  const moved = ([r, c], [dr, dc]) => [Math.min(Math.max(r + dr, 0), rows - 1), Math.min(Math.max(c + dc, 0), columns - 1)];
  if (ARROWS[key] && event.target === $("picture")) {
    if (event.shiftKey) Object.assign(state, { held: true, hovered: moved(state.hovered || state.node, ARROWS[key]) });
    else state.node = moved(state.node, ARROWS[key]);
    event.preventDefault();
  } else if (key === "[" || key === "]") state.layer = Math.min(Math.max(state.layer + (key === "]" ? 1 : -1), 0), graphs.length - 1);
  else if (key === "Enter" && event.target === $("picture")) state.held = !state.held;
  else if (key === "Escape") Object.assign(state, { held: false, hovered: null });
  else if (key === "r" || key === "R") state.reverse = !state.reverse;
  else if ((key === "x" || key === "X") && runs() && state.held && state.hovered) toggleEdge(state.hovered);
  else return;
  refresh();
});

const onChange = (id, act, kind = "input") => $(id).addEventListener(kind, ({ target: chosen }) => { act(chosen); refresh(); });
onChange("layer", ({ value }) => { state.layer = Number(value); });
onChange("label", ({ value }) => { state.label = Number(value); });
onChange("image", ({ value }) => { state.image = Number(value); openView(); });
onChange("model", ({ value }) => { state.model = Number(value); openModel().then(writePipeline); });
onChange("epoch", ({ value }) => { state.model = Number(value); $("epoch-value").textContent = data.epochs[value]; openModel(); });
onChange("sources", () => { state.reverse = false; }, "click");
onChange("targets", () => { state.reverse = true; }, "click");
onChange("next", () => { state.step = (state.step + 1) % steps().length; }, "click");
onChange("back", () => { state.step = (state.step + steps().length - 1) % steps().length; }, "click");
onChange("constructor", ({ value }) => change({ constructor: value, edges: {} }));
onChange("reset", () => { state.settings = structuredClone(model().live.settings); openView(); }, "click");
onChange("scene", async ({ value }) => {
  const { picture: key, count } = model().scenes, number = Math.min(Math.max(Math.floor(Number(value)) || 0, 0), count - 1);
  const all = await load(data.pictures[key]), part = all.height / count;
  state.masks = null;
  take(fit(all, number * part, part));
});
onChange("file", async ({ files: [file] }) => {
  const image = file && await load(URL.createObjectURL(file));
  state.masks = null;
  if (image) take(fit(image));
  else if (file) $("changed").textContent = `${file.name} is not an image that this browser can open.`;
});
document.querySelectorAll(".mode").forEach((button) => button.addEventListener("click", () => { state.mode = button.dataset.mode; refresh(); }));

$("image").replaceChildren(...data.images.map((name, n) => new Option(name, n)));
$("model").replaceChildren(...data.models.map(({ name, about }, n) => new Option(`${name}: ${about}`, n)));
$("model-box").hidden = data.models.length === 1 || data.epochs !== null;
$("epoch-box").hidden = data.epochs === null;
if (data.epochs) {
  $("epoch").max = data.epochs.length - 1;
  $("epoch").value = state.model = data.epochs.length - 1;
  $("epoch-value").textContent = data.epochs.at(-1);
}
openModel().then(writePipeline);
