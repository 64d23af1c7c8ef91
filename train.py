"""The way in: `torchrun train.py --model lrgc`. The loop is in vig_minimal/train.py, which also runs where the package is
installed: `python -m vig_minimal train`, `torchrun -m vig_minimal.train`.

    torchrun train.py --model lrgc                                    # synthetic scenes, nothing to download
    torchrun --nproc_per_node 8 train.py --model lrgc --data-dir IMAGENET --amp   # a folder with train/ and val/
    python train.py --resume runs/lrgc_nano-shapes/best.pt --eval-only
"""

from vig_minimal.train import main

if __name__ == "__main__":
    main()
