/* From what is chosen (`state` in page.js) to what is on the page: picture, sentences, tables and charts. */
/* The node of a graph that is looked at: a label, or the patch that covers the chosen one. */
const target = (graph) => (graph.ofLabels ? state.label : graph.nodeAt(...state.node, false));
const backward = (graph) => state.reverse && !graph.ofLabels;
const nameOf = ([row, column, side]) => `${row / side},${column / side}`;
const changed = () => live && before.graphs !== graphs;
/* Its sources or, turned round, its targets. */
function edgesOf(graph) {
  if (!backward(graph)) return graph.row(target(graph));
  const source = graph.nodeAt(...state.node, true);
  return source < 0 ? [] : graph.column(source);
}
/* The largest weight of some edges; 0 where all weigh 1, so that there is no scale. */
const heaviest = (edges) => (edges.every(({ weight }) => weight === 1) ? 0
  : Math.max(...edges.map(({ weight }) => Math.abs(weight))));
const digits = (weight) => (Math.abs(weight) < 5e-4 ? weight.toExponential(1) : weight.toFixed(3));
/* What drawPicture draws of layer l. small: the edges alone, whatever the step. */
function drawing(graph, l, small) {
  const step = steps()[state.step], turned = backward(graph), edges = edgesOf(graph), { labels } = view().layers[l];
  const most = heaviest(edges);
  const node = turned ? graph.nodeAt(...state.node, true) : target(graph);
  const seen = { frames: graph.ofLabels || node < 0 ? [] : [{ box: graph.box(node, turned), colour: COLOUR.target }],
    boxes: Array.from({ length: turned ? graph.targets : graph.sources }, (_, j) => graph.box(j, !turned)) };
  if (labels && step.short === "partitions" || step.key === "global") return { ...seen, labels };
  const map = !small && live && MAPS[step.key]?.(live, live.layers[l], target(graph),
    { dim: model().live.dim, nodes: graph.targets, classes: model().classes });
  if (map) return { ...seen, values: map[1], caption: map[0] };
  seen.sources = edges.map(({ j, weight, groups }) => {
    const share = most ? Math.abs(weight) / most : 0, marked = graph.groups > 1;  // marked: with a frame of its own
    return { box: graph.box(j, !turned), share, marked, colours: marked ? groups.map((g) => data.colours[g % 8])
      : [most ? heat(share, WEIGHTS) : COLOUR.source] };
  });
  if (changed() && !turned) {
    const gained = new Set(before.graphs[l].missing(graph).rows[node]);
    edges.forEach(({ j }, n) => {
      if (gained.has(j)) Object.assign(seen.sources[n], { colours: [COLOUR.gained], marked: true });
    });
    for (const j of graph.missing(before.graphs[l]).rows[node])
      seen.sources.push({ box: graph.box(j, true), share: 0, marked: true, colours: [COLOUR.lost] });
  }
  return seen;
}
/* Everything that is on the page. */
function refresh() {
  if (!graphs.length) return;
  const graph = graphs[state.layer], edges = edgesOf(graph), drawn = drawing(graph, state.layer, false);
  if (state.held && state.hovered) drawn.frames.push({ box: [...state.hovered, 1], colour: COLOUR.asked });
  drawPicture($("picture"), picture, model().grid, drawn);
  writeReading(graph, edges, drawn);
  writeWhy(graph, edges);
  writeStep();
  writeAnswer();
  const counts = graphs.map((g, l) => (changed()
    ? [g.missing(before.graphs[l]).count, before.graphs[l].missing(g).count] : [0, 0]));
  writeLayers(counts);
  writeCharts(graph);
  if (live) writeKnobs(graph, counts);
  [$("layer").value, $("layer-value").textContent] = [state.layer, graph.name.replace("layer ", "")];
  for (const id of ["sources", "targets"]) $(id).setAttribute("aria-pressed", state.reverse === (id === "targets"));
  document.body.dataset.ready = "yes";
}

