"""Draw docs/three_scenes.png: three synthetic scenes, what a trained model predicts, and the graphs of three layers.

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
LAYERS = (0, 2, 5)
PANEL = 192  # four panels beside one another are as wide as GitHub shows a README


def main(checkpoint: str) -> None:
    """Write the picture."""
    model = open_model(None, checkpoint)
    rows = []
    for scene, node in SCENES.items():
        image = open_image(f"shapes:{scene}", model.transform, "single")
        scores, graphs = probabilities(model, image[None], return_graphs=True)
        [(name, share)] = named(model, scores[0], top=1, threshold=0)
        layers = [layers_of(model.config, graphs)[number] for number in LAYERS]
        rows.append((picture(image, PANEL), f"prediction: {name}, {share:.2f}", layers, node))
    heaviest = scale_of([layer.row(node) for _, _, layers, node in rows for layer in layers])
    panels, captions = [], []
    for plain, answer, layers, node in rows:
        panels.append(plain)
        captions.append(answer)
        for layer in layers:
            weights = layer.row(node)  # (M,)
            panels.append(draw_sources(plain, layer.spread(weights, layer.grid), heaviest))
            frame(panels[-1], patch_box(plain, layer.grid, *node))
            captions.append(f"{layer.name}: {int((weights != 0).sum())} neighbours")
    out = ROOT / "docs" / "three_scenes.png"
    sheet(panels, captions, 4, "", [TARGET, source_entry(heaviest)]).quantize(128).save(out, optimize=True)
    print(f"wrote {out.relative_to(ROOT)}, {out.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
