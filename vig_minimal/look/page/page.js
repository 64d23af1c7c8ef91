/* The page: what is chosen (`state`), the network's Worker, opening models and images, and what a person does. */
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const element = (name, properties, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};
/* node: the patch looked at, as [row, column] of the first stage; hovered: another one, while that is held. */
const state = { model: 0, image: 0, layer: 0, step: 0, label: 0, node: null, hovered: null, held: false, reverse: false,
  mode: "look", settings: null, pixels: null, masks: null };
let graphs = [], picture = null;  // of every layer; the image as a canvas
let live = null, before = null;   // the network's last result, and its result on this image before any change
let counter = null;               // the Worker that counts

const model = () => data.models[state.model];
const view = () => data.views[state.model][state.image];
const steps = () => view().steps;
const edgeStep = () => Math.max(0, steps().findIndex(({ key }) => key === "edges"));
const alike = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const go = (changes) => { Object.assign(state, changes); refresh(); };

/* ---- the network, in a Worker: one run at a time, and of all wishes that come meanwhile the last one ---- */

function startWorker({ weights, ...about }, receive) {
  const worker = new Worker(URL.createObjectURL(new Blob([$("network").textContent], { type: "text/javascript" })));
  worker.onmessage = (event) => receive(event.data);
  worker.postMessage({ about, weights });
  return worker;
}

const network = {
  start() {
    this.worker?.terminate();
    this.worker = startWorker(model().live, (result) => this.receive(result));
    this.busy = this.sent = this.wish = null;
  },
  ask(pixels, settings) {
    this.wish = { pixels, settings: structuredClone(settings) };
    if (!this.busy) this.send();
  },
  send() {
    const { pixels, settings } = this.wish, last = this.sent?.pixels === pixels ? this.sent.settings : [];
    let first = 0;  // blocks before it have computed this already
    while (first < settings.length - 1 && alike(last[first], settings[first])) first++;
    [this.sent, this.wish, this.busy] = [this.wish, null, true];
    this.worker.postMessage({ pixels, settings, first });
  },
  receive(result) {
    const { pixels, settings } = this.sent;
    this.busy = false;
    live = { ...result, settings };
    graphs = result.layers.map((layer, l) => new Graph(model().layers[l],
      { weights: layer.weights, diversity: diversityOf(layer.z, model().live.dim),
        saturated: saturatedOf(layer, settings[l]) }));
    if (before?.pixels !== pixels) before = { pixels, graphs, logits: result.logits };
    refresh();
    document.body.dataset.runs = Number(document.body.dataset.runs || 0) + 1;
    if (this.wish) this.send();
    else if (!alike(settings, state.settings)) this.ask(pixels, state.settings);
  },
};
/* Run the network; on a new image first as it was trained, to compare with. */
const run = () => network.ask(state.pixels, before?.pixels === state.pixels ? state.settings : model().live.settings);

/* ---- opening models and images ---- */

async function load(source) {
  const image = Object.assign(new Image(), { src: source });
  return image.decode().then(() => image, () => null);
}
/* What the model sees of an image, or of a part of its height: as `centre_crop` in Python. */
function fit(image, share = model().crop, top = 0, part = image.height) {
  const [height, width] = model().size, canvas = element("canvas", { width, height });
  const scale = Math.max(Math.floor(width / share) / image.width, Math.floor(height / share) / part);
  const [w, h] = share ? [width / scale, height / scale] : [image.width, part];
  const context = Object.assign(canvas.getContext("2d", { willReadFrequently: true }), { fillStyle: "#fff" });
  context.fillRect(0, 0, width, height);  // what is transparent is white, as in Python
  context.drawImage(image, (image.width - w) / 2, top + (part - h) / 2, w, h, 0, 0, width, height);
  return canvas;
}
/* Red, green and blue of every pixel. */
const pixelsOf = (canvas) => (
  canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.filter((_, n) => n % 4 < 3));
/* Look at this canvas from now on. masks: the shape that each patch shows, where that is known. */
function take(canvas, masks) {
  picture = canvas;
  Object.assign(state, { masks, pixels: pixelsOf(canvas) });
  if (model().live) run(); else refresh();
}

/* Name in the list what is shown, if that is no image of the list. */
function listOwn(name) {
  $("own")?.remove();
  $("image").value = state.image;
  if (name) $("image").append(Object.assign(new Option(name, "", true, true), { id: "own" }));
}

async function openView() {
  listOwn();
  const image = await load(data.pictures[view().picture]);
  if (!model().live) graphs = model().layers.map((layer, l) => new Graph(layer, view().layers[l]));
  $("scene").value = data.images[state.image].match(/^shapes:(\d+)$/)?.[1] ?? "";
  take(fit(image, 1), view().masks);
}

