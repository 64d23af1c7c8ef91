"""Draw CNN2GNN's attention between classes, or its embeddings.

Attention (the paper's Figures 5 and 6): entry (i, j) is the mean attention of validation images of class i to the
proxies, or to the anchors, of class j. Darker = more; each row sums to 1.
--embeddings (Figure 4): images, anchors and proxies, L2-normalised and projected on the first two principal components
of that checkpoint. Several checkpoints show training: `train.py --keep-every N` keeps those of epochs 0, N, 2N, …
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.utils.data import Subset

from ..data.augment import normalise
from ..data.datasets import DATA_SETS, WITH_BOXES, Data, open_data
from ..data.loading import PreparedImages, loader, validation_order
from .command import Parser, save_picture
from .confusion import SIDE, draw_matrix
from .panels import FINE, SWATCH, colours, enlarged, sheet
from .predict import load


def validation(model: nn.Module, data: Data, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised validation images (b, 3, H, W) and labels (b,): the first `limit` of a fixed random order.

    Raises ValueError if the data's classes are not the checkpoint's.
    """
    if data.multi_label or data.name in WITH_BOXES or data.classes != model.classes:
        raise ValueError(f"the checkpoint is for {len(model.classes)} classes ({', '.join(model.classes[:5])}…), and"
                         f" {data.name} has others or several an image; give the data it was trained on")
    order = torch.randperm(len(data.val), generator=torch.Generator().manual_seed(0))[:limit]
    images = PreparedImages(Subset(data.val, order.tolist()), model.transform.size, model.transform.eval_crop)
    for batch in loader(images, validation_order(len(order), 128), workers=0):
        yield normalise(batch.images, model.transform.mean, model.transform.std), batch.labels


