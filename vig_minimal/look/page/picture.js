/* Drawing: the image with its patches, and small charts. Nothing here knows where the numbers come from. */
"use strict";

const COLOUR = { source: "#ff8a1f", target: "#ff2d3d", aim: "#38bdf8", lost: "#ff3fa4", gained: "#35d07f" };
const HEAT = [[13, 8, 60], [92, 22, 120], [178, 50, 92], [238, 105, 55], [250, 180, 50], [252, 245, 170]];

/* A colour between dark and light for a share between 0 and 1. */
function heat(share) {
  const at = Math.min(Math.max(share, 0), 1) * (HEAT.length - 1), low = Math.min(Math.floor(at), HEAT.length - 2);
  return `rgb(${HEAT[low].map((value, c) => Math.round(value + (at - low) * (HEAT[low + 1][c] - value)))})`;
}

/* Draw the image and, over its patches, what `view` holds:
   sources { box, share, groups }: tinted by weight or in their groups' colours, everything else darkened;
   values, one a patch: a heat map; labels, one a patch: partitions; frames { box, colour, dashed }. */
function drawPicture(canvas, image, [rows, columns], view, palette) {
  const context = canvas.getContext("2d"), { width, height } = canvas, w = width / columns, h = height / rows;
  const fill = ([row, column, side], inset = 0) => context.fillRect(column * w + inset, row * h + inset,
    Math.min(side, columns - column) * w - 2 * inset, Math.min(side, rows - row) * h - 2 * inset);
  context.imageSmoothingEnabled = false;
  context.globalAlpha = 1;
  context.drawImage(image, 0, 0, width, height);
  if (view.values) {
    const low = Math.min(...view.values), high = Math.max(...view.values), span = high - low || 1;
    context.globalAlpha = 0.82;
    view.values.forEach((value, n) => {
      context.fillStyle = heat((value - low) / span);
      fill(view.boxes ? view.boxes[n] : [Math.floor(n / columns), n % columns, 1]);
    });
  } else if (view.labels) {
    context.globalAlpha = 0.62;
    view.labels.forEach((label, n) => { context.fillStyle = palette[label % palette.length]; fill(view.boxes[n]); });
  } else if (view.sources) {
    context.fillStyle = "#05060a";
    context.globalAlpha = 0.72;
    const bright = new Set(view.sources.map(({ box }) => box.join()));
    for (const box of view.boxes) if (!bright.has(box.join())) fill(box);
    for (const { box, share, groups } of view.sources) {
      context.globalAlpha = view.grouped ? 0.62 : 0.18 + 0.55 * share;
      const [row, column, side] = box;  // a source of several groups has a stripe of each colour
      groups.forEach((group, n) => {
        context.fillStyle = view.grouped ? palette[group % palette.length] : COLOUR.source;
        context.fillRect((column + side * n / groups.length) * w, row * h, side * w / groups.length, side * h);
      });
    }
  }
  context.globalAlpha = 1;
  const thick = Math.max(1.5, Math.min(w, h, 60) / 14);
  for (const { box: [row, column, side], colour, dashed } of view.frames || []) {
    const edge = [column * w + thick, row * h + thick, Math.min(side, columns - column) * w - 2 * thick,
      Math.min(side, rows - row) * h - 2 * thick];
    context.setLineDash([]);
    context.strokeStyle = "#fff";
    context.lineWidth = 2.4 * thick;
    context.strokeRect(...edge);
    context.setLineDash(dashed ? [3 * thick, 2 * thick] : []);
    context.strokeStyle = colour;
    context.lineWidth = 1.5 * thick;
    context.strokeRect(...edge);
  }
}

/* ---- charts, as SVG: coordinates 0 … 100 across and 0 … 50 down, axes in the text's colour ---- */