function openModel() {
  const { grid: [rows, columns], size: [height, width], layers, classes, about, name } = model();
  const [w, h] = [width, height].map((side) => Math.round(1024 * side / Math.max(height, width)));
  [graphs, live, before] = [[], null, null];
  counter?.terminate();
  state.node = state.node && state.node[0] < rows && state.node[1] < columns ? state.node : [rows >> 1, columns >> 1];
  state.layer = Math.min(state.layer, layers.length - 1);
  if (state.name !== name) state.step = edgeStep();
  state.name = name;
  Object.assign($("picture"), { width: w, height: h });
  const small = () => element("canvas", { width: w / 4, height: h / 4 });
  const plain = element("div", { className: "plain" }, small(), element("span", { textContent: "the image" }));
  $("layers").replaceChildren(plain, ...layers.map((_, l) => (
    element("button", { onclick: () => go({ layer: l }) }, small(), element("span")))));
  $("layer").max = layers.length - 1;
  $("about").textContent = `${name}, ${about} · ${rows} × ${columns} patches of an image of ${height} × ${width}`;
  $("label-box").hidden = !layers.some((layer) => layer.ofLabels);
  $("label").replaceChildren(...classes.map((label, n) => new Option(label, n)));
  document.querySelectorAll(".live-only").forEach((part) => { part.hidden = !model().live; });
  document.querySelectorAll(".run-only").forEach((part) => { part.hidden = !data.history; });
  if (model().live) {
    state.settings = structuredClone(model().live.settings);
    $("ask-tau").hidden = $("lrgc").disabled = model().live.constructorName !== "lrgc";
    $("scene-box").hidden = !model().scenes;
    $("count-box").hidden = !model().scenes || model().multi;
    $("counts").replaceChildren();
    $("scene").max = (model().scenes?.labels.length || 1) - 1;
    network.start();
  }
  $("epoch-value").textContent = data.epochs?.[state.model];
  writePipeline();
  openView();
}

/* ---- what a person changes ---- */
/* Change settings of this layer or, if that is ticked, of all. */
function change(settings) {
  state.settings.forEach((own, l) => Object.assign(own, l === state.layer || $("everywhere").checked ? settings : {}));
  run();
}
/* Cut the edge from a patch to the chosen one, or add it, with the mean weight of the layer's edges. */
function toggleEdge(patch) {
  const graph = graphs[state.layer], { edges } = state.settings[state.layer];
  const edge = target(graph) * graph.sources + graph.nodeAt(...patch, true);
  const all = graph.weights.filter((weight) => weight !== 0), mean = all.reduce((a, b) => a + b, 0) / all.length || 1;
  if (edge in edges) delete edges[edge]; else edges[edge] = graph.weights[edge] !== 0 ? 0 : mean;
  run();
}

function paint([x, y]) {
  const context = picture.getContext("2d"), size = Math.max(1, Math.round(picture.width / 20));
  context.fillStyle = $("colour").value;
  context.fillRect(Math.round(x * picture.width - size / 2), Math.round(y * picture.height - size / 2), size, size);
  listOwn("painted");
  take(picture, null);
}
/* Hold the chosen patch, and ask for the source, not itself, that counts most. */
function askWhy() {
  const graph = graphs[state.layer], own = graph.ofLabels ? -1 : graph.nodeAt(...state.node, true);
  const { winner } = live?.layers[state.layer] || {}, i = target(graph);  // where it runs: the channels that j wins
  const weigh = ({ j, weight }) => (winner ? wins({ winner }, i, j, model().live.dim) : weight);
  const others = graph.row(i).filter(({ j }) => j !== own).sort((a, b) => weigh(b) - weigh(a));
  go({ held: true, reverse: false, hovered: graph.box(others[0]?.j ?? own, true).slice(0, 2), step: edgeStep() });
}
/* Count the synthetic scenes that the model classifies correctly with the present graphs, in a Worker of its own. */
async function count() {
  const { picture: key, labels } = model().scenes, { settings } = structuredClone(live), right = [], { crop } = model();
  const all = await load(data.pictures[key]), part = all.height / labels.length, line = element("li");
  const other = settings.filter((own, l) => !alike(own, model().live.settings[l]));  // than it was trained
  const nameOne = ({ constructor, tau }) => (constructor === "lrgc" ? `τ = ${tau.toFixed(2)}` : constructor);
  const what = other.length === 0 ? "as trained"
    : `${[...new Set(other.map(nameOne))].join(", ")} in ${other.length} of ${settings.length} layers`;
  const next = (n) => counter.postMessage({ settings, first: 0, pixels: pixelsOf(fit(all, crop, n * part, part)) });
  counter?.terminate();
  counter = startWorker(model().live, ({ logits }) => {
    right.push(logits.indexOf(Math.max(...logits)) === labels[right.length]);
    line.textContent = `${what}: ${right.filter(Boolean).length} of ${right.length} scenes correct`;
    if (right.length < labels.length) next(right.length);
  });
  $("counts").append(line);
  next(0);
}
/* The mouse is on the picture. */
function point(event, pressed) {
  const box = $("picture").getBoundingClientRect(), { width, height } = $("picture");
  const scale = Math.min(box.width / width, box.height / height);  // the picture is centred in its box
  const x = (event.clientX - box.left - (box.width - width * scale) / 2) / (width * scale);
  const y = (event.clientY - box.top - (box.height - height * scale) / 2) / (height * scale);
  if (!(x >= 0 && x < 1 && y >= 0 && y < 1)) return;
  const patch = [Math.floor(y * model().grid[0]), Math.floor(x * model().grid[1])], same = alike(patch, state.node);
  if (live && state.mode === "paint") { if (event.buttons) paint([x, y]); }
  else if (pressed && live && state.mode === "edges" && state.held) toggleEdge(patch);
  else if (pressed) go({ node: patch, held: !(state.held && same), hovered: null });
  else if (state.held) { if (!alike(patch, state.hovered)) go({ hovered: patch }); }
  else if (!same) go({ node: patch });
}

