"""The searches that are compared, with their settings; a part of benchmarks/quality.py."""

import ast
import hashlib
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import spikelens.am
from spikelens.am.archive import Archive
from spikelens.am.optimizers.base import Optimizer
from spikelens.generators.base import Generator

CHAMPION = "elite_tt"
BATCH = 10  # images a round and neuron, for every search that leaves the choice


@dataclass(frozen=True)
class Method:
    """One search and its settings.

    Args:
        target: Where its optimizer is, `module:Class` within `spikelens.am.optimizers`.
        settings: Arguments of its constructor, beside space, archive, seed and batch.
        role: `champion`; `rival`; `baseline`, which learns nothing; `ablation` of the champion;
            `reference`, which knows more than a search may.
        is_started: Whether it starts from natural images.
        is_search: False for one that shows natural images and nothing else.
        is_pooled: Whether its images are shown to all neurons: for a method that learns nothing
            the same as images of its own for each, for a fraction of the work.
        is_seeded: Whether runs with other seeds differ.
        takes_budget: Whether its settings depend on the budget; it is given the largest one.
        latents: Generators that it can search.
    """

    target: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    role: str = "rival"
    is_started: bool = True
    is_search: bool = True
    is_pooled: bool = False
    is_seeded: bool = True
    takes_budget: bool = False
    latents: tuple[str, ...] = ("vqvae", "sngan")

    @property
    def start(self) -> str:
        """Where it begins, for tables."""
        return "natural" if self.is_started else "own"


# Parts of the champion, each switched off or set otherwise, one at a time.
ABLATIONS: dict[str, dict[str, Any]] = {
    "no model": {"guidance": 0.0},
    "additive model": {"is_pairwise": False},
    "scores, not their order": {"is_ranked": False},
    "plain ones beside": {"explore": 0.3},
    "elites of all times": {"recent": None},
    "no switching": {"switch": 0.0},
    "no mutation": {"mutations": 0.0, "guided_mutations": 0.0},
    "one elite": {"num_elites": 1, "recent": None},
    "all timid": {"guided_mutations": 1.5},
    "all bold": {"guided_mutations": 8.0, "mutations": 8.0},
    "no look-alikes": {"near": 0.0},
    "look-alikes alone": {"near": 1.0},
    "batch of 25": {"batch": 25},
}

_PRESETS = ("tt", "tt_s", "tt_b", "tt_exp")

METHODS: dict[str, Method] = {
    CHAMPION: Method("elite_tt:EliteTT", role="champion"),
    "genetic": Method("genetic:Genetic"),
    **{
        f"protes {preset}": Method("protes:Protes", {"preset": preset}, is_started=False)
        for preset in _PRESETS
    },
    **{
        f"protes {preset}, natural start": Method(
            "protes:Protes", {"preset": preset, "num_warm_steps": 20, "keeps_best": True}
        )
        for preset in _PRESETS
    },
    "cma": Method("cma:Cma", {"kind": "cma"}, latents=("sngan",)),
    "sep_cma": Method("cma:Cma", {"kind": "sep_cma"}, latents=("sngan",)),
    "cma on the sphere": Method("cma:Cma", {"kind": "cma", "is_sphere": True}, latents=("sngan",)),
    **{
        f"nevergrad {name}": Method(
            "nevergrad_search:NevergradSearch", {"algorithm": name}, takes_budget=True
        )
        for name in ("Portfolio", "NGOpt")
    },
    "ttopt": Method("ttopt:TTOpt", is_started=False),
    "surrogate_tt": Method("surrogate_tt:SurrogateTT"),
    "random": Method("random:RandomSearch", role="baseline", is_started=False, is_pooled=True),
    "natural": Method("random:RandomSearch", role="baseline", is_search=False, is_seeded=False),
    "gradient": Method("gradient:Gradient", role="reference"),
    f"{CHAMPION}, own start": Method("elite_tt:EliteTT", role="ablation", is_started=False),
    **{
        f"{CHAMPION}, {name}": Method("elite_tt:EliteTT", settings, role="ablation")
        for name, settings in ABLATIONS.items()
    },
}


def optimizer_of(method: Method, budget: int) -> Callable[..., Optimizer]:
    """Return what builds a method's optimizer from a space, an archive and a seed.

    Args:
        method: What is wanted.
        budget: The largest budget.

    Raises:
        ImportError: If there is no such module, or a library it needs is missing.
        AttributeError: If the module has no such class.
    """
    module, _, name = method.target.partition(":")
    optimizer = getattr(importlib.import_module(_place(module)), name)
    return partial(optimizer, **settings_of(method, optimizer, budget))


def settings_of(method: Method, optimizer: Callable[..., Optimizer], budget: int) -> dict[str, Any]:
    """Return all arguments that a method gives its optimizer."""
    settings = dict(method.settings)
    if method.takes_budget:
        settings["budget"] = budget
    # The reference keeps the batch it is best with.
    if method.role != "reference" and "batch" in inspect.signature(optimizer).parameters:
        settings.setdefault("batch", BATCH)
    return settings


def why_not(name: str, kind: str, space: Generator, budget: int) -> str:
    """Tell why a method cannot search a latent; empty if it can.

    It is built once and dropped, so that wrong settings and missing libraries show before any
    work is done.

    Args:
        name: One of `METHODS`.
        kind: The generator's name.
        space: The generator.
        budget: The largest budget.
    """
    method = METHODS[name]
    if kind not in method.latents:
        return f"it searches {', '.join(method.latents)} only"
    try:
        optimizer_of(method, budget)(space, Archive(1, len(space.mode_sizes)), seed=0)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        return " ".join(str(error).split())
    return ""


def fingerprint(method: Method) -> str:
    """Return what changes when a method's own module or what it may use does.

    That is every file beside `spikelens.am.optimizers`; comments and docstrings do not count.
    """
    found = importlib.util.find_spec(_place(method.target.partition(":")[0]))
    if found is None or found.origin is None:
        raise ImportError(f"There is no module {_place(method.target.partition(':')[0])}.")
    own = Path(found.origin)
    files = [own, *sorted(Path(spikelens.am.__file__).parent.glob("*.py"))]
    return hashlib.sha256("".join(map(_code_of, files)).encode()).hexdigest()[:16]


def _code_of(path: Path) -> str:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            del node.body[0]
    return ast.dump(tree)


def _place(module: str) -> str:
    return f"spikelens.am.optimizers.{module}"
