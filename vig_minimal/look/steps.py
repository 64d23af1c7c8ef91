"""The steps of the models for `explain`: equation, and what it is for; i: target, j: source."""

from typing import NamedTuple


class Step(NamedTuple):
    """One step of a model: what is computed, as an equation, and what it is for."""

    key: str       # the step's place in `image → stem → … → head`
    short: str     # its name there
    title: str
    equation: str  # x_i is x with the index i; α′_{ij} has two
    says: str


STEM = Step("stem", "stem", "Stem", "X = stem(image) + P",
            "Convolutions map each patch of the image to C features; P is the learnable position embedding. From here "
            "on a patch is a node.")
DOWN = Step("stem", "next stage", "Next stage", "X = conv(X)",
            "A stride-2 convolution halves the grid: a patch now covers twice the height and width.")
CPE = Step("in", "CPE", "Conditional position encoding", "X = CPE(X) + X",
           "A 7 × 7 depthwise convolution adds position information.")
W_IN = Step("in", "W_in", "Linear layer in", "x′_i = x_i W_{in}",
            "The same linear layer for every node. The graph is built from x′, so that a block can choose neighbours "
            "by other features than those it passes on.")
SCORE = Step("scores", "scores", "Scores", "α′_{ij} = key(x′_j) · query(x′_i)   (LRGC Eq. 2)",
             "How much node i asks for node j, for all pairs. Keys and queries are learnt; before training the "
             "queries, and so all scores, are 0. (The paper writes i for the source.)")
ALPHA = Step("edges", "α", "Edges: α", "α_{ij} = tanh(ReLU(σ(α′_{ij}) − σ(τ)))   (LRGC Eqs. 3, 4)",
             "An edge where the score is above τ, a learnt scalar per layer: −1 before training, when the graph is "
             "full. α grows with the score, so the loss trains the graph; but where σ is saturated, α is constant: a "
             "switch between 0 and tanh(1 − σ(τ)).")
DISTANCE = Step("scores", "distances", "Distances", "d_{ij} = ‖x̂_i − x̂_j‖²,   x̂ = x′ / ‖x′‖",
                "How different the directions of two nodes' features are, for all pairs.")
NEAREST = Step("edges", "k nearest", "Edges: k nearest", "N(i) = every d-th of the k·d sources with the least d_{ij}",
               "Every node reads from its k nearest. Its own distance is 0, so it is one of them. The choice has no "
               "gradient: the loss does not train the graph.")
NEAR = Step("edges", "k nearest", "Edges: k nearest sources",
            "N(i) = every d-th of the k·d sources with the least ‖x̂_i − ŷ_j‖² + P_{ij}",
            "In the first stages of a pyramid a source y is the mean of r × r nodes. P encodes the relative position "
            "of the two.")
GROUPS = Step("edges", "k nearest", "Edges: k nearest in each group",
              "N_g(i) = every d-th of the k·d sources with the least ‖x̂_{ig} − ŷ_{jg}‖²",
              "Every group g of channels has its own neighbours. Between patches of a pyramid, P_{ij} is added.")
SIMILARITY = Step("scores", "similarities", "Similarities",
                  "z_{ij} = (s_{ij} − mean(s)) / std(s),   s_{ij} = −‖x̂_i − x̂_j‖²",
                  "The similarity of two nodes, standardised over all pairs of this image.")
ABOVE = Step("edges", "edges", "Edges: similarity above a threshold", "N(i) = {j : z_{ij} > Φ⁻¹(q)}",
             "An edge wherever the similarity is above a threshold: the number of neighbours depends on the image. q "
             "is fixed and decreases over the layers.")
CHOSEN = Step("edges", "edges", "Edges", "N(i) = constructor(x′)",
              "The constructor decides which nodes each node reads from; in a hypergraph, through which hyperedges.")
PARTS = Step("edges", "partitions", "Partitions and edges",
             "V¹, …, V^κ = k-means(x′);   N(i) = K nearest in i's own partition",
             "Nodes are partitioned by their features; a node reads from the nearest ones in its own partition.")
CENTROIDS = Step("global", "centroids", "Attention between centroids",
                 "z′_i = Σ_j α_{ji} LIN_L(z_j)   (ClusterViG Eqs. 2, 3)",
                 "z, the mean of a partition, attends to the means of all partitions; every node then reads its "
                 "partition's z′.")
RELATIVE = Step("aggregate", "max-relative", "Max-relative", "m_i = max_j α_{ij} (x′_j − x′_i)",
                "For each channel, the largest weighted difference between a source and node i; that source wins. In "
                "LRGC the maximum runs over all j, and an unselected edge counts as 0. In other graphs α is 1 and the "
                "maximum runs over the edges; m_i is 0 for a node without edges.")
