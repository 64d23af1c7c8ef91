"""`python -m vig_minimal COMMAND …`: train, predict, inspect and measure."""

import importlib
import sys

from .streams import prepare, unheard

# command -> module, seen from vig_minimal.look, with a `main(argv)`, and its line in the list
COMMANDS = {
    "train": (".train", "train or evaluate a model, as train.py does"),
    "learn": (".learn.command", "learn Vision GNNs by writing them: twelve lessons, each with a check"),
    "predict": ("predict", "classify images: files or whole folders"),
    "explore": ("explore", "draw the graph over an image: what a patch or a label reads from; or a page (--html)"),
    "explain": ("explain", "print every step of a model: equation, symbol, shape, range, and where it is computed"),
    "attention": ("attention", "draw CNN2GNN's attention between classes, or its embeddings"),
    "compare": ("compare.command", "train variants (graphs, convolutions, any field) alike, and compare them"),
    "plot": ("plot", "draw loss, accuracy, neighbours and learning rate of one or several runs"),
    "augment": ("augment_sheet", "draw every augmentation of one image"),
    "scenes": ("scene_sheet", "draw the synthetic scenes, or measure a linear classifier on them"),
    "pack": ("pack", "make a trained model of the package from a run's best.pt"),
    "benchmark": ("benchmark.command", "measure time and memory relative to the same network without a graph"),
}


def main(argv: list[str] | None = None) -> None:
    """Run a command, or list them all."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python -m vig_minimal COMMAND …   (each command has --help)\n")
        print("\n".join(f"  {name:10} {line}" for name, (_, line) in COMMANDS.items()))
        return
    if argv[0] not in COMMANDS:
        from .look.command import fail
        fail("vig_minimal", f"unknown command {argv[0]!r}; choose one of {', '.join(COMMANDS)}")
    module, _ = COMMANDS[argv[0]]
    importlib.import_module(f".{module}", "vig_minimal.look").main(argv[1:])


if __name__ == "__main__":
    prepare()
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # as of `explain | head`: what is left to print goes nowhere
        unheard()
        sys.exit(141)  # as a shell reports a command that ended so
