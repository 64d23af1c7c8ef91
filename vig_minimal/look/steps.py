"""The steps of the models as `explain` shows them: equation, and why, in a sentence or two; i: target, j: source."""

from typing import NamedTuple


class Step(NamedTuple):
    """One step of a model: what is computed, as an equation, and why, in a sentence or two."""

    key: str       # the step's place in `image → stem → … → head`
    short: str     # its name there
    title: str
    equation: str  # x_i is x with the index i; α′_{ij} has two
    says: str


STEM = Step("stem", "stem", "Stem", "X = stem(image) + P",
            "Convolutions turn every patch of the image into C numbers. P, the learnt position embedding, tells "
            "patches apart by their place. From here on a patch is a node.")
DOWN = Step("stem", "next stage", "Next stage", "X = conv(X)",
            "A convolution of stride 2 halves the grid: a patch now covers twice the height and width.")
CPE = Step("in", "CPE", "Place from the surroundings", "X = CPE(X) + X",
           "A 7 × 7 convolution of every channel by itself tells a node where it is.")
W_IN = Step("in", "W_in", "Linear layer in", "x′_i = x_i W_{in}",
            "The same linear layer on every node. The graph is made from x′, so that a block can choose by other "
            "features than those it passes on.")
SCORE = Step("scores", "scores", "Scores",
             "α′_{ij} = key(x′_j) · query(x′_i)   (LRGC Eq. 2)",
             "How much node i asks for node j, for all pairs of nodes. Keys and queries are learnt; before training "
             "the queries are 0, and every score with them. (The paper prints i for the source.)")
ALPHA = Step("edges", "α", "Edges: α",
             "α_{ij} = tanh(ReLU(σ(α′_{ij}) − σ(τ)))   (LRGC Eqs. 3, 4)",
             "An edge where the score is above τ, which is learnt too: one number a layer, −1 before training, when "
             "every node reads from all. α, the edge's weight, grows with the score, so the loss teaches the graph.")
DISTANCE = Step("scores", "distances", "Distances",
                "d_{ij} = ‖x̂_i − x̂_j‖²,   x̂ = x′ / ‖x′‖",
                "How different the directions of two nodes' features are, for all pairs of nodes.")
NEAREST = Step("edges", "k nearest", "Edges: k nearest",
               "N(i) = every d-th of the k·d sources with the least d_{ij}",
               "Every node reads from its k nearest, whether they matter or not. Its own distance is 0, so it is one "
               "of the k. The choice carries no gradient: nothing teaches the graph.")
NEAR = Step("edges", "k nearest", "Edges: k nearest sources",
            "N(i) = every d-th of the k·d sources with the least ‖x̂_i − ŷ_j‖² + P_{ij}",
            "In the first stages of a pyramid a source y is the mean of r × r nodes. P depends on the places of both.")
GROUPS = Step("edges", "k nearest", "Edges: k nearest in each group",
              "N_g(i) = every d-th of the k·d sources with the least ‖x̂_{ig} − ŷ_{jg}‖²",
              "Every group g of channels has neighbours of its own. Between patches of a pyramid, P_{ij} is added.")
SIMILARITY = Step("scores", "similarities", "Similarities",
                  "z_{ij} = (s_{ij} − mean(s)) / std(s),   s_{ij} = −‖x̂_i − x̂_j‖²",
                  "How similar two nodes are, compared with all pairs of this image.")
ABOVE = Step("edges", "edges", "Edges: the similar ones", "N(i) = {j : z_{ij} > Φ⁻¹(q)}",
             "An edge wherever the similarity is above a threshold, so the number of neighbours follows the image. q "
             "is fixed and falls over the layers.")
CHOSEN = Step("edges", "edges", "Edges", "N(i) = constructor(x′)",
              "The constructor says which nodes every node reads from; in a hypergraph, through which hyperedges.")
PARTS = Step("edges", "partitions", "Partitions and edges",
             "V¹, …, V^κ = k-means(x′);   N(i) = K nearest in i's own partition",
             "Nodes are partitioned by their features; a node reads from its nearest in its own partition alone.")
CENTROIDS = Step("global", "centroids", "Attention between centroids",
                 "z′_i = Σ_j α_{ji} LIN_L(z_j)   (ClusterViG Eqs. 2, 3)",
                 "z, the mean of a partition, reads from the means of all partitions; every node then reads from its "
                 "partition's z′.")
RELATIVE = Step("aggregate", "max-relative", "Max-relative",
                "m_i = max_j α_{ij} (x′_j − x′_i)",
                "For each channel, m_i is the largest weighted difference between a source and node i; the source that "
                "gives it wins. In LRGC the maximum runs over all j, and an edge that is not selected counts as 0. In "
                "other graphs α is 1 and the maximum runs over the edges alone; m_i is 0 for a node without edges.")
