/* The network of ViG, SViG and ViG-LRGC in plain JavaScript: the same equations, in the same order, as
   vig_minimal/models/vig.py, for one image. Batch norms are folded into the linear layers before them.

   Nodes are rows of a Float32Array: node i, channel c is x[i * C + c]. A graph is an N × N array whose rows are
   targets and columns are sources: weights[i * N + j] ≠ 0 is an edge from source j to target i. */
"use strict";
/* y = x Wᵀ + b for every row of x. W has `outputs` rows; with groups, outputs of a group read its slice of x alone.
   Four rows and two outputs are computed at a time, so that each number that is read is used several times. */
function linear(x, rows, { weight, bias, groups = 1 }) {
  const outputs = bias.length, inside = weight.length / outputs, width = inside * groups, each = outputs / groups;
  const y = new Float32Array(rows * outputs);
  for (let o = 0; o < outputs; o += 2) {
    const p = Math.min(o + 1, outputs - 1), w0 = o * inside, w1 = p * inside;  // the last one twice if they are odd
    const start = Math.floor(o / each) * inside;  // the same group's, as each group has an even number of outputs
    for (let r = 0; r < rows; r += 4) {
      const r1 = Math.min(r + 1, rows - 1), r2 = Math.min(r + 2, rows - 1), r3 = Math.min(r + 3, rows - 1);
      const x0 = r * width + start, x1 = r1 * width + start, x2 = r2 * width + start, x3 = r3 * width + start;
      let a0 = bias[o], a1 = a0, a2 = a0, a3 = a0, b0 = bias[p], b1 = b0, b2 = b0, b3 = b0;
      for (let c = 0; c < inside; c++) {
        const w = weight[w0 + c], v = weight[w1 + c], h0 = x[x0 + c], h1 = x[x1 + c], h2 = x[x2 + c], h3 = x[x3 + c];
        a0 += w * h0; a1 += w * h1; a2 += w * h2; a3 += w * h3;
        b0 += v * h0; b1 += v * h1; b2 += v * h2; b3 += v * h3;
      }
      y[r * outputs + o] = a0; y[r1 * outputs + o] = a1; y[r2 * outputs + o] = a2; y[r3 * outputs + o] = a3;
      y[r * outputs + p] = b0; y[r1 * outputs + p] = b1; y[r2 * outputs + p] = b2; y[r3 * outputs + p] = b3;
    }
  }
  return y;
}
/* A 3×3 convolution with zeros around the image: each output's 9 surrounding pixels in a row, then a linear layer. */
function convolve(x, [height, width], stride, layer) {
  const channels = layer.weight.length / layer.bias.length / 9;
  const rows = Math.ceil(height / stride), columns = Math.ceil(width / stride);
  const around = new Float32Array(rows * columns * 9 * channels);
  let to = 0;
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) for (let dy = -1; dy <= 1; dy++)
    for (let dx = -1; dx <= 1; dx++, to += channels) {
      const yy = r * stride + dy, xx = c * stride + dx;
      if (yy < 0 || yy >= height || xx < 0 || xx >= width) continue;
      const from = (yy * width + xx) * channels;
      for (let d = 0; d < channels; d++) around[to + d] = x[from + d];
    }
  return [linear(around, rows * columns, layer), [rows, columns]];
}
/* GELU(x) = x Φ(x), Φ the normal distribution function (erf after Abramowitz and Stegun 7.1.26, to 1.5e-7). */
function gelu(x) {
  for (let i = 0; i < x.length; i++) {
    const u = Math.abs(x[i]) * Math.SQRT1_2, t = 1 / (1 + 0.3275911 * u);
    const series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    const tail = 0.5 * series * Math.exp(-u * u);  // 1 − Φ(|x|)
    x[i] *= x[i] > 0 ? 1 - tail : tail;
  }
  return x;
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const rowOf = (x, i, channels) => x.subarray(i * channels, (i + 1) * channels);
const dot = (a, b) => { let sum = 0; for (let c = 0; c < a.length; c++) sum += a[c] * b[c]; return sum; };
const norm = (a) => Math.sqrt(dot(a, a));
const each = (nodes, value) => Array.from({ length: nodes }, (_, j) => value(j));
const add = (x, y) => x.map((value, i) => value + y[i]);
/* x_0, m_0, x_1, m_1, …: so that every head of the update sees the same slice of both. */
const interleave = (x, m) => new Float32Array(2 * x.length).map((_, i) => (i % 2 ? m : x)[i >> 1]);

/* The share of LRGC's edges with σ(score) > 0.999, whose α no higher score changes; null for other graphs. */
function saturatedOf({ score, weights }, { constructor }) {
  if (constructor !== "lrgc") return null;
  const edges = score.filter((_, e) => weights[e] !== 0);
  return edges.length ? edges.filter((s) => sigmoid(s) > 0.999).length / edges.length : null;
}

/* ---- graph constructors: nodes h (N × C) → { score, weights }, both N × N; `own` are the layer's settings ---- */
/* −‖x̂_i − x̂_j‖² = 2 cos(x_i, x_j) − 2, x̂ being L2-normalised. */
function similarity(h, nodes, channels) {
  const unit = each(nodes, (i) => {
    const length = Math.max(norm(rowOf(h, i, channels)), 1e-12);
    return Float64Array.from(rowOf(h, i, channels), (value) => value / length);
  });
  return new Float32Array(nodes * nodes).map((_, e) => 2 * dot(unit[Math.floor(e / nodes)], unit[e % nodes]) - 2);
}

const CONSTRUCTORS = {
  /* LRGC Eqs. 2-4: α = tanh(ReLU(σ(query_i · key_j) − σ(τ))). */
  lrgc(h, nodes, channels, own, layer) {
    const query = linear(h, nodes, layer.query), key = linear(h, nodes, layer.key);
    const score = linear(query, nodes, { weight: key, bias: new Float32Array(nodes) });
    const least = sigmoid(own.tau);
    return { score, weights: score.map((s) => Math.tanh(Math.max(0, Math.fround(sigmoid(s)) - Math.fround(least)))) };
  },
  /* ViG: every d-th of the k·d nearest; a node is its own nearest. */
  knn(h, nodes, channels, own) {
    const score = similarity(h, nodes, channels), weights = new Float32Array(nodes * nodes);
    for (let i = 0; i < nodes; i++) {
      const row = rowOf(score, i, nodes);
      const order = [...row.keys()].sort((a, b) => (b === i) - (a === i) || row[b] - row[a]);
      order.filter((_, n) => n % own.dilation === 0).slice(0, own.k).forEach((j) => { weights[i * nodes + j] = 1; });
    }
    return { score, weights };
  },
  /* SViG: an edge wherever the standardised similarity is above Φ⁻¹(q). */
  threshold(h, nodes, channels, own) {
    const score = similarity(h, nodes, channels), count = nodes * nodes;
    const mean = score.reduce((sum, s) => sum + s, 0) / count;
    const std = norm(Float64Array.from(score, (s) => s - mean)) / Math.sqrt(Math.max(1, count - 1));
    if (std <= 64 * 2 ** -46) return { score, weights: new Float32Array(count) };  // rounding errors alone
    const z = score.map((s) => (s - mean) / std);
    return { score: z, weights: z.map((value) => (value > own.z ? 1 : 0)) };
  },
  /* Controls, which do not look at the features. */
  grid: (h, nodes, channels, own, layer, [, columns]) => fixed(nodes, (i, j) =>
    Math.abs(Math.floor(i / columns) - Math.floor(j / columns)) <= 1 && Math.abs(i % columns - j % columns) <= 1),
  random(h, nodes, channels, own) {
    let state = own.seed;  // of a linear congruential generator: the same edges in every run
    const drawn = Float64Array.from({ length: nodes * nodes }, (_, edge) => (
      (state = (1664525 * state + 1013904223) >>> 0), edge % (nodes + 1) ? state : -1));  // itself comes first
    const limits = each(nodes, (i) => rowOf(drawn, i, nodes).slice().sort()[own.k - 1]);
    return fixed(nodes, (i, j) => drawn[i * nodes + j] <= limits[i]);
  },
  full: (h, nodes) => fixed(nodes, () => true),
  none: (h, nodes) => fixed(nodes, (i, j) => i === j),
};

const fixed = (nodes, edge) => ({ score: null, weights: new Float32Array(nodes * nodes).map((_, e) => (
  Number(edge(Math.floor(e / nodes), e % nodes)))) });
/* m_i = max_j a_ij (x_j − x_i) for each channel, and the source that won, −1 for none.
   Weighted graphs (LRGC Eq. 5): over all j, so that an edge that is not selected carries 0. Others: over the edges. */
function maxRelative(x, nodes, channels, weights, weighted) {
  const m = new Float32Array(nodes * channels).fill(weighted ? 0 : -Infinity);
  const winner = new Int32Array(nodes * channels).fill(-1);
  for (let i = 0; i < nodes; i++) for (let j = 0; j < nodes; j++) {
    const a = weights[i * nodes + j];
    if (a === 0) continue;
    for (let c = 0, at = i * channels, from = j * channels; c < channels; c++, at++, from++) {
      const message = a * (x[from] - x[at]);
      if (message > m[at]) { m[at] = message; winner[at] = j; }
    }
  }
  return { m: m.map((value) => (value === -Infinity ? 0 : value)), winner };
}

class Network {
  /* about: sizes and the list of layers, from Python. weights: all of them, one after the other. */
  constructor(about, weights) {
    Object.assign(this, about);
    this.nodes = this.grid[0] * this.grid[1];
    let at = 0;
    const take = (count) => weights.subarray(at, at += count);
    const layers = this.parts.map(({ weight, bias, groups }) => ({ weight: take(weight), bias: take(bias), groups }));
    this.stem = layers.splice(0, this.strides.length);
    this.position = layers.shift().weight;
    const block = () => Object.fromEntries(this.names.map((name) => [name, layers.shift()]));
    this.blocks = Array.from({ length: this.depth }, block);
    this.head = layers;
    this.kept = [];  // what each block has read
  }
  /* pixels: red, green, blue of each pixel, 0 to 255. settings: one for each block. first: the blocks before it keep
     what they computed for the same image. Returns the logits, and for each block everything between. */
  run(pixels, settings, first = 0) {
    if (first === 0 || !this.kept[first]) { first = 0; this.kept = [this.embed(pixels)]; this.results = []; }
    for (let l = first; l < this.depth; l++) {
      this.results[l] = this.block(this.kept[l], this.blocks[l], settings[l]);
      this.kept[l + 1] = this.results[l].z;
    }
    const last = this.kept[this.depth], pooled = new Float32Array(this.dim);
    for (let i = 0; i < last.length; i++) pooled[i % this.dim] += last[i] / this.nodes;
    // what the logits would be if one node were left out of the mean: nodes × classes
    const others = last.map((value, i) => (pooled[i % this.dim] * this.nodes - value) / Math.max(1, this.nodes - 1));
    return { logits: this.classify(pooled, 1), without: this.classify(others, this.nodes), stem: this.kept[0],
      layers: this.results };
  }

  classify(pooled, rows) {
    return linear(gelu(linear(pooled, rows, this.head[0])), rows, this.head[1]);
  }
  /* Image → stem → patches, plus the position embedding. */
  embed(pixels) {
    let { size } = this, x = Float32Array.from(pixels);
    x = x.map((value, i) => (value / 255 - this.mean[i % 3]) / this.std[i % 3]);
    this.stem.forEach((layer, i) => {
      [x, size] = convolve(x, size, this.strides[i], layer);
      if (i < this.stem.length - 1) gelu(x);
    });
    return add(x, this.position);
  }
  /* One block: constructor → aggregation → update → FFN, as `Grapher` and `FFN` in Python. */
  block(x, layer, own) {
    const { nodes, dim } = this;
    const h = linear(x, nodes, layer.fc1);  // x' = x W_in
    const { score, weights } = CONSTRUCTORS[own.constructor](h, nodes, dim, own, layer, this.grid);
    for (const [edge, weight] of Object.entries(own.edges)) weights[edge] = weight;  // cut or added by hand
    const { m, winner } = maxRelative(h, nodes, dim, weights, own.constructor === "lrgc");
    const update = gelu(linear(interleave(h, m), nodes, layer.update));
    const y = add(linear(update, nodes, layer.fc2), x);
    const z = add(linear(gelu(linear(y, nodes, layer.ffn1)), nodes, layer.ffn2), y);
    return { x, h, score, weights, m, winner, update, y, z };
  }
}
/* Bytes of base64 text; float16 numbers as float32. */
const bytesOf = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
function halves(bytes) {
  return Float32Array.from(new Uint16Array(bytes.buffer), (bits) => {
    const exponent = (bits >> 10) & 31, fraction = bits & 1023, sign = bits >> 15 ? -1 : 1;
    return sign * (exponent ? 2 ** (exponent - 25) * (1024 + fraction) : fraction * 2 ** -24);
  });
}

if (typeof window === "undefined") {  // in the Worker, so that the page never waits for the network
  let network;
  onmessage = ({ data }) => {
    if (data.about) network = new Network(data.about, halves(bytesOf(data.weights)));
    else postMessage(network.run(data.pixels, data.settings, data.first));
  };
}