UPDATE = Step("update", "update", "Update", "u_i = GELU([x′_i, m_i] W_{update})",
              "A linear layer with 4 heads mixes the node's own features with the aggregate. Each head sees the same "
              "slice of both.")
UPDATE_GLOBAL = Step("update", "update", "Update", "u_i = GELU([x′_i, m_i, z′_i] W_{update})",
                     "A linear layer mixes the node's features, the aggregate and the z′ of its partition.")
RESIDUAL = Step("update", "W_out", "Linear layer out, residual", "y_i = u_i W_{out} + x_i",
                "Back to C features, added to the input of the block.")
FEED = Step("ffn", "FFN", "FFN", "z_i = GELU(y_i W_1) W_2 + y_i   (LRGC Eq. 1)",
            "Two linear layers for every node on its own; no node reads from another. The next layer builds a new "
            "graph from z.")
HEAD = Step("head", "head", "Head", "logits = GELU(mean_i(z_i) W_3) W_4",
            "The mean of all nodes, then two linear layers: one logit per class.")
OTHER_UPDATE = Step("update", "update", "Aggregation and update",
                    "u_i = conv(x′_i, {x′_j : j ∈ N(i)})",
                    "Another graph convolution than ViG's: EdgeConv, GraphSAGE or GIN.")
SCORES = Step("head", "head", "Head", "logit_l = w_l · D_l + b_l + (mean_i(z_i) W + b)_l   (GKGNet Eq. 3, before σ)",
              "Each label is scored by its own node and by the mean of all patches.")
CLASSIFIER = Step("head", "head", "Head", "logits = z W + b",
                  "A linear layer: one logit per class.")
LABELS = Step("head", "labels", "Cross level: labels read from patches", "D_l ← FFN(D_l + Grapher(D_l, patches))",
              "Each label is a node that reads from its nearest patches.")
BACKBONE = Step("stem", "backbone", "Backbone", "X = φ(images)",
                "A ResNet maps each image to one node.")
BIPARTITE = Step("aggregate", "bipartite", "Anchors and proxies", "z_i = ω(x_i, Σ_j α_{ij} v_j)",
                 "An image attends to anchors, which are images of known classes, and to proxies, which are learnt.")
LOCAL = Step("stem", "local", "Local block", "X = X + s · [C → 4C, depthwise 3 × 3, 4C → C]",
             "AdaptViG's blocks without a graph: convolutions only. s, one number per channel, starts at 10⁻⁵.")
GATE = Step("edges", "gate", "Edges: positions, and a learnt gate on the far ones",
            "w_{ij} = 1 or exp(−‖x′_i − x′_j‖₁ / |T|)",
            "Positions fix which nodes may be sources; two near ones count fully. T, a learnt number per layer, sets "
            "how similar far ones must be. It starts at 1, where most gates are closed.")
BY_DETAIL = Step("edges", "by detail", "Edges: more where there is more detail",
                 "N(i) = the k_i with the largest cosine,   k_i = N k X_i / ΣX",
                 "X_i is what node i loses when the grid is downsampled and upsampled: detailed regions get more "
                 "neighbours.")
ATTEND = Step("edges", "attention", "Edges: attention", "a_{ij} = softmax_j(q_i · k_j / √(C/4))",
              "In AdaptViG's last stage every node attends to all.")
ATTENTION = Step("update", "update", "Attention and update",
                 "u_i = GELU([x′_i, Σ_j w_{ij} softmax_j(q_i · k_j / √d) v_j] W_{update})",
                 "Instead of the largest difference, attention over the sources, in 4 heads of d channels. The edge's "
                 "weight w multiplies its message; without weights it is 1.")
ADAPT = Step("update", "update", "Aggregation and update", "u_i = GELU([x′_i, m_i] W_{update})",
             "AdaptViG: m_i = max(0, max_j w_ij (x′_j − x′_i)); in the last stage max(0, Σ_j a_ij v_j − x′_i).")
SCALED_RESIDUAL = Step("update", "W_out", "Linear layer out, scaled residual", "y_i = s · u_i W_{out} + x_i",
                       "Back to C features. s, one number per channel, starts at 10⁻⁵: at first a block is almost the "
                       "identity.")
SCALED_FEED = Step("ffn", "FFN", "FFN", "z_i = s · GELU(y_i W_1) W_2 + y_i",
                   "Two linear layers for every node on its own; s as before.")
