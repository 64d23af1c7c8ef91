/* Drawing: the image with its patches, and small charts. Nothing here knows where the numbers come from. */
const COLOUR = { source: "#ff8a1f", outline: "#b8410b", target: "#ff2d3d",
  asked: "#38bdf8", lost: "#ff3fa4", gained: "#35d07f" };
const HEAT = [[13, 8, 60], [92, 22, 120], [178, 50, 92], [238, 105, 55], [250, 180, 50], [252, 245, 170]];
const WEIGHTS = [[255, 251, 208], [255, 209, 92], [255, 154, 31], [232, 80, 10]];  // from light to heavy edges
/* The colour at a share, between 0 and 1, of a scale. */
function heat(share, scale = HEAT) {
  const at = Math.min(Math.max(share, 0), 1) * (scale.length - 1), low = Math.min(Math.floor(at), scale.length - 2);
  return `rgb(${scale[low].map((value, c) => Math.round(value + (at - low) * (scale[low + 1][c] - value)))})`;
}
/* Draw the image and over its patches what `view` holds. boxes: all nodes, each a [row, column, side] in patches.
   sources { box, share, colours }: tinted by share and outlined, with a stripe of each colour where there are several;
   or values, one a node: a heat map; or labels, one a node: partitions. frames { box, colour }: the chosen nodes. */
function drawPicture(canvas, image, [rows, columns], view) {
  const context = canvas.getContext("2d"), { width, height } = canvas, w = width / columns, h = height / rows;
  const fill = ([row, column, side], colour, alpha, from = 0, to = 1) => {  // from, to: a stripe of the box
    context.fillStyle = colour;
    context.globalAlpha = alpha;
    const left = column + side * from, right = Math.min(column + side * to, columns);
    context.fillRect(left * w, row * h, (right - left) * w, (Math.min(row + side, rows) - row) * h);
  };
  const thick = Math.max(1.5, Math.min(w, h, 60) / 14);
  const frame = ([row, column, side], strokeStyle, lineWidth, inset, globalAlpha) => {
    Object.assign(context, { strokeStyle, lineWidth, globalAlpha });
    context.strokeRect(column * w + inset, row * h + inset, Math.min(side, columns - column) * w - 2 * inset,
      Math.min(side, rows - row) * h - 2 * inset);
  };
  /* The sides of a box that no box of `same` touches: around neighbouring sources there is one line. */
  const outline = ([row, column, side], same) => {
    const [left, top, right, bottom] = [column * w, row * h, Math.min(column + side, columns) * w,
      Math.min(row + side, rows) * h];
    for (const [ink, line] of [["#fff", 1.5 * thick], [COLOUR.outline, thick]])
      for (const [dr, dc] of [[-1, 0], [1, 0], [0, -1], [0, 1]]) {
        if (same.has([row + dr * side, column + dc * side, side].join())) continue;
        Object.assign(context, { fillStyle: ink, globalAlpha: 1 });
        context.fillRect(dc > 0 ? right - line : left, dr > 0 ? bottom - line : top, dc ? line : right - left,
          dr ? line : bottom - top);
      }
  };
  Object.assign(context, { globalAlpha: 1, imageSmoothingEnabled: false });
  context.drawImage(image, 0, 0, width, height);
  if (view.values) {
    const low = Math.min(...view.values), span = Math.max(...view.values) - low || 1;
    view.values.forEach((value, n) => fill(view.boxes[n], heat((value - low) / span), 0.82));
  }
  view.labels?.forEach((label, n) => fill(view.boxes[n], data.colours[label % data.colours.length], 0.62));
  if (view.sources) {
    const plain = new Set(view.sources.filter(({ marked }) => !marked).map(({ box }) => box.join()));
    for (const { box, share, marked, colours: { length }, colours } of view.sources) {
      colours.forEach((colour, n) => {
        fill(box, colour, 0.3 + 0.25 * share, n / length, (n + 1) / length);
        if (marked) frame(box, colour, thick / 2, (n + 0.4) * thick, 0.9);
      });
      if (!marked) outline(box, plain);
    }
  }
  for (const { box, colour } of view.frames)
    for (const [ink, line] of [["#fff", 2.4], [colour, 1.5]]) frame(box, ink, line * thick, thick, 1);
}

