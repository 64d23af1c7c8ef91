/* The steps of a block, seen from one patch: what each of them shows on the picture, and why an edge is there. */
const apart = (x, y, { dim, nodes }) => (
  each(nodes, (j) => norm(rowOf(y, j, dim).map((value, c) => value - x[j * dim + c]))));
/* One number for each patch, with a caption. live: what the network computed; layer: its block; i: the target. */
const MAPS = {
  stem: (live, layer, i, { dim, nodes }) => ["‖X_j‖: how long each patch's features are",
    each(nodes, (j) => norm(rowOf(live.stem, j, dim)))],
  in: (live, { h }, i, { dim, nodes }) => ["cos(x′_i, x′_j): how alike each patch and the chosen one are",
    each(nodes, (j) => [i, j].map((n) => rowOf(h, n, dim))).map(([a, b]) => dot(a, b) / (norm(a) * norm(b) || 1))],
  scores: (live, { score }, i, { nodes }) => score && ["the chosen patch's score with each patch",
    each(nodes, (j) => score[i * nodes + j])],
  aggregate: (live, layer, i, { dim, nodes }) => ["channels of m_i that each patch wins",
    each(nodes, (j) => wins(layer, i, j, dim))],
  update: (live, { x, y }, i, sizes) => ["‖y_j − x_j‖: how much reading changed each patch", apart(x, y, sizes)],
  ffn: (live, { y, z }, i, sizes) => ["‖z_j − y_j‖: how much the FFN changed each patch", apart(y, z, sizes)],
  head: (live, layer, i, { nodes, classes }) => {
    const best = live.logits.indexOf(Math.max(...live.logits)), count = live.logits.length;
    return [`what «${classes[best]}» would lose without each patch`,
      each(nodes, (j) => live.logits[best] - live.without[j * count + best])];
  },
};
/* The channels in which source j gives target i's maximum. */
const wins = (layer, i, j, channels) => rowOf(layer.winner, i, channels).filter((winner) => winner === j).length;
/* Why target i reads from source j, or why not, as a sentence. own: the settings of the layer. */
function why(layer, own, i, j, nodes, channels) {
  const e = i * nodes + j, score = layer.score && layer.score[e], weight = layer.weights[e], edge = weight !== 0;
  const won = edge ? ` It wins ${wins(layer, i, j, channels)} of the ${channels} channels of the maximum.` : "";
  const does = edge ? "reads" : "does not read", is = edge ? "is above" : "is not above";
  if (e in own.edges) return `It ${does} because you ${edge ? "added" : "cut"} this edge.${won}`;
  if (own.constructor === "lrgc") {
    const [s, tau] = [score.toFixed(3), own.tau.toFixed(3)];
    if (!edge && score > own.tau)
      return `It does not read: its score α′ = ${s} is above τ = ${tau}, but σ of both is `
        + `${sigmoid(own.tau) > 0.999 ? "1" : "the same number"} in float32, so α = 0.`;
    const alpha = `, so α = tanh(σ(${s}) − σ(${tau})) = ${digits(weight)}`;
    return `It ${does}: its score α′ = ${s} ${is} τ = ${tau}${edge ? alpha : ""}.${won}`;
  }
  if (own.constructor === "knn") {
    const rank = 1 + layer.score.subarray(i * nodes, (i + 1) * nodes).filter((other) => other > score).length;
    const d = own.dilation, far = (-score).toFixed(3), every = { 2: "second", 3: "third" }[d] ?? `${d}th`;
    const taken = d > 1 ? `every ${every} of the ${own.k * d} nearest is` : `the ${own.k} nearest are`;
    return `It ${does}: it is number ${rank} of its nearest (distance ${far}), and ${taken} taken.${won}`;
  }
  if (own.constructor === "threshold")
    return `It ${does}: z = ${score.toFixed(3)} ${is} Φ⁻¹(q) = ${own.z.toFixed(3)}.${won}`;
  return `It ${does}: this graph is the same whatever the image shows.${won}`;
}