@torch.no_grad()
def attention_by_class(model, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean attention of images of class i to the proxies and to the anchors of class j: two (classes, classes).

    Rows sum to 1, or to 0 for a class without images.
    """
    classes, config = model.config.num_classes, model.config
    total, count = torch.zeros(classes, len(model.anchors) + len(model.proxies)), torch.zeros(classes)
    for images, labels in batches:
        _, [graph] = model(images, return_graphs=True)
        total.index_add_(0, labels, graph.weights[0].float())
        count.index_add_(0, labels, torch.ones(len(labels)))
    anchors, proxies = (total / count.clamp(min=1)[:, None]).split((len(model.anchors), len(model.proxies)), 1)
    return (proxies.unflatten(1, (classes, config.proxies_per_class)).sum(2),
            anchors.unflatten(1, (classes, config.anchors_per_class)).sum(2))


@torch.no_grad()
def embeddings(model, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """All embeddings in two dimensions (n, 2), their labels (n,) and kinds (n,): 0 images, 1 anchors, 2 proxies."""
    parts = [(model.backbone(images), labels, 0) for images, labels in batches]
    parts += [(model.anchors, model.labels(model.config.anchors_per_class), 1),
              (model.proxies, model.labels(model.config.proxies_per_class), 2)]
    x = F.normalize(torch.cat([part for part, _, _ in parts]).double(), dim=-1)
    kinds = torch.cat([torch.full((len(part),), kind) for part, _, kind in parts])
    torch.manual_seed(0)  # pca_lowrank draws
    _, _, directions = torch.pca_lowrank(x, q=2)
    directions = directions * directions.sum(0).sign()  # else a picture might be mirrored by chance
    return (x - x.mean(0)) @ directions, torch.cat([labels for _, labels, _ in parts]), kinds


KINDS = "images", "anchors", "proxies"
RADII = 2, 6, 7  # of their marks, in pixels


def mark(box: ImageDraw.ImageDraw, x: float, y: float, kind: int, colour: str, radius: float) -> None:
    """Draw a dot for an image, a cross for an anchor, a triangle for a proxy; all lengths in fine pixels."""
    r = radius
    if kind == 0:
        box.ellipse((x - r, y - r, x + r, y + r), colour)
    elif kind == 1:
        for line, width in (("white", 5 * FINE), (colour, 3 * FINE)):
            box.line((x - r, y - r, x + r, y + r), line, width)
            box.line((x - r, y + r, x + r, y - r), line, width)
    else:
        box.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], colour, "black", FINE)


def legend_of(classes: Sequence[str]) -> list[tuple[Image.Image, str]]:
    """Return the entries of the legend: the mark of each kind, then the colour of each class."""
    entries = []
    for kind, colour, text in [*((kind, "#777777", text) for kind, text in enumerate(KINDS)),
                               *((0, *pair) for pair in zip(colours(len(classes)), classes))]:
        swatch, middle = Image.new("RGB", (SWATCH + 2, SWATCH + 2), "white"), FINE * (SWATCH + 2) / 2
        with enlarged(swatch, 0, 0, *swatch.size) as box:
            mark(box, middle, middle, kind, colour, FINE * (RADII[kind] if len(entries) < len(KINDS) else 5))
        entries.append((swatch, text))
    return entries


def draw_embeddings(places: Tensor, labels: Tensor, kinds: Tensor, classes: int) -> Image.Image:
    """Draw what `embeddings` returns: dots, above them crosses and triangles, one colour for each class."""
    page, palette = Image.new("RGB", (SIDE, SIDE), "white"), colours(classes)
    places = places - places.amin(0)
    places = FINE * (12 + (SIDE - 24) * places / places.max().clamp(min=1e-12))
    with enlarged(page, 0, 0, SIDE, SIDE) as box:
        for i in kinds.argsort(stable=True).tolist():
            mark(box, *places[i].tolist(), int(kinds[i]), palette[labels[i]], FINE * RADII[kinds[i]])
    ImageDraw.Draw(page).rectangle((0, 0, SIDE - 1, SIDE - 1), outline="#777777")
    return page


def main(argv: list[str] | None = None) -> None:
    """Run `python -m vig_minimal attention`."""
    parser = Parser("attention", __doc__, "runs/cnn2transformer_nano-shapes/best.pt --data shapes --out attention.png")
    add = parser.add_argument
    add("checkpoints", nargs="+", metavar="CHECKPOINT", help="of CNN2GNN or CNN2Transformer, by train.py")
    add("--data", metavar="NAME", help=f"one of {', '.join(DATA_SETS)} (default: imagefolder with --data-dir, else"
                                       " shapes)")
    add("--data-dir", metavar="DIR", help="as for train.py")
    add("--limit", type=int, default=2000, metavar="N", help="validation images (default 2000)")
    add("--embeddings", action="store_true", help="draw embeddings in two dimensions, not attention")
    parser.add_out("attention.png")
    args = parser.parse_args(argv)
    if args.limit < 1:
        parser.error(f"--limit {args.limit}: at least 1 image")
    panels, captions = [], []
    with parser.errors_in_one_sentence():
        for path in args.checkpoints:
            model = load(path)
            if not hasattr(model, "proxies"):
                raise ValueError(f"{path}: {model.name} has no anchors and proxies; give one of cnn2gnn or"
                                 " cnn2transformer")
            name = args.data or ("imagefolder" if args.data_dir else "shapes")
            data = open_data(name, args.data_dir, model.config.img_size, None, model.seed)
            batches = validation(model, data, args.limit)
            if args.embeddings:
                panels.append(draw_embeddings(*embeddings(model, batches), len(model.classes)))
                captions.append(path)
                continue
            for kind, matrix in zip(("proxies", "anchors"), attention_by_class(model, batches), strict=True):
                own = 100 * matrix.diagonal().mean().item()
                first = 100 * (matrix.argmax(1) == torch.arange(len(matrix))).float().mean().item()
                panels.append(draw_matrix(matrix, model.classes))
                captions.append(f"{model.name}: from images of a class (rows) to {kind} (columns)\n"
                                f"{own:.1f} % to their own class, the most in {first:.0f} % of classes")
                print(f"{path}: {kind}: {own:.1f} % of attention goes to the own class, which gets the most of all in"
                      f" {first:.0f} % of classes")
        columns, entries = (len(panels), legend_of(model.classes)) if args.embeddings else (2, ())
        save_picture(sheet(panels, captions, columns, "", entries), args.out)