function writeReading(graph, edges, drawn) {
  const most = heaviest(edges), turned = backward(graph), one = edges.length === 1;
  const who = graph.ofLabels ? `Label «${model().classes[state.label]}»`
    : `Patch ${drawn.frames.length ? nameOf(drawn.frames[0].box) : state.node}`;
  const what = graph.pool > 1 && !turned ? `mean${one ? "" : "s"} of ${graph.pool} × ${graph.pool} patches`
    : one ? "patch" : "patches";
  const reading = `${who} ${turned ? "is read by" : "reads from"} ${edges.length} ${what} in ${graph.name}`;
  $("reading").textContent = `${reading}${state.held ? " (held)" : ""}.`;
  $("picture").setAttribute("aria-label", reading);
  $("list").replaceChildren(...edges.map(({ j, weight, groups }) => element("li", { value: j, textContent:
    nameOf(graph.box(j, !turned)) + (most ? `: ${digits(weight)}` : "")
    + (graph.groups > 1 ? ` (group ${groups.join(", ")})` : "") })));
  const swatch = (colour, says) => [element("i", { style: `background: ${colour}` }), says];
  let legend = graph.ofLabels ? [] : [swatch(COLOUR.target, "chosen patch")];
  const ramp = (scale) => `linear-gradient(90deg, ${scale.map((colour) => `rgb(${colour})`)})`;
  if (drawn.values) {
    legend = [swatch(ramp(HEAT), `${drawn.caption}: ${ends(drawn.values).join(" to ")}`)];
  } else if (drawn.labels) {
    legend = [...new Set(drawn.labels)].sort().map((n) => swatch(data.colours[n % 8], `partition ${n}`));
  } else if (graph.groups > 1) {
    for (let g = 0; g < graph.groups; g++) legend.push(swatch(data.colours[g % 8], `group ${g}`));
  } else {
    const who = turned ? "its targets" : "its sources";
    legend.push(most ? swatch(ramp(WEIGHTS), `${who}, by weight from 0 to ${digits(most)}`)
      : swatch(COLOUR.source, who));
  }
  if (changed() && drawn.sources) legend.push(swatch(COLOUR.lost, "gone"), swatch(COLOUR.gained, "new"));
  $("legend").replaceChildren(...legend.flat());
}

const WHY = "Move over another patch to ask why it is read, or why not.";
/* Why the held patch reads from the one under the mouse. */
function writeWhy(graph, edges) {
  const from = state.held && state.hovered ? graph.nodeAt(...state.hovered, true) : -1;
  if (from < 0 || backward(graph)) { $("why").textContent = state.held ? WHY : ""; return; }
  const edge = edges.find(({ j }) => j === from), rank = 1 + edges.filter(({ weight }) => weight > edge?.weight).length;
  const layer = live?.layers[state.layer], own = live?.settings[state.layer];
  const reason = live ? why(layer, own, target(graph), from, graph.targets, model().live.dim) : !edge ? "It does not."
    : graph.groups > 1 ? `It does, in group ${edge.groups.join(" and ")}.`
      : `It does, with weight ${digits(edge.weight)}, number ${rank} of ${edges.length}.`;
  $("why").textContent = `And ${nameOf(graph.box(from, true))}? ${reason}`;
}

