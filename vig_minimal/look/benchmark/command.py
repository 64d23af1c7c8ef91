"""Measure the cost of the graph, as a ratio to the same network without one: time, memory, parameters.

    python -m vig_minimal benchmark vig_ti --set graph=svga    # another graph, or any other field of the config
    python -m vig_minimal benchmark lrgc_ti --compile      # through torch.compile
    python -m vig_minimal benchmark lrgc_ti --profile      # where its time goes, and what each part could take
    python -m vig_minimal benchmark lrgc_ti --memory --batch 64
    python -m vig_minimal benchmark --graphs               # every constructor alone, as the number of nodes grows
    python -m vig_minimal benchmark --paper                # the papers' own figures beside ours
    python -m vig_minimal benchmark --throughput cvig_ti vig_ti --batches 1 8 16 32 64 --out throughput.png

The *floor* of a model is its own stem, linear layers, norms, activations and head with nothing between them: no
constructor, and the aggregate replaced by the features themselves. Model and floor take turns in one run, and the
median counts, so a ratio holds on any machine; milliseconds hold on this one only.

--profile lists every operation of each function of the project, its time, and its limit: the least time that this
machine's peak multiply-adds or bytes per second allow. --memory counts what a training step of --batch images holds,
and with --measure runs one, in a process of its own.

--graphs takes one block of vig_ti with each constructor: milliseconds an image to build its graph, their share of the
block's evaluation (building, aggregation, linear layers), and the peak of memory of the block in MiB for --batch
images. It draws the times.

--throughput measures and draws images per second and memory against the batch, as in ClusterViG's Table VI and
Figure 5. Each figure comes from a process of its own, which holds nothing else. A process that dies counts as out of
memory, for which Linux kills it: `-`, for all larger batches too.
"""

import itertools
from collections.abc import Sequence

import torch

from ...models.checks import check_compiler
from ...models.registry import CONFIGS, create_model, list_models
from ...training.config import read_field
from ..command import Parser
from .floor import print_ratios
from .graph_cost import print_graphs
from .memory import print_memory
from .paper import scores, sizes, speeds
from .profile import print_profile
from .throughput import print_throughput


def main(argv: Sequence[str] | None = None) -> None:
    """Run `python -m vig_minimal benchmark`."""
    parser = Parser("benchmark", __doc__, "vig_ti svig_ti lrgc_ti")
    add = parser.add_argument
    add("models", nargs="*", default=["vig_ti", "svig_ti", "lrgc_ti", "cvig_ti", "pvig_ti", "gkgnet_s"],
        help="names from list_models()")
    add("--throughput", nargs="+", metavar="MODEL", help="images/s and memory of these for each of --batches instead")
    add("--batches", type=int, nargs="+", default=[1, 8, 16, 32, 64], metavar="N", help="for --throughput")
    parser.add_out(None, "the picture of --throughput (default throughput.png) or --graphs (default graphs.png)")
    add("--amp", action="store_true", help="--throughput in bfloat16")
    add("--graphs", action="store_true", help="time and memory of every constructor against the nodes instead")
    add("--grids", type=int, nargs="+", default=[14, 28, 42, 56], metavar="G", help="for --graphs: G² nodes")
    add("--paper", action="store_true", help="the figures of the papers' tables instead, and ours beside them")
    add("--profile", action="store_true", help="where each model's time goes instead, beside what each part could take")
    add("--memory", action="store_true", help="memory of a training step instead")
    add("--measure", action="store_true", help="--memory: also run a step of --batch images")
    add("--batch", type=int, default=8, metavar="N", help="images a batch (default 8)")
    add("--rounds", type=int, default=5, metavar="N", help="timed rounds (default 5)")
    add("--threads", type=int, default=2, metavar="N", help="CPU threads (default 2)")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="field of the models' configs: graph=svga")
    add("--img-size", type=int, metavar="PX", help="instead of each model's own")
    add("--device", default="cpu", choices=("cpu", "cuda"), help="cpu (default) or cuda")
    add("--compile", action="store_true", help="run the model, not the floor, through torch.compile")
    args = parser.parse_args(argv)
    if min(args.batch, args.rounds, args.threads, *args.batches, *args.grids) < 1:
        parser.error("--batch, --batches, --grids, --rounds and --threads must be at least 1")
    if unknown := [name for name in [*args.models, *(args.throughput or [])] if name not in list_models()]:
        parser.error(f"unknown model {unknown[0]!r}; there are {', '.join(list_models())}")
    if others := [name for name in args.models if not hasattr(CONFIGS[name], "patch")]:
        parser.error(f"{others[0]} has no patches, and no floor to compare with; compare it with its plain"
                     " ResNet by --throughput")
    if args.graphs + args.paper + bool(args.throughput) + args.compile + args.profile + args.memory > 1:
        parser.error("--graphs, --paper, --throughput, --compile, --profile and --memory each go alone")
    if args.amp and not (args.throughput or args.paper):
        parser.error("--amp goes with --throughput or --paper; --memory has both")
    if args.measure and not args.memory:
        parser.error("--measure goes with --memory")
    if args.batch == 1 and (args.measure or not (args.graphs or args.paper or args.throughput or args.memory)):
        parser.error("--batch 1: in training, batch norm needs at least 2 images")
    if args.set and (args.graphs or args.paper):
        parser.error("--set goes with models, not with --graphs or --paper")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this torch sees no GPU; use --device cpu")
    torch.set_num_threads(args.threads)
    with parser.errors_in_one_sentence():
        fields = dict(map(read_field, args.set)) | ({} if args.img_size is None else {"img_size": args.img_size})
    print(f"{'evaluation' if args.throughput else f'batch {args.batch}'}, {'bfloat16' if args.amp else 'float32'},"
          f" {args.device}, {args.threads} threads, torch {torch.__version__};"
          f" {', '.join([f'{args.rounds} rounds', *args.set])}\n")
    with parser.errors_in_one_sentence():
        if args.compile:
            check_compiler(args.device)
        if args.graphs:
            print_graphs(args)
        elif args.paper:
            about = args.rounds, args.device, args.threads, args.amp, fields
            for line in itertools.chain(sizes(), scores(), speeds(args.batches, *about)):
                print(line, flush=True)
        elif args.throughput:
            print_throughput(args, fields)
        elif args.memory:
            print_memory(args.models, args.batch, args.device, args.threads, args.measure, fields)
        elif args.profile:
            for name in args.models:
                print_profile(name, create_model(name, **fields), args.batch, args.rounds, args.device)
        else:
            print_ratios(args.models, args.batch, args.rounds, args.device, args.compile, fields)
