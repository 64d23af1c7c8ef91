"""Make docs/playground.html: a trained lrgc_nano that runs in the page, on scenes, photos and drawings.

    python docs/playground.py runs/lrgc_nano-shapes/best.pt    from the checkpoint of torchrun train.py --model lrgc
    python docs/playground.py                                  the same model, with the scripts and style of now
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from vig_minimal.atomic_files import load, replacing  # noqa: E402
from vig_minimal.look.page.build import build, fill  # noqa: E402
from vig_minimal.look.predict import open_model  # noqa: E402

PAGE = ROOT / "docs" / "playground.html"
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)
TITLE = "See the graph: a Vision GNN runs in this page"
IMAGES = [f"shapes:{number}" for number in (5, 37, 46, 9, 18)]
SCENES = 60  # to choose from by number


def built(checkpoint: str) -> str:
    """The page of a trained model. Raises CheckpointError and ValueError."""
    about = f"trained on synthetic scenes, {load(checkpoint)['best']['top1']:.1f} % validation top-1"
    return build([(open_model(None, checkpoint), about)], IMAGES, TITLE, True, SCENES)


def refreshed(page: str) -> str:
    """The page with the scripts and the style of now, and with its own model and images."""
    return fill(json.loads(DATA.search(page)[1]))


if __name__ == "__main__":
    try:
        page = built(sys.argv[1]) if len(sys.argv) > 1 else refreshed(PAGE.read_text(encoding="utf-8"))
    except ValueError as error:
        sys.exit(f"playground.py: error: {error}")
    with replacing(PAGE, "w") as file:
        file.write(page)
    print(f"wrote {PAGE.relative_to(ROOT)}, {len(page.encode()) / 2**20:.1f} MB")