function writeStep() {
  const { name } = graphs[state.layer], inside = steps()[state.step].values[0].layer !== "";
  const other = live && model().live.steps[live.settings[state.layer].constructor];  // the graph may have been changed
  const step = { ...steps()[state.step], ...other?.[steps()[state.step].key] };
  $("step-number").textContent = `step ${state.step + 1} of ${steps().length}${inside ? ", in " + name : ""}`;
  $("equation").innerHTML = step.equation;  // made by Python from its own text
  for (const part of ["title", "says", "where"]) $(part).textContent = step[part];
  $("values").replaceChildren(...step.values.filter(({ layer }) => !inside || layer === name).map((value) => {
    const now = live ? liveValue(value.symbol, step.key) : value.low === null ? null : [value.low, value.high];
    return tableRow("td", [step.symbol ?? value.symbol, value.shape, now ? `from ${ends(now).join(" to ")}` : ""]);
  }));
  $("note").textContent = step.key === "edges" ? saturation(graphs[state.layer]) : "";
  $("pipeline").querySelectorAll("button").forEach((button, n) => {
    button.setAttribute("aria-current", n === state.step ? "step" : "false");
  });
}
/* LRGC's τ, and how many of the layer's edges are saturated; nothing for other graphs. */
function saturation(graph) {
  const own = live?.settings[state.layer], tau = own ? own.tau : graph.tau, share = graph.data.saturated ?? null;
  if (share === null) return "";
  const alpha = digits(Math.tanh(1 - sigmoid(tau)));
  return `τ = ${tau.toFixed(2)}. ${(100 * share).toFixed(1)} % of the edges of this layer have σ(α′) > 0.999: their α `
    + `is tanh(1 − σ(τ)) = ${alpha}, whatever the score.`;
}
/* The least and the most of many numbers, as text. */
const ends = (values) => [Math.min, Math.max].map((best) => values.reduce((a, b) => best(a, b)).toPrecision(3));
/* A step's value in the network that runs here; null for scores where nothing is compared. */
function liveValue(symbol, key) {
  const layer = live.layers[state.layer], nearest = live.settings[state.layer].constructor === "knn";  // d = −score
  return { stem: live.stem, in: layer.h, scores: nearest ? layer.score.map((s) => -s) : layer.score, ffn: layer.z,
    edges: layer.weights, aggregate: layer.m, update: symbol === "u" ? layer.update : layer.y, head: live.logits }[key];
}
/* image → stem → [ the steps of a layer ] × depth → head, as buttons. */
function writePipeline() {
  const arrow = () => element("span", { className: "arrow", textContent: "→" });
  const button = (n) => element("button", { textContent: steps()[n].short, onclick: () => go({ step: n }) });
  const inside = [...steps().keys()].filter((n) => steps()[n].values[0].layer !== "");
  const block = element("span", { className: "block" }, button(inside[0]),
    ...inside.slice(1).flatMap((n) => [arrow(), button(n)]), `× ${model().layers.length}`);
  $("pipeline").replaceChildren("image", ...[...steps().keys()].flatMap((n) => (
    n === inside[0] ? [arrow(), block] : inside.includes(n) ? [] : [arrow(), button(n)])));
}
/* Each class's share, from 0 to 1. */
function shares(logits) {
  if (model().multi) return Array.from(logits, sigmoid);
  const powers = Array.from(logits, (value) => Math.exp(value - Math.max(...logits)));
  return powers.map((value) => value / powers.reduce((a, b) => a + b));
}

function writeAnswer() {
  const now = shares(live ? live.logits : view().logits), then = changed() ? shares(before.logits) : null;
  const order = [...now.keys()].sort((a, b) => now[b] - now[a]).slice(0, 5), first = then?.indexOf(Math.max(...then));
  if (then && !order.includes(first)) order[order.length - 1] = first;
  $("answer").replaceChildren(...order.map((n) => element("div", { className: "class" },
    element("span", { textContent: model().classes[n], title: model().classes[n] }),
    element("span", { className: "track" }, element("b", { style: `width: ${100 * now[n]}%` }),
      ...(then ? [element("i", { style: `width: ${100 * then[n]}%`, title: "before the change" })] : [])),
    element("span", { textContent: `${(100 * now[n]).toFixed(1)} %` }))));
}
/* The same patch in every layer, and how many edges a change has cost and brought there. */
function writeLayers(counts) {
  const plain = $("layers").querySelector(".plain canvas");
  plain.getContext("2d").drawImage(picture, 0, 0, plain.width, plain.height);
  graphs.forEach((graph, l) => {
    const button = $("layers").querySelectorAll("button")[l], [lost, gained] = counts[l];
    drawPicture(button.firstChild, picture, model().grid, drawing(graph, l, true));
    button.lastChild.replaceChildren(`${graph.name}: ${edgesOf(graph).length}`, ...(lost + gained ? [element("br"),
      element("span", { className: "minus", textContent: `−${lost} ` }),
      element("span", { className: "plus", textContent: `+${gained} edges` })] : []));
    button.setAttribute("aria-current", l === state.layer);
  });
}