/* ---- charts, as SVG: the plot is 92 wide and 36 high ---- */

function svg(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const across = (value, [low, high]) => 8 + 92 * (value - low) / (high - low || 1);
const down = (value, [low, high]) => 36 - 36 * (value - low) / (high - low || 1);
/* x, y: the least and most of the axes; names: what they measure; marks: what is drawn inside. */
function plot(host, x, y, names, marks) {
  const show = (value) => (Math.abs(value) >= 10 || Number.isInteger(value) ? Math.round(value) : value.toFixed(2));
  const texts = [[8, 41, show(x[0]), "start"], [100, 41, show(x[1]), "end"], [54, 41, names[0], "middle"],
    [6.5, 36, show(y[0]), "end"], [6.5, 3, show(y[1]), "end"], [9.5, -1, names[1], "start"]];
  host.replaceChildren(svg("svg", { viewBox: "-3 -5 106 48", role: "img", "aria-label": `${names[1]} by ${names[0]}` },
    svg("path", { d: "M8 0V36H100", class: "axis" }), ...marks,
    ...texts.map(([tx, ty, value, anchor]) => svg("text", { x: tx, y: ty, "text-anchor": anchor }, String(value)))));
}
/* How many nodes have how many neighbours; the chosen node's bar is marked. */
function histogram(host, degrees, chosen) {
  const most = Math.max(...degrees, 1), wide = Math.ceil((most + 1) / 46), x = [0, most + wide], bars = [];
  for (const degree of degrees) bars[Math.floor(degree / wide)] = (bars[Math.floor(degree / wide)] || 0) + 1;
  const y = [0, Math.max(...bars.filter(Boolean))];
  plot(host, x, y, ["neighbours of a node", "nodes"], bars.map((count, n) => svg("rect", {
    x: across(n * wide, x), width: 92 * wide / x[1] - 0.4, y: down(count, y), height: 36 - down(count, y),
    class: n === Math.floor(chosen / wide) ? "chosen" : "bar" })));
}
/* LRGC's α over the score, and a dot for each of the chosen node's pairs: { score, weight }; far
   from τ σ changes no more: those scores stand at the ends. */
function thresholdCurve(host, tau, dots) {
  const near = (score) => Math.min(Math.max(score, tau - 12), tau + 12);
  const x = [Math.min, Math.max].map((end, n) => end(...dots.map((dot) => near(dot.score)), tau + 2 * n - 1));
  const alpha = (s) => Math.tanh(Math.max(0, sigmoid(s) - sigmoid(tau))), y = [0, Math.max(0.1, alpha(x[1]))];
  const line = Array.from({ length: 201 }, (_, n) => x[0] + (x[1] - x[0]) * n / 200);
  plot(host, x, y, ["score α′, with farther ones at the ends", "α"], [
    svg("path", { d: "M" + line.map((s) => `${across(s, x)} ${down(alpha(s), y)}`).join("L"), class: "curve" }),
    svg("path", { d: `M${across(tau, x)} 0V36`, class: "threshold" }),
    svg("text", { x: across(tau, x) - 1, y: 9, "text-anchor": "end" }, `τ = ${tau.toFixed(2)}`),
    ...dots.map(({ score, weight }) => svg("circle", { cx: across(near(score), x), cy: down(weight, y), r: 1,
      class: weight !== 0 ? "dot" : "dot out" }))]);
}
/* The score that gives an edge's weight: α turned round. */
function scoreOf(weight, tau) {
  const share = Math.min(Math.atanh(Math.min(weight, 0.9999)) + sigmoid(tau), 1 - 1e-6);
  return Math.log(share / (1 - share));
}
/* Curves over epochs; the chosen epoch has a line. */
function curves(host, epochs, series, names, chosen) {
  const x = [epochs[0], epochs[epochs.length - 1]], y = [0, Math.max(...series.flat(), 0.01)];
  plot(host, x, y, names, [svg("path", { d: `M${across(chosen, x)} 0V36`, class: "threshold" }),
    ...series.map((line, n) => svg("path", {
      class: "curve", style: series.length > 1 ? `stroke: ${heat(0.35 + 0.6 * n / series.length)}` : "",
      d: "M" + line.map((value, e) => `${across(epochs[e], x)} ${down(value, y)}`).join("L") }))]);
}
