"""Which searches a comparison is made of, and where their results lie; a part of quality.py."""

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.ingredients import (
    Drawn,
    Trained,
    digest_of,
    draw_neurons,
    load_generator,
    load_trained,
)
from benchmarks.quality_methods import (
    METHODS,
    Method,
    fingerprint,
    optimizer_of,
    settings_of,
    why_not,
)
from benchmarks.quality_runs import Encoded, Plan, Run, perform
from spikelens.am.activations import layer_shapes
from spikelens.am.search import Progress
from spikelens.precision import is_half


@dataclass(frozen=True)
class Job:
    """One search that a part of the results comes from.

    Attributes:
        encoded: Generator and natural images.
        layer: Where the neurons are.
        drawn: The neurons.
        method: One of `METHODS`.
        seed: Of the search.
        path: Where its runs are kept.
    """

    encoded: Encoded
    layer: str
    drawn: Drawn
    method: str
    seed: int
    path: Path

    def num_images(self, plan: Plan) -> int:
        """Return how many images it shows at most."""
        num_neurons, num_natural = self.drawn.ranking.shape
        return num_neurons * plan.budget_of(METHODS[self.method], num_natural, num_neurons)


class Jobs:
    """All jobs that a command line asks for.

    Args:
        args: See `parse`.

    Attributes:
        plan: Budget, starts, precision.
        notes: What is not run, and why.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.plan = Plan(max(args.budgets), args.starts, args.precision)
        self.notes: list[str] = []

    def all(self) -> list[Job]:
        """Load networks and generators, draw neurons, and list the jobs."""
        names = names_of(self.args.nets.split(","))
        return [job for path, name in names.items() for job in self._of_net(path, name)]

    def _of_net(self, path: str, net: str) -> Iterator[Job]:
        trained = replace(load_trained(path, self.args.natural, self.args.device), name=net)
        cast: dict[str, Drawn] | None = None
        for given in self.args.generators.split(","):
            name, _, place = given.partition("=")
            weights = Path(place or f"weights/{name}_{trained.data_name}.safetensors")
            if not weights.is_file():
                self._note(f"{trained.name}, {name}", f"there is no {weights}")
                continue
            digests = {"net": digest_of(path), "generator": digest_of(weights)}
            if name == "sngan":
                digests["nodes"] = str(self.args.nodes)
            generator = load_generator(name, weights, self.args.nodes).to(self.args.device)
            cache = self.args.out / "codes" / codes_name(name, trained, digests)
            encoded = Encoded(name, generator, trained, cache)
            cast = self._cast(encoded) if cast is None else cast
            for method in self.args.methods.split(";"):
                reason = why_not(method, name, encoded.generator, self.plan.budget)
                if reason:
                    self._note(f"{trained.name}, {name}, {method}", reason)
                    continue
                yield from self._of_method(encoded, cast, method, digests)

    def _cast(self, encoded: Encoded) -> dict[str, Drawn]:
        """Draw the neurons of each layer; they are the same for all generators."""
        args, trained = self.args, encoded.trained
        layers = args.layers.split(",")
        if layers == ["*"]:
            layers = list(layer_shapes(trained.network, encoded.generator.image_shape))
        cast = {}
        for layer in layers:
            drawn = draw_neurons(trained, encoded.generator, [layer], args.neurons, args.below)
            if drawn.neurons:
                cast[layer] = drawn
            else:
                self._note(f"{trained.name}, {layer}", f"no best natural rate in (0, {args.below})")
        return cast

    def _of_method(
        self, encoded: Encoded, cast: dict[str, Drawn], method: str, digests: dict[str, str]
    ) -> Iterator[Job]:
        for layer, drawn in cast.items():
            for seed in range(self.args.seeds if METHODS[method].is_seeded else 1):
                key = key_of(METHODS[method], seed, drawn, self.plan, digests)
                parts = [encoded.trained.name, encoded.name, layer, method, f"seed{seed}", key]
                name = "_".join(parts).replace(" ", "-").replace(",", "")
                path = self.args.out / "parts" / f"{name}.parquet"
                yield Job(encoded, layer, drawn, method, seed, path)

    def note_missing(self, jobs: list[Job]) -> None:
        """Note the methods some of whose results are not there."""
        for job in jobs:
            if not job.path.is_file():
                name = f"{job.encoded.trained.name}, {job.encoded.name}, {job.layer}, {job.method}"
                self._note(name, f"seed {job.seed} is not there yet")

    def _note(self, what: str, why: str) -> None:
        self.notes.append(f"- not run: {what}: {why}")


def names_of(paths: Sequence[str]) -> dict[str, str]:
    """Name networks by their files, and where two files have one name by their whole paths."""
    stems = [Path(path).stem for path in paths]
    return {
        path: stem if stems.count(stem) == 1 else path.replace("/", "-")
        for path, stem in zip(paths, stems, strict=True)
    }


def codes_name(name: str, trained: Trained, digests: dict[str, str]) -> str:
    """Name the file of natural images as a generator's multi-indices by all they depend on."""
    images = hashlib.sha256(trained.natural.images.numpy().tobytes()).hexdigest()[:12]
    parts = [name, digests.get("nodes", "0"), digests["generator"], images]
    return "_".join(parts) + ".safetensors"


def key_of(method: Method, seed: int, drawn: Drawn, plan: Plan, digests: dict[str, str]) -> str:
    """Return a digest of all that a job's results depend on, but for the library's other parts.

    Args:
        method: The method.
        seed: Of the search.
        drawn: The neurons and the natural images' ranking.
        plan: Budget, starts, precision.
        digests: Of the files of network and generator; of a GAN the number of nodes, too.
    """
    optimizer = optimizer_of(method, plan.budget).func  # type: ignore[attr-defined]
    content = {
        **digests,
        **asdict(plan),
        **asdict(method),
        "settings": settings_of(method, optimizer, plan.budget),
        "seed": seed,
        "neurons": [str(neuron) for neuron in drawn.neurons],
        "natural": drawn.ranking.shape[1],
        "module": fingerprint(method),
    }
    del content["role"]  # a matter of tables
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def runs_of(job: Job, plan: Plan, progress: Progress) -> list[Run]:
    """Search, and name what was found."""
    trained = job.encoded.trained
    results = perform(METHODS[job.method], job.seed, job.encoded, job.drawn, plan, progress)
    device = job.encoded.device
    precision = "bfloat16" if is_half(plan.precision, device) else "float32"
    return [
        Run(
            net=trained.name,
            generator=job.encoded.name,
            layer=job.layer,
            method=job.method,
            seed=job.seed,
            neuron=str(neuron),
            natural=float(natural),
            found=found,
            shown=shown,
            best=best,
            seconds=seconds,
            device=f"{device.type}, {precision}",
        )
        for neuron, natural, (found, shown, best, seconds) in zip(
            job.drawn.neurons, job.drawn.best, results, strict=True
        )
    ]
