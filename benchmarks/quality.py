"""Compare searches on neurons of trained networks, each neuron searched as if it were alone.

    python -m benchmarks.quality --quick                     # a few minutes on two CPU cores
    python -m benchmarks.quality --nets weights/classifier_shapes.safetensors --layers '*'
    python -m benchmarks.quality --nets A.ckpt,B.safetensors \
        --generators vqvae,sngan=weights/sngan_cifar10.safetensors --device cuda

Neurons are drawn by seed among those that are neither silent nor saturated on natural images. All
methods of `quality_methods.METHODS` get the same neurons, budget and multi-indices, those that
leave the choice the same batch, and those that can start somewhere the same natural images. A
generator given without a path is the shipped one of the network's data set. Raw results go to --out
as Parquet, a file for each network, generator, layer, method and seed; a file's name holds a digest
of all settings and of the code in `am/`, so that a command given again runs what is missing and
nothing else; --shard 1/2 and --shard 2/2 with the same --out spread the work over two processes,
and --report then shows what both did. Tables in Markdown are printed and saved there, figures
beside them.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

from benchmarks.ingredients import add_options
from benchmarks.quality_jobs import Job, Jobs, runs_of
from benchmarks.quality_methods import METHODS
from benchmarks.quality_runs import Plan, read_part, write_part
from benchmarks.quality_statistics import grids_of
from benchmarks.quality_tables import markdown
from spikelens.allocator import keep_freed_memory
from spikelens.precision import PRECISIONS
from spikelens.report.progress import SearchBar

# What --quick stands for; what else is said on the command line counts.
QUICK = {
    "layers": "conv2",
    "neurons": 8,
    "seeds": 2,
    "budgets": [100, 300],
    "natural": 300,
    "methods": "elite_tt;genetic;protes tt_exp;random;natural",
    "out": Path("outputs/quality_quick"),
}


def main(args: argparse.Namespace) -> None:
    """Run what is missing, then print and save tables and figures of what is there."""
    jobs = Jobs(args)
    listed = jobs.all()
    if not args.report:
        place, of = args.shard
        run_missing(listed[place - 1 :: of], jobs.plan)
    paths = [job.path for job in listed if job.path.is_file()]
    jobs.note_missing(listed)
    if not paths:
        print("No results.", *jobs.notes, sep="\n")
        return
    grids = grids_of([run for path in paths for run in read_part(path)])
    text = markdown(grids, args.budgets, jobs.notes)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "tables.md").write_text(text)
    print(text)
    if args.no_figures:
        return
    # Tables need none of it.
    if importlib.util.find_spec("matplotlib") is None:
        print("No figures: they need matplotlib, pip install 'spikelens[bench]'.")
    else:
        from benchmarks.quality_figures import draw_all

        print("figures:", *draw_all(grids, args.budgets, args.out), sep="\n")


def run_missing(jobs: list[Job], plan: Plan) -> None:
    """Run the jobs whose results are not there yet, under one bar."""
    missing = [job for job in jobs if not job.path.is_file()]
    total, done = sum(job.num_images(plan) for job in missing), 0
    print(f"{len(jobs) - len(missing)} of {len(jobs)} searches are there; {total} images to show")
    with SearchBar("quality") as bar:
        for job in missing:
            before = done

            def show(shown: int, _: int, activation: float, before: int = before) -> None:
                bar.show(before + shown, total, activation)

            write_part(runs_of(job, plan, show), job.path)
            done += job.num_images(plan)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    numbers = lambda text: sorted(int(number) for number in text.split(","))  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="the small form, by other defaults")
    parser.add_argument("--nets", default="weights/classifier_shapes.safetensors")
    parser.add_argument("--generators", default="vqvae,sngan", help="name or name=path")
    add_options(parser, neurons=32, natural=1000, below=0.8)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budgets", type=numbers, default=[100, 300, 1000, 3000, 10000])
    parser.add_argument("--starts", type=int, default=15, help="natural images looked at first")
    parser.add_argument("--methods", default=";".join(METHODS), help="separated by semicolons")
    parser.add_argument("--nodes", type=int, default=64, help="symbols a coordinate of a GAN's z")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of the search")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    shard = lambda text: tuple(int(number) for number in text.split("/"))  # noqa: E731
    parser.add_argument("--shard", type=shard, default=(1, 1), help="i/n: every n-th search")
    parser.add_argument("--report", action="store_true", help="run nothing, show what is there")
    parser.add_argument("--no-figures", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("outputs/quality"))
    if parser.parse_args(arguments).quick:
        parser.set_defaults(**QUICK)
    args = parser.parse_args(arguments)
    unknown = sorted(set(args.methods.split(";")) - METHODS.keys())
    if unknown:
        parser.error(f"--methods must be of {'; '.join(METHODS)}, but got {'; '.join(unknown)}")
    if args.nodes < 2:
        parser.error(f"--nodes must be at least 2, but got {args.nodes}")
    if min([*args.budgets, args.neurons, args.seeds, args.starts, args.natural]) < 1:
        parser.error("--budgets, --neurons, --seeds, --starts and --natural must be positive")
    if len(args.shard) != 2 or not 1 <= args.shard[0] <= args.shard[1]:
        parser.error("--shard must be like 1/2 or 2/2")
    return args


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main(parse()))
