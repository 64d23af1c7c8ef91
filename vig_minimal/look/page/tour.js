/* The steps of a block, seen from one patch: what each of them shows on the picture, and why an edge is there. */

const dot = (x, i, y, j, channels) => {
  let sum = 0;
  for (let c = 0; c < channels; c++) sum += x[i * channels + c] * y[j * channels + c];
  return sum;
};

/* One number for each patch, with a caption. live: what the network computed; layer: its block; i: the target. */
const MAPS = {
  stem: (live, layer, i, { dim, nodes }) => ["‖X_j‖: how long each patch's features are",
    each(nodes, (j) => Math.sqrt(dot(live.stem, j, live.stem, j, dim)))],
  in: (live, { h }, i, { dim, nodes }) => ["cos(x′_i, x′_j): how alike each patch and the chosen one are",
    each(nodes, (j) => dot(h, i, h, j, dim) / Math.sqrt(dot(h, i, h, i, dim) * dot(h, j, h, j, dim) || 1))],
  scores: (live, { score }, i, { nodes }) => score && ["the chosen patch's score with each patch",
    each(nodes, (j) => score[i * nodes + j])],
  aggregate: (live, layer, i, { dim, nodes }) => ["channels of m_i that each patch wins",
    each(nodes, (j) => wins(layer, i, j, dim))],
  update: (live, { x, y }, i, { dim, nodes }) => ["‖y_j − x_j‖: how much each patch was changed by reading",
    each(nodes, (j) => distance(x, y, j, dim))],
  ffn: (live, { y, z }, i, { dim, nodes }) => ["‖z_j − y_j‖: how much the FFN changed each patch",
    each(nodes, (j) => distance(y, z, j, dim))],
  head: (live, layer, i, { nodes, classes }) => {
    const best = live.logits.indexOf(Math.max(...live.logits)), count = live.logits.length;
    return [`what «${classes[best]}» would lose without each patch`,
      each(nodes, (j) => live.logits[best] - live.without[j * count + best])];
  },
};

/* The channels in which source j gives target i's maximum. */
const wins = ({ winner }, i, j, channels) => winner.subarray(i * channels, (i + 1) * channels).filter((w) => w === j).length;
const each = (nodes, value) => Array.from({ length: nodes }, (_, j) => value(j));
const distance = (x, y, j, channels) => {
  let square = 0;
  for (let c = j * channels; c < (j + 1) * channels; c++) square += (x[c] - y[c]) ** 2;
  return Math.sqrt(square);
};

/* Why target i reads from source j, or why not, as a sentence. own: the settings of the layer. */
function why(layer, own, i, j, nodes, channels) {
  const e = i * nodes + j, score = layer.score && layer.score[e], weight = layer.weights[e], edge = weight !== 0;
  const won = edge ? ` It wins ${wins(layer, i, j, channels)} of the ${channels} channels of the maximum.` : "";
  const does = edge ? "reads" : "does not read", is = edge ? "is above" : "is not above";
  if (e in own.edges) return `It ${does} because you ${edge ? "added" : "cut"} this edge.${won}`;
  if (own.constructor === "lrgc") {
    const alpha = `, so α = tanh(σ(${score.toFixed(2)}) − σ(${own.tau.toFixed(2)})) = ${weight.toFixed(3)}`;
    return `It ${does}: its score α′ = ${score.toFixed(3)} ${is} τ = ${own.tau.toFixed(3)}${edge ? alpha : ""}.${won}`;
  }
  if (own.constructor === "knn") {
    const rank = 1 + layer.score.subarray(i * nodes, (i + 1) * nodes).filter((other) => other > score).length;
    const taken = own.dilation > 1 ? `every ${own.dilation}th of the ${own.k * own.dilation}` : `the ${own.k}`;
    return `It ${does}: it is number ${rank} of its nearest (distance ${(-score).toFixed(3)}), and ${taken} nearest are`
      + ` taken.${won}`;
  }
  if (own.constructor === "threshold")
    return `It ${does}: z = ${score.toFixed(3)} ${is} Φ⁻¹(q) = ${own.z.toFixed(3)}.${won}`;
  return `It ${does}: ${CONTROLS[own.constructor]}${won}`;
}

const CONTROLS = {
  grid: "every patch reads from itself and from the patches around it, whatever they show.",
  random: "the sources were drawn at random, whatever the image shows.",
  full: "every patch reads from all patches.",
  none: "every patch reads from itself alone, so nothing is exchanged.",
};
