"""Populations: the weighted sums of what single neurons are read out as."""

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from spikelens.am.neurons import Neuron, Population, Term
from spikelens.am.readouts import tie_breaks


class PopulationSums:
    """Activations and scores of populations from those of their neurons.

    Equal sums are told apart by the weighted membranes, within the smallest step between unequal
    ones: the greatest common divisor of weight / resolution over the neurons. Weights that make it
    finer than float32 tells apart (0.333 beside 0.5, or many digits) leave ties as they are, and so
    does a neuron whose activation may be any number.

    Args:
        populations: The populations.
        singles: The neurons read out, P of them; those of the populations are among them.
        device: Where activations will be.
    """

    def __init__(
        self, populations: Sequence[Population], singles: Sequence[Neuron], device: torch.device
    ) -> None:
        self.populations = list(populations)
        places = {neuron: place for place, neuron in enumerate(singles)}
        most = max(len(one.terms) for one in self.populations)
        # Shorter sums are filled up by their own first neuron, with weight 0.
        filled = [(*one.terms, *[one.terms[0]] * (most - len(one.terms))) for one in populations]
        self._places = [[places[neuron] for _, neuron in terms] for terms in filled]
        self._columns = torch.tensor(self._places, device=device)
        self._weights = torch.tensor(
            [
                [term.weight if m < len(one.terms) else 0.0 for m, term in enumerate(terms)]
                for one, terms in zip(self.populations, filled, strict=True)
            ],
            dtype=torch.float64,
            device=device,
        )
        self._resolutions: list[int] = []
        self._steps = torch.zeros(len(self.populations), device=device)

    def __call__(
        self, activations: Tensor, levels: Tensor, resolutions: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Sum up.

        Args:
            activations: Of the neurons, `(N, P)`.
            levels: Their membranes, `(N, P)`.
            resolutions: Activations are multiples of 1 / resolution; 0 for any number. P of them.

        Returns:
            Activations and scores of the populations, float32 `(N, populations)`.
        """
        if self._resolutions != list(resolutions):  # once: those of a network stay the same
            self._resolutions = list(resolutions)
            steps = [
                smallest_step(one.terms, [resolutions[place] for place in places])
                for one, places in zip(self.populations, self._places, strict=True)
            ]
            with torch.inference_mode(False):  # autograd refuses tensors born in a caller's
                self._steps = torch.tensor(steps, device=activations.device)
        sums, levels = (self._sum(values) for values in (activations, levels))
        return sums, sums + tie_breaks(levels) * self._steps

    def _sum(self, values: Tensor) -> Tensor:
        """Sum `(N, P)`; in float64, or decimal weights would not add up to the ceiling."""
        return (values[:, self._columns].double() * self._weights).sum(2).float()


def smallest_step(terms: Sequence[Term], resolutions: Sequence[int]) -> float:
    """Return the least that unequal sums differ by; 0 if there is no such step.

    Args:
        terms: What is summed; a weight counts as the decimal it is written as.
        resolutions: Activations are multiples of 1 / resolution; 0 for any number. At least as
            many as terms.

    >>> from spikelens.am.neurons import Neuron, Term
    >>> smallest_step([Term(0.5, Neuron("fc1", 0)), Term(-0.75, Neuron("fc1", 1))], [4, 4])
    0.0625
    """
    steps = []
    for (weight, _), resolution in zip(terms, resolutions, strict=False):
        if not resolution:
            return 0.0
        steps.append(Fraction(repr(abs(weight))) / resolution)
    denominator = math.lcm(*(step.denominator for step in steps))
    return math.gcd(*(int(step * denominator) for step in steps)) / denominator
