"""Draw docs/three_scenes.png: three synthetic scenes, the prediction of a trained model, and one of its graphs.

    python docs/three_scenes.py runs/lrgc_nano-shapes/best.pt    from the checkpoint of torchrun train.py --model lrgc
"""

import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from vig_minimal.look.explore_layers import layers_of  # noqa: E402
from vig_minimal.look.panels import draw_sources, patch_box, picture, sheet  # noqa: E402
from vig_minimal.look.patch_sources import TARGET, frame, scale_of, source_entry  # noqa: E402
from vig_minimal.look.predict import named, open_image, open_model, probabilities  # noqa: E402

SCENES = {5: (4, 2), 37: (4, 2), 46: (4, 5)}  # number of the scene, row and column of the target patch
LAYER = 2
PANEL = 128  # six panels beside one another are as wide as GitHub shows a README


def main(checkpoint: str) -> None:
    """Write the picture."""
    model = open_model(None, checkpoint)
    rows = []
    for scene, node in SCENES.items():
        image = open_image(f"shapes:{scene}", model.transform, "single")
        scores, graphs = probabilities(model, image[None], return_graphs=True)
        [(name, share)] = named(model, scores[0], top=1, threshold=0)
        layer = layers_of(model.config, graphs)[LAYER]
        rows.append((picture(image, PANEL), f"{name} {share:.2f}", layer, node))
    heaviest = scale_of([layer.row(node) for _, _, layer, node in rows])
    panels, captions = [], []
    for plain, prediction, layer, node in rows:
        weights = layer.row(node)  # (M,)
        sources = draw_sources(plain, layer.spread(weights, layer.grid), heaviest)
        frame(sources, patch_box(plain, layer.grid, *node))
        panels += [plain, sources]
        captions += [prediction, f"{int((weights != 0).sum())} neighbours"]
    out = ROOT / "docs" / "three_scenes.png"
    sheet(panels, captions, 6, "", [TARGET, source_entry(heaviest)]).quantize(128).save(out, optimize=True)
    print(f"wrote {out.relative_to(ROOT)}, {out.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
