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

const model = () => data.models[state.model];
const view = () => data.views[state.model][state.image];
const steps = () => view().steps;
const alike = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const go = (changes) => { Object.assign(state, changes); refresh(); };

/* ---- the network, in a Worker: one run at a time, and of all wishes that come meanwhile the last one ---- */

const network = {
  start({ weights, ...about }) {
    this.worker?.terminate();
    this.worker = new Worker(URL.createObjectURL(new Blob([$("network").textContent], { type: "text/javascript" })));
    this.worker.onmessage = (event) => this.receive(event.data);
    this.worker.postMessage({ about, weights });
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
      { weights: layer.weights, diversity: diversityOf(layer.z, model().live.dim) }));
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

/* Scale an image, or a part of its height, until a share of it just covers the model's size, and cut out the middle. */
function fit(image, share = model().crop, top = 0, part = image.height) {
  const [height, width] = model().size, scale = Math.max(width / image.width, height / part) / share;
  const canvas = element("canvas", { width, height }), w = width / scale, h = height / scale;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, (image.width - w) / 2, top + (part - h) / 2, w, h, 0, 0, width, height);
  return canvas;
}

/* Look at this canvas from now on. masks: the shape that each patch shows, where that is known. */
function take(canvas, masks) {
  picture = canvas;
  state.masks = masks;
  if (model().live) {
    const rgba = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    state.pixels = rgba.filter((_, n) => n % 4 < 3);
    run();
  } else refresh();
}

async function openView() {
  const image = await load(data.pictures[view().picture]);
  if (!model().live) graphs = model().layers.map((layer, l) => new Graph(layer, view().layers[l]));
  take(fit(image, 1), view().masks);
}

function openModel() {
  const { grid: [rows, columns], size: [height, width], layers, classes, about, name } = model();
  const [w, h] = [width, height].map((side) => Math.round(1024 * side / Math.max(height, width)));
  [graphs, live, before] = [[], null, null];
  state.node = state.node && state.node[0] < rows && state.node[1] < columns ? state.node : [rows >> 1, columns >> 1];
  state.layer = Math.min(state.layer, layers.length - 1);
  if (state.name !== name) state.step = Math.max(0, steps().findIndex((step) => step.key === "edges"));
  state.name = name;
  Object.assign($("picture"), { width: w, height: h });
  $("layers").replaceChildren(...layers.map((_, l) => element("button", { onclick: () => go({ layer: l }) },
    element("canvas", { width: w / 4, height: h / 4 }), element("span"))));
  $("layer").max = layers.length - 1;
  $("about").textContent = `${name}, ${about} · ${rows} × ${columns} patches of ${height} × ${width} pixels`;
  $("label-box").hidden = !layers.some((layer) => layer.ofLabels);
  $("label").replaceChildren(...classes.map((label, n) => new Option(label, n)));
  document.querySelectorAll(".live-only").forEach((part) => { part.hidden = !model().live; });
  document.querySelectorAll(".run-only").forEach((part) => { part.hidden = !data.history; });
  if (model().live) {
    state.settings = structuredClone(model().live.settings);
    $("constructor").querySelector("[value=lrgc]").disabled = model().live.constructorName !== "lrgc";
    $("scene-box").hidden = !model().scenes;
    $("scene").max = (model().scenes?.count || 1) - 1;
    network.start(model().live);
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
  take(picture, null);
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

$("picture").addEventListener("pointermove", (event) => point(event, false));
$("picture").addEventListener("pointerdown", (event) => point(event, true));

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
document.addEventListener("keydown", (event) => {
  const { key, target: { tagName } } = event, [rows, columns] = model().grid, onPicture = event.target === $("picture");
  if (["INPUT", "SELECT"].includes(tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
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
on("image", ({ value }) => { state.image = Number(value); openView(); });
for (const id of ["model", "epoch"]) on(id, ({ value }) => { state.model = Number(value); openModel(); });
for (const id of ["sources", "targets"]) on(id, () => go({ reverse: id === "targets" }), "click");
on("next", () => turn(1), "click");
on("back", () => turn(-1), "click");
on("tour", () => { go({ step: 0, layer: 0 }); $("step").scrollIntoView({ block: "nearest" }); }, "click");
on("constructor", ({ value }) => change({ constructor: value, edges: {} }));
on("reset", () => { state.settings = structuredClone(model().live.settings); openView(); }, "click");
on("scene", async ({ value }) => {
  const { picture: key, count, masks } = model().scenes, number = Math.min(Math.max(Math.floor(value), 0), count - 1);
  const all = await load(data.pictures[key]), part = all.height / count;
  take(fit(all, model().crop, number * part, part), masks[number]);
});
on("file", async ({ files: [file] }) => {
  const image = file && await load(URL.createObjectURL(file));
  if (image) take(fit(image), null);
  else if (file) $("changed").textContent = `${file.name} is not an image that this browser can open.`;
});
document.querySelectorAll(".knob input").forEach((slider) => {
  slider.addEventListener("input", () => change({ [slider.id]: Number(slider.value) }));
});
document.querySelectorAll(".mode").forEach((button) => { button.onclick = () => go({ mode: button.dataset.mode }); });

$("image").replaceChildren(...data.images.map((name, n) => new Option(name, n)));
$("model").replaceChildren(...data.models.map(({ name, about }, n) => new Option(`${name}, ${about}`, n)));
$("model-box").hidden = data.models.length === 1 || data.epochs !== null;
$("epoch-box").hidden = data.epochs === null;
if (data.epochs) state.model = $("epoch").value = $("epoch").max = data.epochs.length - 1;
openModel();