UPDATE = Step("update", "update", "Update", "u_i = GELU([x′_i, m_i] W_{update})",
              "A linear layer of 4 heads mixes what a node is with what it has read. A head sees the same slice of "
              "both.")
UPDATE_GLOBAL = Step("update", "update", "Update",
                     "u_i = GELU([x′_i, m_i, z′_i] W_{update})",
                     "A linear layer mixes what a node is, what it has read, and the z′ of its partition.")
RESIDUAL = Step("update", "W_out", "Linear layer out, residual", "y_i = u_i W_{out} + x_i",
                "Back to C numbers, added to what the block began with.")
FEED = Step("ffn", "FFN", "FFN",
            "z_i = GELU(y_i W_1) W_2 + y_i   (LRGC Eq. 1)",
            "Two linear layers on every node by itself; no node reads from another here. The next layer makes a new "
            "graph from z.")
HEAD = Step("head", "head", "Head", "logits = GELU(mean_i(z_i) W_3) W_4",
            "The mean of all nodes, then two linear layers: one number a class.")
OTHER_UPDATE = Step("update", "update", "Aggregation and update",
                    "u_i = conv(x′_i, {x′_j : j ∈ N(i)})",
                    "Another graph convolution than ViG's: EdgeConv, GraphSAGE or GIN.")
SCORES = Step("head", "head", "Head",
              "logit_l = w_l · D_l + b_l + (mean_i(z_i) W + b)_l   (GKGNet Eq. 3, before σ)",
              "Every label is scored by its own node, and by the mean of all patches.")
CLASSIFIER = Step("head", "head", "Head", "logits = z W + b",
                  "A linear layer: one number a class.")
LABELS = Step("head", "labels", "Cross level: labels read from patches",
              "D_l ← FFN(D_l + Grapher(D_l, patches))",
              "Every label is a node, and reads from the patches nearest to it.")
BACKBONE = Step("stem", "backbone", "Backbone", "X = φ(images)",
                "A ResNet turns every image into one node.")
BIPARTITE = Step("aggregate", "bipartite", "Anchors and proxies", "z_i = ω(x_i, Σ_j α_{ij} v_j)",
                 "An image reads from anchors, images of known classes, and from proxies, which are learnt.")
LOCAL = Step("stem", "local", "Local block", "X = X + s · [C → 4C, depthwise 3 × 3, 4C → C]",
             "AdaptViG's blocks without a graph: convolutions alone. s, one number a channel, starts at 10⁻⁵.")
GATE = Step("edges", "gate", "Edges: places, and a learnt gate on the far ones",
            "w_{ij} = 1 or exp(−‖x′_i − x′_j‖₁ / |T|)",
            "Which nodes may be sources is fixed by places; two near ones count fully. T, one learnt number a layer, "
            "says how alike far ones must be. It starts at 1, where most gates are closed.")
BY_DETAIL = Step("edges", "by detail", "Edges: as many as there is detail",
                 "N(i) = the k_i with the largest cosine,   k_i = N k X_i / ΣX",
                 "X_i is what node i loses when the grid is halved and restored: busy places read from more nodes.")
ATTEND = Step("edges", "attention", "Edges: attention", "a_{ij} = softmax_j(q_i · k_j / √(C/4))",
              "In AdaptViG's last stage every node reads from all.")
ATTENTION = Step("update", "update", "Attention and update",
                 "u_i = GELU([x′_i, Σ_j w_{ij} softmax_j(q_i · k_j / √d) v_j] W_{update})",
                 "Instead of taking the largest difference, a node attends to its sources, in 4 heads of d channels. "
                 "An edge's weight w multiplies its message; it is 1 where edges have none.")
ADAPT = Step("update", "update", "Aggregation and update", "u_i = GELU([x′_i, m_i] W_{update})",
             "AdaptViG: m_i = max(0, max_j w_ij (x′_j − x′_i)); in the last stage max(0, Σ_j a_ij v_j − x′_i).")
SCALED_RESIDUAL = Step("update", "W_out", "Linear layer out, scaled residual", "y_i = s · u_i W_{out} + x_i",
                       "Back to C numbers. s, one number a channel, starts at 10⁻⁵: a block starts as nearly nothing.")
SCALED_FEED = Step("ffn", "FFN", "FFN", "z_i = s · GELU(y_i W_1) W_2 + y_i",
                   "Two linear layers on every node by itself; s as before.")