for (const kind of ["pointermove", "pointerdown"])
  $("picture").addEventListener(kind, (event) => point(event, kind === "pointerdown"));

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
document.addEventListener("keydown", (event) => {
  const { key } = event, [rows, columns] = model().grid, onPicture = event.target === $("picture");
  if (event.target.matches("select, input:not([type=range])") || event.ctrlKey || event.metaKey || event.altKey) return;
  const inside = (value, count) => Math.min(Math.max(value, 0), count - 1);
  const moved = ([r, c], [dr, dc]) => [inside(r + dr, rows), inside(c + dc, columns)];
  if (ARROWS[key] && onPicture) {
    event.preventDefault();
    if (event.shiftKey) go({ held: true, hovered: moved(state.hovered || state.node, ARROWS[key]) });
    else go({ node: moved(state.node, ARROWS[key]) });
  } else if (key === "[" || key === "]") go({ layer: inside(state.layer + (key === "]" ? 1 : -1), graphs.length) });
  else if (key === "Enter" && onPicture) go({ held: !state.held, hovered: null });
  else if (key === "Escape") go({ held: false, hovered: null });
  else if (key === "r") go({ reverse: !state.reverse });
  else if (key === "x" && live && state.held && state.hovered) toggleEdge(state.hovered);
});

const on = (id, act, kind = "input") => $(id).addEventListener(kind, (event) => act(event.target));
const turn = (by) => go({ step: (state.step + by + steps().length) % steps().length });
on("layer", ({ value }) => go({ layer: Number(value) }));
on("label", ({ value }) => go({ label: Number(value) }));
on("image", ({ value }) => { if (value !== "") { state.image = Number(value); openView(); } });
for (const id of ["model", "epoch"]) on(id, ({ value }) => { state.model = Number(value); openModel(); });
for (const id of ["sources", "targets"]) on(id, () => go({ reverse: id === "targets" }), "click");
for (const [id, by] of [["next", 1], ["back", -1]]) on(id, () => turn(by), "click");
on("tour", () => { go({ step: 0, layer: 0 }); $("step").scrollIntoView({ block: "nearest" }); }, "click");
on("constructor", ({ value }) => change({ constructor: value, edges: {} }));
on("reset", () => { state.settings = structuredClone(model().live.settings); openView(); }, "click");
on("scene", async ({ value }) => {
  const { picture: key, masks } = model().scenes, number = Math.min(Math.max(Math.floor(value), 0), masks.length - 1);
  const all = await load(data.pictures[key]), part = all.height / masks.length;
  listOwn(`scene ${number}`);
  take(fit(all, model().crop, number * part, part), masks[number]);
});
on("file", async ({ files: [file] }) => {
  const image = file && await load(URL.createObjectURL(file));
  if (image) {
    listOwn(file.name);
    take(fit(image), null);
  } else if (file) $("changed").textContent = `${file.name} is not an image that this browser can open.`;
});
document.querySelectorAll(".knob input").forEach((slider) => {
  slider.addEventListener("input", () => change({ [slider.id]: Number(slider.value) }));
});
for (const [id, act] of [["count", count], ["why-this", askWhy]]) on(id, act, "click");
document.querySelectorAll("[data-ask]").forEach((button) => {  // a question that a change answers
  button.onclick = () => {
    $("everywhere").checked = "everywhere" in button.dataset;
    state.step = edgeStep();
    change({ edges: {}, ...JSON.parse(button.dataset.ask) });
    $("change").scrollIntoView({ block: "nearest" });
  };
});
document.querySelectorAll(".mode").forEach((button) => { button.onclick = () => go({ mode: button.dataset.mode }); });

$("image").replaceChildren(...data.images.map((name, n) => new Option(name, n)));
$("model").replaceChildren(...data.models.map(({ name, about }, n) => new Option(`${name}, ${about}`, n)));
$("model-box").hidden = data.models.length === 1 || data.epochs !== null;
$("epoch-box").hidden = data.epochs === null;
if (data.epochs) state.model = $("epoch").value = $("epoch").max = data.epochs.length - 1;
openModel();