function svg(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/* marks: SVG elements inside the plot. x, y: [least, most] of the axes; names: what they measure. */
function plot(host, label, x, y, names, marks) {
  const show = (value) => (Math.abs(value) >= 10 || value % 1 === 0 ? Math.round(value) : value.toFixed(2));
  const texts = [[8, 58, show(x[0]), "start"], [100, 58, show(x[1]), "end"], [54, 58, names[0], "middle"],
    [6.5, 50, show(y[0]), "end"], [6.5, 4, show(y[1]), "end"]];
  host.replaceChildren(svg("svg", { viewBox: "-3 -5 106 66", role: "img", "aria-label": label },
    svg("path", { d: "M8 0V50H100", class: "axis" }), ...marks,
    ...texts.map(([tx, ty, value, anchor]) => svg("text", { x: tx, y: ty, "text-anchor": anchor }, String(value))),
    svg("text", { x: 9.5, y: 1, class: "name" }, names[1])));
}

const across = (value, [low, high]) => 8 + 92 * (value - low) / (high - low || 1);
const down = (value, [low, high]) => 50 - 50 * (value - low) / (high - low || 1);

/* How many nodes have how many neighbours; the chosen node's bar is marked. */
function histogram(host, degrees, chosen) {
  const most = Math.max(...degrees, 1), wide = Math.max(1, Math.ceil((most + 1) / 46)), bars = [];
  for (const degree of degrees) bars[Math.floor(degree / wide)] = (bars[Math.floor(degree / wide)] || 0) + 1;
  const x = [0, most + wide], y = [0, Math.max(...bars.filter(Boolean))];
  plot(host, `${degrees.length} nodes by their number of neighbours`, x, y, ["neighbours of a node", "nodes"],
    bars.map((count, n) => svg("rect", {
      x: across(n * wide, x), width: Math.max(0.4, 92 * wide / (x[1] || 1) - 0.5), y: down(count, y),
      height: 50 - down(count, y), class: n === Math.floor(chosen / wide) ? "chosen" : "bar" })));
}

/* LRGC's α over the score, and a dot for each of the chosen node's pairs. dots: { score, weight, edge }. */
function thresholdCurve(host, tau, dots) {
  const scores = [...dots.map((dot) => dot.score), tau - 1, tau + 1];
  const x = [Math.min(...scores), Math.max(...scores)], alpha = (s) => Math.tanh(Math.max(0, sigmoid(s) - sigmoid(tau)));
  const y = [0, Math.max(0.1, alpha(x[1]))];
  const line = Array.from({ length: 81 }, (_, n) => x[0] + (x[1] - x[0]) * n / 80);
  plot(host, `α over the score; the threshold τ is ${tau.toFixed(2)}`, x, y, ["score α′", "α"], [
    svg("path", { d: "M" + line.map((s) => `${across(s, x)} ${down(alpha(s), y)}`).join("L"), class: "curve" }),
    svg("path", { d: `M${across(tau, x)} 0V50`, class: "threshold" }),
    svg("text", { x: across(tau, x) + 1, y: 8, class: "name" }, `τ = ${tau.toFixed(2)}`),
    ...dots.map(({ score, weight, edge }) => svg("circle", {
      cx: across(score, x), cy: down(weight, y), r: 1.1, class: edge ? "dot" : "dot out" }))]);
}

/* Curves over epochs, one a series; the chosen epoch has a line. */
function curves(host, label, epochs, series, names, chosen) {
  const x = [epochs[0], epochs[epochs.length - 1]], values = series.flat().filter(Number.isFinite);
  const y = [0, Math.max(...values, 0.01)];
  plot(host, label, x, y, names, [svg("path", { d: `M${across(chosen, x)} 0V50`, class: "threshold" }),
    ...series.map((line, n) => svg("path", { class: "curve", style: `stroke: ${heat(0.15 + 0.7 * n / series.length)}`,
      d: "M" + line.map((value, e) => `${across(epochs[e], x)} ${down(value, y)}`).join("L") }))]);
}
