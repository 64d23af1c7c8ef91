"""The published figures of the four papers' tables, and ours beside them: `python -m vig_minimal benchmark --paper`.

Parameters and multiply-adds are counted, throughput is measured on this machine (theirs: an A100). Accuracies are
listed without ours: nothing was trained on the whole of ImageNet or COCO here. docs/results.md has what was.
"""

from collections.abc import Iterator, Sequence

from ...models.cost import count_macs, count_parameters
from ...models.registry import create_model
from .floor import random_images
from .throughput import throughput

# paper and table -> (model, fields, name in the paper, millions of parameters, GMACs, scores)
SIZES = {
    "LRGC, Table 2: ImageNet top-1, top-5": [
        ("lrgc_ti", {}, "ViG-LRGC", 8.1, 1.5, "74.3, 92.3"),
        ("vig_ti", {}, "ViG-Ti", 7.2, 1.3, "70.5, 89.9"),
        ("svig_ti", {}, "SViG-Ti", 7.2, 1.3, "71.9, 90.8")],
    "ClusterViG, Tables III and IV: ImageNet top-1": [
        ("cvig_ti", {}, "CViG-Ti", 11.5, 1.3, "80.3"),
        ("cvig_s", {}, "CViG-S", 28.2, 4.2, "83.7"),
        ("cvig_b", {}, "CViG-B", 104.8, 16.2, "85.6"),
        ("cvig_b_784", {}, "CViG-B†", 105.2, 62.3, "87.2"),
        ("pvig_ti", {}, "PViG-Ti", 10.7, 1.7, "78.2"),
        ("pvig_s", {}, "PViG-S", 27.3, 4.6, "82.1"),
        ("pvig_b", {}, "PViG-B", 92.6, 16.8, "83.7"),
        ("resnet_18", {}, "ResNet18", 11.7, 1.82, "69.7")],
    "GKGNet, Table 1: COCO mAP, CF1, OF1, top-3 CF1, OF1": [
        ("gkgnet_s", {"img_size": 224}, "GKGNet 224 × 224", 33.3, 5.2, "82.0, 77.1, 79.6, 73.7, 76.1"),
        ("gkgnet_s", {"img_size": 448}, "GKGNet 448 × 448", 34.0, 21.9, "86.7, 81.5, 83.3, 77.0, 78.8"),
        ("gkgnet_s", {"img_size": 576}, "GKGNet 576 × 576", 34.7, 40.1, "87.7, 82.5, 84.2, 77.6, 79.3")],
}
# CNN2GNN's tables have accuracies alone -> (table, data, model, theirs)
SCORES = [
    ("1", "CIFAR-10", ("cnn2mean_resnet18", "cnn2max_resnet18", "cnn2mean_resnet34", "cnn2max_resnet34"),
     ("92.64", "92.79", "92.82", "92.90")),
    *(("2", "CIFAR-10, CIFAR-100, STL-10, SVHN, ImageNet", (name,), (scores,)) for name, scores in (
        ("resnet_18", "94.07, 76.95, 95.38, 95.29, 69.42"),
        ("cnn2gnn_resnet18", "95.51 ± 0.42, 74.80 ± 0.81, 95.70 ± 0.20, 96.62 ± 0.55, 60.12 ± 1.02"),
        ("cnn2transformer_resnet18", "95.79 ± 0.24, 77.39 ± 0.20, 95.74 ± 0.19, 96.35 ± 0.22, 71.12 ± 0.35"),
        ("resnet_34", "95.24, 79.32, 95.89, 95.56, 73.03"),
        ("cnn2gnn_resnet34", "96.39 ± 0.41, 77.87 ± 0.91, 96.89 ± 0.26, 97.01 ± 0.31, 61.02 ± 0.77"),
        ("cnn2transformer_resnet34", "96.73 ± 0.37, 80.10 ± 0.45, 97.21 ± 0.19, 96.54 ± 0.07, 75.42 ± 0.15"))),
    ("3", "without the image itself: CIFAR-10, SVHN, CIFAR-100", ("cnn2gnn_resnet34", "cnn2transformer_resnet34"),
     ("96.21, 96.49, 79.63", "96.82, 97.10, 81.49")),
]
# ClusterViG, Table VI: images per second on an A100; None is out of memory
BATCHES = (1, 8, 16, 32, 64, 128, 256, 512)
SPEEDS = {
    "pvig_ti": (28.4, 241.7, 480.2, 966.1, 1063.6, 993.0, 956.9, 913.9),
    "pvig_s": (28.2, 233.9, 476.4, 622.5, 580.4, 552.6, 526.2, 507.3),
    "pvig_b": (15.3, 124.4, 245.1, 236.0, 224.9, 213.0, 199.4, None),
    "cvig_ti": (36.3, 408.7, 614.4, 1529.1, 2532.7, 3497.6, 4207.0, 4938.8),
    "cvig_s": (45.1, 394.7, 628.3, 1207.5, 1728.9, 2060.4, 2151.0, 1857.0),
    "cvig_b": (23.8, 198.0, 318.5, 670.0, 864.2, 961.9, 869.2, 758.5),
    "cvig_b_784": (17.9, 91.4, 144.4, 206.9, 191.4, 159.9, 151.4, 156.2),
}


def sizes() -> Iterator[str]:
    """Yield the tables of parameters and multiply-adds, line by line, each figure as theirs, ours and the ratio."""
    for title, models in SIZES.items():
        yield from (f"\n{title}\n", "| model | parameters (M): theirs | ours | ratio | GMACs: theirs | ours | ratio |"
                                    " scores: theirs |", "|---|" + "---:|" * 7)
        for name, fields, theirs, parameters, gmacs, scores in models:
            model = create_model(name, **fields).eval()
            ours = count_parameters(model) / 1e6, count_macs(model, random_images(model, 1, "cpu")) / 1e9
            yield (f"| {theirs}: `{name}` | {parameters:g} | {ours[0]:.2f} | {ours[0] / parameters:.3f} | {gmacs:g} |"
                   f" {ours[1]:.2f} | {ours[1] / gmacs:.3f} | {scores} |")


def scores() -> Iterator[str]:
    """Yield the table of accuracies that have no figure of ours, line by line."""
    yield from ("\nCNN2GNN, Tables 1 to 3: accuracy in percent; not trained here\n",
                "| table | data | model | theirs |", "|---|---|---|---:|")
    for table, data, names, theirs in SCORES:
        yield from (f"| {table} | {data} | `{name}` | {score} |" for name, score in zip(names, theirs, strict=True))


def speeds(batches: Sequence[int], *settings) -> Iterator[str]:
    """Yield the table of throughput, line by line. batches: those of the published table that are measured here.
    settings: as for `throughput`."""
    chosen = [batch for batch in BATCHES if batch in batches]
    yield from ("\nClusterViG, Table VI: images per second, theirs on an A100 / ours here = ratio\n",
                "| model | " + " | ".join(f"b = {batch}" for batch in chosen) + " |", "|---|" + "---:|" * len(chosen))
    for name, published in SPEEDS.items():
        measured = throughput([name], chosen, *settings)[name]
        cells = []
        for batch, ours in zip(chosen, measured, strict=True):
            theirs = published[BATCHES.index(batch)]
            ratio = f" = {ours[0] / theirs:.4f}" if theirs and ours else ""
            cells.append(f"{theirs or '-'} / {f'{ours[0]:.1f}' if ours else '-'}{ratio}")
        yield f"| {name} | {' | '.join(cells)} |"
