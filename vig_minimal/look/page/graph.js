/* A layer's graph, as the page reads it, whatever form its adjacency is kept in. Rows are targets, columns sources. */
class Graph {
  /* about: the layer, from Python. data: its packed adjacency, or { weights } of the network that runs here. */
  constructor(about, data) {
    Object.assign(this, about);
    this.data = data;
    this.groups = data.groups || 1;
    if (data.form === "index") {
      const bytes = bytesOf(data.data);
      this.index = data.bytes === 2 ? new Uint16Array(bytes.buffer) : new Uint32Array(bytes.buffer);
    } else if (data.form === "bits") {
      const bytes = bytesOf(data.data);
      const length = this.targets * this.sources;
      this.weights = Uint8Array.from({ length }, (_, e) => (bytes[e >> 3] >> (7 - e % 8)) & 1);
    } else this.weights = data.form === "bytes" ? bytesOf(data.data) : data.weights;
    this.unit = data.form === "bytes" ? data.heaviest / 255 : 1;  // what a weight of 1 stands for
    const [rows, columns] = this.grid;
    this.sourceGrid = [Math.floor(rows / this.pool), Math.floor(columns / this.pool)];
  }
  /* The sources of target i, each once: { j, weight, groups: those whose channels read from it }. */
  row(i) {
    if (this.weights)
      return Array.from(this.weights.subarray(i * this.sources, (i + 1) * this.sources), (weight, j) => (
        { j, weight: weight * this.unit, groups: [0] })).filter(({ weight }) => weight !== 0);
    const found = new Map(), { k } = this.data;
    for (let g = 0, e = i * k; g < this.groups; g++, e += this.targets * k)
      for (const j of new Set(this.index.subarray(e, e + k))) {
        if (!found.has(j)) found.set(j, { j, weight: 1, groups: [] });
        found.get(j).groups.push(g);
      }
    return [...found.values()].sort((a, b) => a.j - b.j);
  }
  /* The targets that read from source j, in the same form. */
  column(j) {
    return this.rows().flatMap((row, i) => row.filter((edge) => edge.j === j).map((edge) => ({ ...edge, j: i })));
  }

  rows() { return this.kept ??= Array.from({ length: this.targets }, (_, i) => this.row(i)); }
  /* The square of first-stage patches that a target or a source covers: [row, column, side]. */
  box(node, isSource) {
    const columns = (isSource ? this.sourceGrid : this.grid)[1], side = this.scale * (isSource ? this.pool : 1);
    return [Math.floor(node / columns) * side, (node % columns) * side, side];
  }
  /* The node that covers a patch of the first stage, or −1: patches at the edge may be in no pooled source. */
  nodeAt(row, column, isSource) {
    const [rows, columns] = isSource ? this.sourceGrid : this.grid, side = this.scale * (isSource ? this.pool : 1);
    const r = Math.floor(row / side), c = Math.floor(column / side);
    return r < rows && c < columns ? r * columns + c : -1;
  }
  /* The layer in numbers; before: the graph of the layer before; masks: the shape that each patch shows, if known, and
     0 for the ground. Edges from a node to itself count among the neighbours and as loops alone. */
  numbers(before, masks) {
    const rows = this.rows(), degrees = rows.map((row) => row.length), edges = degrees.reduce((a, b) => a + b, 0);
    const square = this.targets === this.sources && !this.ofLabels;
    const alike = before && before.targets === this.targets && before.sources === this.sources;
    const others = (row, i) => row.map(({ j }) => j).filter((j) => !square || j !== i);
    let count = 0, length = 0, same = 0, known = 0, shared = 0, earlier = 0;
    rows.forEach((row, i) => {
      const old = new Set(alike ? others(before.rows()[i], i) : []), mine = others(row, i);
      count += mine.length, earlier += old.size, shared += mine.filter((j) => old.has(j)).length;
      for (const j of this.ofLabels ? [] : mine) {
        const [r, c, side] = this.box(i, false), [sr, sc, wide] = this.box(j, true);
        length += Math.hypot(r + side / 2 - sr - wide / 2, c + side / 2 - sc - wide / 2);
        if (masks?.[i] && square && this.scale === 1) { known++; same += masks[i] === masks[j]; }
      }
    });
    return {
      mean: edges / this.targets, least: Math.min(...degrees), most: Math.max(...degrees), degrees,
      isolated: degrees.filter((d) => d === 0).length / this.targets,
      loops: square ? (edges - count) / this.targets : null,
      length: count && !this.ofLabels ? length / count : null,
      overlap: alike && count + earlier ? shared / (count + earlier - shared) : null,
      diversity: this.data.diversity ?? null,
      homophily: known ? same / known : null,
    };
  }
  /* Edges that `other` has and this graph has not: their number, and those of target i. */
  missing(other) {
    const rows = this.rows().map((row, i) => {
      const mine = new Set(row.map(({ j }) => j));
      return other.rows()[i].map(({ j }) => j).filter((j) => !mine.has(j));
    });
    return { count: rows.flat().length, rows };
  }
}
/* ‖X − mean‖ / ‖X‖ of nodes × channels, as `diversity` in Python. */
function diversityOf(x, channels) {
  const mean = new Float64Array(channels);
  x.forEach((value, i) => { mean[i % channels] += value * channels / x.length; });
  return norm(x.map((value, i) => value - mean[i % channels])) / norm(x);
}