const tableRow = (kind, cells) => element("tr", {}, ...cells.map((cell) => element(kind, { textContent: cell })));

function writeCharts(graph) {
  const described = graphs.map((g, l) => (g.described ??= g.numbers(graphs[l - 1], state.masks)));
  const number = (value) => (value === null ? "–" : value.toFixed(2));
  const share = (value) => (value === null ? "–" : `${(100 * value).toFixed(1)} %`);
  $("numbers").replaceChildren(...described.map((d, l) => {
    const row = tableRow("td", [graphs[l].name, d.mean.toFixed(1), d.least, d.most, share(d.isolated), share(d.loops),
      number(d.length), share(d.overlap), number(d.diversity), share(d.homophily),
      share(graphs[l].data.saturated ?? null)]);
    row.onclick = () => go({ layer: l });
    row.setAttribute("aria-current", l === state.layer);
    return row;
  }));
  const i = target(graph), own = live?.settings[state.layer];
  const lrgc = own ? own.constructor === "lrgc" : graph.tau !== null;
  histogram($("histogram"), described[state.layer].degrees, graph.row(i).length);
  $("curve-box").hidden = !lrgc;
  if (lrgc) thresholdCurve($("curve"), own ? own.tau : graph.tau, live
    ? Array.from(graph.weights.subarray(i * graph.sources, (i + 1) * graph.sources), (weight, j) => (
      { score: live.layers[state.layer].score[i * graph.sources + j], weight }))
    : graph.row(i).map(({ weight }) => ({ score: scoreOf(weight, graph.tau), weight })));
  if (!data.history) return;
  const { epochs, neighbours, scores, name } = data.history, chosen = data.epochs[state.model];
  $("score-name").textContent = name;
  curves($("figure5"), epochs, neighbours, ["epoch", "neighbours; first layer dark, last one light"], chosen);
  curves($("scores"), epochs, [scores], ["epoch", name], chosen);
}
/* What can be changed in this layer, and what a change has done. */
function writeKnobs(graph, counts) {
  const own = state.settings[state.layer], { score } = live.layers[state.layer];
  $("constructor").value = own.constructor;
  document.querySelectorAll(".hint").forEach((hint) => { hint.hidden = hint.dataset.of !== own.constructor; });
  document.querySelectorAll(".knob").forEach((knob) => {
    const slider = knob.querySelector("input"), name = slider.id;
    knob.hidden = !knob.dataset.of.split(" ").includes(own.constructor);
    if (knob.hidden || document.activeElement === slider && slider.value === String(own[name])) return;
    if (name === "k") slider.max = graph.sources;
    if (name === "dilation") slider.max = Math.floor(graph.sources / own.k);
    if (name === "tau" && score) {  // from an edge for every score to none, as far as σ(τ) changes
      const [min, max] = [Math.max(Math.min(...score) - 0.1, -18), Math.min(Math.max(...score) + 0.1, 18)];
      if (document.activeElement !== slider) Object.assign(slider, { min, max, step: (max - min) / 1000 });
    }
    slider.value = own[name];
    knob.querySelector("b").textContent = Number.isInteger(own[name]) ? own[name] : own[name].toFixed(2);
  });
  document.querySelectorAll(".mode").forEach((b) => b.setAttribute("aria-pressed", b.dataset.mode === state.mode));
  const [lost, gained] = [0, 1].map((n) => counts.reduce((sum, count) => sum + count[n], 0));
  const [old, now] = [before, live].map(({ logits }) => logits.indexOf(Math.max(...logits))), { classes } = model();
  const [then, still] = [before, live].map(({ logits }) => `${(100 * shares(logits)[old]).toFixed(0)} %`);
  $("changed").textContent = !changed() ? "" : `${lost} edges are gone and ${gained} are new, in all layers together. `
    + `The prediction ${old === now ? "stays" : `is «${classes[now]}», no longer`} «${classes[old]}»`
    + ` (${then} → ${still}).`;
}
