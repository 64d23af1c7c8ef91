"""Draw CNN2GNN's attention from classes of images to classes of anchors and proxies, or all its embeddings.

Attention (the paper's Figures 5 and 6): entry (i, j) is the mean attention of validation images of class i to the
proxies, or to the anchors, of class j. Darker = more; each row sums to 1.
With --embeddings (Figure 4): images are dots, anchors crosses, proxies triangles, all L2-normalised and projected on
the two directions in which the embeddings of that checkpoint vary most. Give several checkpoints to see them move:
`train.py --keep-every N` keeps those of epochs 0, N, 2N, …
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ..data.augment import normalise
from ..data.datasets import DATA_SETS, Data, open_data
from ..data.loading import PreparedImages, checked
from .chart import Series, draw_legend
from .command import Opened, Parser, open_model, save_picture
from .panels import FINE, FONT, colours, enlarged, sheet, shorten

SIDE = 360  # of a matrix or a scatter plot, in pixels
NAMES = 84  # room for the names of classes
MOST_NAMED = 24  # classes that are named along an axis; of more, every second, third, …


def validation(opened: Opened, data: Data, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised validation images (b, 3, H, W) and labels (b,): the first `limit` of a fixed random order.

    Raises ValueError if the data's classes are not the checkpoint's.
    """
    if data.multi_label or data.classes != opened.classes:
        raise ValueError(f"the checkpoint is for {len(opened.classes)} classes ({', '.join(opened.classes[:5])}…), and"
                         f" {data.name} has others or several an image; give the data it was trained on")
    images = PreparedImages(data.val, opened.model.config.img_size, 1.0)
    order = torch.randperm(len(data.val), generator=torch.Generator().manual_seed(0))[:limit]
    for part in order.split(128):
        batch = next(checked([images.__getitems__([(0, index, 0) for index in part.tolist()])]))
        yield normalise(batch.images, opened.mean, opened.std), batch.labels


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


def draw_matrix(matrix: Tensor, classes: Sequence[str]) -> Image.Image:
    """Draw a matrix: white cells at 0, dark ones at its largest value, the names of classes at both axes."""
    cells = (matrix / matrix.max().clamp(min=1e-12)).numpy()[..., None]
    pixels = (1 - cells) * 255 + cells * np.array([0, 60, 120])
    cell = max(1, SIDE // len(classes))
    heat = Image.fromarray(pixels.astype(np.uint8)).resize(2 * (cell * len(classes),), Image.Resampling.NEAREST)
    page = Image.new("RGB", (heat.width + NAMES, heat.height + NAMES), "white")
    page.paste(heat, (NAMES, NAMES))
    sideways = Image.new("RGB", (NAMES, heat.width), "white")  # the columns' names, the last on top; rotated below
    every = -(-len(classes) // MOST_NAMED)
    for i, name in list(enumerate(classes))[::every]:
        text, middle = shorten(name, FONT, NAMES - 8), round((i + 0.5) * cell)
        ImageDraw.Draw(page).text((NAMES - 4, NAMES + middle), text, "black", FONT, anchor="rm")
        ImageDraw.Draw(sideways).text((NAMES - 4, heat.width - 1 - middle), text, "black", FONT, anchor="rm")
    page.paste(sideways.rotate(-90, expand=True), (NAMES, 0))
    ImageDraw.Draw(page).rectangle((NAMES, NAMES, page.width - 1, page.height - 1), outline="#777777")
    return page


def draw_embeddings(places: Tensor, labels: Tensor, kinds: Tensor, classes: int) -> Image.Image:
    """Draw what `embeddings` returns: dots, above them crosses and triangles, one colour for each class."""
    page, palette = Image.new("RGB", (SIDE, SIDE), "white"), colours(classes)
    places = places - places.amin(0)
    places = FINE * (12 + (SIDE - 24) * places / places.max().clamp(min=1e-12))
    with enlarged(page, 0, 0, SIDE, SIDE) as box:
        for i in kinds.argsort(stable=True).tolist():
            (x, y), kind, colour = places[i].tolist(), int(kinds[i]), palette[labels[i]]
            r = FINE * (2, 6, 7)[kind]
            if kind == 0:
                box.ellipse((x - r, y - r, x + r, y + r), colour)
            elif kind == 1:
                for line, width in (("white", 5 * FINE), (colour, 3 * FINE)):
                    box.line((x - r, y - r, x + r, y + r), line, width)
                    box.line((x - r, y + r, x + r, y - r), line, width)
            else:
                box.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], colour, "black", FINE)
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
            opened = open_model(None, path)
            if not hasattr(opened.model, "proxies"):
                raise ValueError(f"{path}: {opened.name} has no anchors and proxies; give one of cnn2gnn or"
                                 " cnn2transformer")
            name = args.data or ("imagefolder" if args.data_dir else "shapes")
            data = open_data(name, args.data_dir, opened.model.config.img_size, None, opened.seed)
            batches = validation(opened, data, args.limit)
            if args.embeddings:
                panels.append(draw_embeddings(*embeddings(opened.model, batches), len(opened.classes)))
                captions.append(f"{path}\ndots: images, crosses: anchors, triangles: proxies")
                continue
            for kind, matrix in zip(("proxies", "anchors"), attention_by_class(opened.model, batches), strict=True):
                own = 100 * matrix.diagonal().mean().item()
                first = 100 * (matrix.argmax(1) == torch.arange(len(matrix))).float().mean().item()
                panels.append(draw_matrix(matrix, opened.classes))
                captions.append(f"{opened.name}: from images of a class (rows) to {kind} (columns)\n"
                                f"{own:.1f} % to their own class, the most in {first:.0f} % of classes")
                print(f"{path}: {kind}: {own:.1f} % of attention goes to the own class, which gets the most of all in"
                      f" {first:.0f} % of classes")
        if args.embeddings:
            entries = [Series(name, [], colour) for name, colour in zip(opened.classes, colours(len(opened.classes)))]
            panels.append(Image.new("RGB", (SIDE, max(SIDE, 20 * len(entries))), "white"))
            draw_legend(panels[-1], 4, 4, entries, NAMES + 44)
            captions.append("")
        save_picture(sheet(panels, captions, columns=len(panels) if args.embeddings else 2), args.out)
