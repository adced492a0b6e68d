from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import Bars

from spikelens.am.activations import Recorder
from spikelens.am.distance import LatentDistance
from spikelens.am.neurons import Neuron
from spikelens.am.objective import Objective
from spikelens.am.optimizers.elite_tt import EliteTT
from spikelens.am.optimizers.gradient import Gradient
from spikelens.am.optimizers.protes import Protes
from spikelens.am.optimizers.random import RandomSearch
from spikelens.am.probe import SearchPlan, _realism, find_neurons, probe_neurons
from spikelens.models.spiking_cnn import small

GENERATOR = Bars(num_symbols=8, side=8)
NEURONS = [Neuron("conv1", 0), Neuron("fc1", 5, "membrane"), Neuron("conv2", 1, "max")]


def run(network, natural, optimizer=EliteTT, previous=None, **plan):
    plan = SearchPlan(**({"budget": 40, "num_starts": 3, "chunk": 16} | plan))
    return probe_neurons(network, GENERATOR, NEURONS, natural, optimizer, plan, previous)


@pytest.mark.parametrize("optimizer", [EliteTT, RandomSearch, partial(Protes, preset="tt")])
def test_what_is_reported_is_what_the_network_does(tiny_network, natural, optimizer):
    probe = run(tiny_network, natural, optimizer)
    with Recorder(tiny_network, NEURONS) as recorder:
        shown = recorder.respond(probe.stimuli).activations.diagonal()
        # In chunks of the same size: the last bits, which break ties, depend on it.
        answers = Objective(GENERATOR, recorder, chunk=16).of_images(natural.images)
    torch.testing.assert_close(probe.activations, shown)
    torch.testing.assert_close(probe.natural_activations, answers.activations.amax(0))
    for k, top in enumerate(probe.natural_top):
        places = [int((natural.images == image).flatten(1).all(1).nonzero()) for image in top]
        scores = answers.scores[places, k]
        assert torch.equal(scores, answers.scores[:, k].sort(descending=True).values[:4])
    assert probe.search.presentations.tolist() == [40] * 3
    assert probe.stimuli.shape == (3, 1, 8, 8)
    silent = (shown <= 0) & (answers.activations.amax(0) <= 0)
    assert torch.equal(probe.is_silent, silent)


def test_starting_from_natural_images_is_no_worse_than_their_encoding(tiny_network, natural):
    probe = run(tiny_network, natural, budget=3)
    with Recorder(tiny_network, NEURONS) as recorder:
        answers = recorder.respond(natural.images / 255.0)
        top = natural.images[answers.scores.topk(3, 0).indices] / 255.0  # (3, K, ...)
        codes = GENERATOR.encode(top.flatten(0, 1))
        encoded = recorder.respond(GENERATOR.decode(codes)).activations.amax(0)
    torch.testing.assert_close(probe.activations, encoded)  # pooled: over all neurons' starts


def test_a_warm_start_is_never_lost(tiny_network, natural):
    first = run(tiny_network, natural, budget=60)
    second = run(tiny_network, natural, previous=first.elites[:, :1], budget=4)
    assert (second.activations >= first.activations).all()


def test_points_of_another_latent_are_refused(tiny_network, natural):
    for previous in (torch.zeros(3, 1, 5).long(), torch.full((3, 1, 64), 8)):
        with pytest.raises(ValueError, match="modes do not hold the points"):
            run(tiny_network, natural, previous=previous)


def test_the_search_beats_random_and_natural(tiny_network, natural):
    found = run(tiny_network, natural, budget=300)
    random = run(tiny_network, natural, RandomSearch, num_starts=0, budget=300)
    assert (found.activations >= random.activations).all()
    is_rate = torch.tensor([True, False, True])
    assert (found.activations > found.natural_activations)[is_rate].all()
    ratio = found.activations[0] / found.natural_activations[0]
    torch.testing.assert_close(found.ratio[0], ratio)


def test_realism_is_the_share_of_natural_images_that_look_no_more_natural(tiny_network, natural):
    # Bars tells how natural an image is by how little its pixels vary.
    flat = torch.full((6, 1, 8, 8), 100, dtype=torch.uint8)
    natural = replace(natural, images=torch.cat([natural.images[:24], flat]))
    probe = run(tiny_network, natural, budget=9)
    contrast = (natural.images / 255.0).flatten(1).std(1)
    of_stimuli = probe.stimuli.flatten(1).std(1)
    shares = [float((contrast >= own).sum()) / 30 for own in of_stimuli]
    assert probe.realism.tolist() == pytest.approx(shares)
    assert 0.0 < probe.realism.max() < 1.0  # no stimulus is flat, not all are extreme


@pytest.mark.parametrize("num_natural", [3, 251, 600])
def test_realism_by_hand(num_natural):
    # Levels 0, 1, 2, 0, 1, 2, …: scores 0, -1, -2 in turn. Equals count.
    class Levels:
        def realism(self, images):
            return -images[:, 0, 0, 0] * 255.0

    levels = torch.arange(num_natural) % 3
    images = levels.to(torch.uint8).view(-1, 1, 1, 1)
    stimuli = torch.tensor([0.0, 1.0, 2.0, 3.0, -1.0]).view(-1, 1, 1, 1) / 255.0
    shares = [(levels >= level).float().mean() for level in (0, 1, 2, 3, -1)]
    objective = SimpleNamespace(generator=Levels(), chunk=250, device=torch.device("cpu"))
    found = _realism(objective, stimuli, images)
    torch.testing.assert_close(found, torch.stack(shares))


def test_a_generator_that_cannot_tell_gives_no_realism(tiny_network, natural, monkeypatch):
    monkeypatch.setattr(GENERATOR, "realism", lambda images: torch.full((len(images),), torch.nan))
    probe = run(tiny_network, natural, budget=4)
    assert probe.realism.shape == (3,)
    assert probe.realism.isnan().all()


def test_silent_neurons_are_silent_not_selective(tiny_network, natural):
    with torch.no_grad():
        tiny_network.conv1.synapse[1].bias[0] = -100.0
    probe = run(tiny_network, natural)
    assert probe.is_silent[0]
    assert not probe.is_silent[1]
    assert probe.selectivity.is_silent[0]
    assert probe.ratio[0].isnan()
    assert probe.selectivity.preferred[0] == -1


def test_saturation_ends_a_search(tiny_network, natural):
    with torch.no_grad():
        tiny_network.conv2.synapse[1].bias[1] = 100.0
    probe = run(tiny_network, natural)
    assert probe.activations[2] == 1.0
    assert probe.search.presentations.tolist() == [40, 40, 3]


def test_neurons_are_found_only_if_the_generator_fits(tiny_network):
    found = find_neurons(tiny_network, GENERATOR, "conv3:*", (1, 8, 8), EliteTT)
    assert len(found) == 8
    with pytest.raises(ValueError, match=r"\(3, 8, 8\), but Bars draws \(1, 8, 8\)"):
        find_neurons(tiny_network, GENERATOR, "conv3:*", (3, 8, 8), EliteTT)


def test_units_and_time_steps_are_told_by_one_pass(tiny_network):
    seen = []
    with tiny_network.conv1.register_forward_hook(lambda *_: seen.append(1)):
        find_neurons(tiny_network, GENERATOR, "conv3:*@steps0-3", (1, 8, 8), EliteTT)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        (partial(Protes, preset="tt-b"), "`preset` must be one of tt, tt_s"),
        (partial(EliteTT, batch=0), "`batch` must be a positive integer"),
        (partial(EliteTT, btach=3), "take its settings, but .* argument 'btach'"),
    ],
)
def test_wrong_settings_of_an_optimizer_show_before_any_work(tiny_network, optimizer, says):
    with pytest.raises(ValueError, match=says):
        find_neurons(tiny_network, GENERATOR, "conv3:*", (1, 8, 8), optimizer)


def test_a_network_that_an_optimizer_cannot_search_shows_before_any_work():
    network = small(1, 8, 3, num_steps=4, width=4, encoding="latency")
    assert find_neurons(network, GENERATOR, "conv3:0", (1, 8, 8), EliteTT)
    with pytest.raises(ValueError, match="no gradient comes back from conv3"):
        find_neurons(network, GENERATOR, "conv3:0", (1, 8, 8), Gradient)


def test_progress_counts_every_image_from_the_first_chunk_on(tiny_network, natural):
    seen = []
    plan = SearchPlan(budget=6, num_starts=2, chunk=7, precision="float32")
    probe_neurons(
        tiny_network,
        GENERATOR,
        NEURONS,
        natural,
        EliteTT,
        plan,
        progress=lambda *args: seen.append(args),
    )
    shown = [args[0] for args in seen]
    assert shown[:5] == [7, 14, 21, 28, 30]  # the natural images
    assert shown == sorted(shown)
    assert shown[-1] == seen[-1][1] == 30 + 3 * 6 + 3
    assert seen[0][2] == 0.0
    assert seen[-1][2] > 0.0


def test_a_membrane_has_a_preferred_class_but_no_rate_measures(tiny_network, natural):
    neurons = [Neuron("conv1", 2, "membrane"), Neuron("conv1", 2)]
    with torch.no_grad():
        tiny_network.conv1.synapse[1].bias[2] = -9.0  # never spikes; its membrane is negative
    plan = SearchPlan(budget=4, num_starts=2)
    probe = probe_neurons(tiny_network, GENERATOR, neurons, natural, EliteTT, plan)
    assert probe.is_silent.tolist() == [False, True]
    assert probe.selectivity.preferred[0] >= 0
    assert 0.5 < probe.selectivity.auroc[0] <= 1.0
    assert probe.selectivity.class_selectivity.isnan().all()
    assert probe.selectivity.lifetime_sparseness.isnan().all()


def probe_names(names, network, natural, budget=4):
    plan = SearchPlan(budget=budget, num_starts=2, precision="float32")
    neurons = find_neurons(network, GENERATOR, names, (1, 8, 8), EliteTT)
    return probe_neurons(network, GENERATOR, neurons, natural, EliteTT, plan)


def test_only_what_tells_of_spikes_can_be_silent(tiny_network, natural):
    with torch.no_grad():
        tiny_network.conv1.synapse[1].bias.fill_(-100.0)  # none of the layer spikes
    silent = ["conv1:2@latency", "conv1:2@steps1-2", "conv1:2+0.5*conv1:1@latency"]
    other = ["conv1:2@contrast", "conv1:2-conv1:1", "-conv1:2", "conv1:1+conv1:2@membrane"]
    probe = probe_names([*silent, *other], tiny_network, natural)
    assert probe.is_silent.tolist() == [True] * 3 + [False] * 4
    assert torch.equal(probe.selectivity.is_silent, probe.is_silent)
    assert (probe.selectivity.preferred >= 0).tolist() == [False] * 3 + [True] * 4
    assert (probe.activations[:-1] == 0).all()
    assert probe.search.presentations[5] == 2  # nothing exceeds -0: the start was enough


def test_activations_that_may_be_negative_have_no_rate_measures(tiny_network, natural):
    names = ["conv1:1@latency", "conv1:1+conv1:2", "conv1:1-conv1:2", "conv1:1@contrast"]
    with torch.no_grad():
        tiny_network.conv1.synapse[1].bias.fill_(0.4)
    probe = probe_names(names, tiny_network, natural, budget=30)
    chosen = probe.selectivity
    for measure in (chosen.class_selectivity, chosen.lifetime_sparseness):
        assert measure.isnan().tolist() == [False, False, True, True]
    assert (chosen.auroc >= 0.5).all()
    assert not probe.is_silent.any()
    known = probe.natural_activations > 0
    torch.testing.assert_close(
        probe.ratio[known], (probe.activations / probe.natural_activations)[known]
    )
    assert probe.ratio[~known].isnan().all()
    with Recorder(tiny_network, probe.neurons) as recorder:
        shown = recorder.respond(probe.stimuli).activations.diagonal()
    torch.testing.assert_close(probe.activations, shown)


def test_time_steps_are_checked_before_any_work(tiny_network):
    with pytest.raises(
        ValueError, match="from 0 to 3 in conv3, first before last, but got 'steps2-4'"
    ):
        find_neurons(tiny_network, GENERATOR, "conv3:*@steps2-4", (1, 8, 8), EliteTT)


def test_downward_everything_is_compared_with_the_least(tiny_network, natural):
    probe = run(tiny_network, natural, direction="minimize")
    up = run(tiny_network, natural)
    with Recorder(tiny_network, NEURONS) as recorder:
        shown = recorder.respond(probe.stimuli).activations.diagonal()
        answers = Objective(GENERATOR, recorder, chunk=16).of_images(natural.images)
    assert probe.direction == "minimize"
    torch.testing.assert_close(probe.activations, shown)
    torch.testing.assert_close(probe.natural_activations, answers.activations.amin(0))
    assert (probe.activations <= probe.natural_activations).all()
    assert probe.activations[0] < up.activations[0]
    for k, top in enumerate(probe.natural_top):
        places = [int((natural.images == image).flatten(1).all(1).nonzero()) for image in top]
        scores = answers.scores[places, k]
        assert torch.equal(scores, answers.scores[:, k].sort().values[:4])
    # A neuron that natural images make spike is not silent because the stimulus does not.
    assert answers.activations[:, 0].amax() > probe.activations[0] == 0.0
    assert probe.is_silent.tolist() == [False, False, True]
    assert (probe.search.presentations == 40).all()


def test_several_stimuli_are_apart_and_what_the_network_does(tiny_network, natural):
    probe = run(tiny_network, natural, num_stimuli=3, min_distance=0.4)
    points = torch.stack([probe.search.indices, *(f.indices for f in probe.others)], 1)
    apart = LatentDistance(GENERATOR)(points, points) + torch.eye(3)
    assert apart.min() >= 0.4 - 1e-3
    with Recorder(tiny_network, NEURONS) as recorder:
        for finding in probe.others:
            shown = recorder.respond(finding.stimuli).activations.diagonal()
            torch.testing.assert_close(finding.activations, shown)
    assert probe.elites.shape == (3, 3 * 32, 64)
    assert torch.equal(probe.elites[:, 1], probe.others[0].elites[:, 0])
    assert [realism.shape for realism in probe.other_realism] == [(3,), (3,)]
    alone = run(tiny_network, natural)
    assert torch.equal(alone.stimuli, probe.stimuli)


@pytest.fixture
def noisy_network():
    torch.manual_seed(0)
    return small(1, 8, 3, num_steps=4, width=4, encoding="rate").eval()


def test_under_noise_stimuli_and_natural_images_are_told_afresh(noisy_network, natural):
    seen = []
    plan = SearchPlan(budget=40, num_starts=3, chunk=16, num_repeats=25, precision="float32")
    neurons = [Neuron("conv1", 1), Neuron("conv1", 2)]
    probe = probe_neurons(
        noisy_network, GENERATOR, neurons, natural, EliteTT, plan, None, lambda *a: seen.append(a)
    )
    assert seen[-1][0] == seen[-1][1] == 30 + 2 * (40 + 2 * (8 + 4 + 2) * 2 + 2 * 25)
    with Recorder(noisy_network, neurons) as recorder:
        objective = Objective(GENERATOR, recorder, chunk=16, seed=5)
        repeats = [objective.of_images(probe.stimuli, r).activations.diagonal() for r in range(99)]
        answers = torch.stack([objective.of_images(natural.images, r)[0] for r in range(99)])
    repeats = torch.stack(repeats)
    error = repeats.std(0) * (1 / 25 + 1 / 99) ** 0.5
    assert ((probe.activations - repeats.mean(0)).abs() < 5 * error).all()
    torch.testing.assert_close(probe.standard_errors, repeats.std(0) / 5.0, rtol=0.6, atol=0.0)
    # The best natural image is good on the average: no luck, and near the best there is.
    best = answers.mean(0).amax(0)
    assert (probe.natural_activations < best + 5 * error).all()
    assert (probe.natural_activations > 0.9 * best).all()
    assert noisy_network.encoder.repeat == 0


def test_probes_of_noisy_networks_can_be_done_again(noisy_network, natural):
    first, again = (run(noisy_network, natural, budget=12, num_repeats=2) for _ in range(2))
    assert torch.equal(first.activations, again.activations)
    assert torch.equal(first.elites, again.elites)
    assert run(noisy_network, natural, budget=12, num_repeats=1).standard_errors.isnan().all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"direction": "down"}, "`direction` must be one of maximize, minimize, but got 'down'"),
        ({"min_distance": 1.5}, r"`min_distance` must lie in \[0, 1\], but got 1.5"),
        ({"min_distance": "far"}, r"`min_distance` must lie in \[0, 1\], but got 'far'"),
        ({"num_stimuli": 0}, "`num_stimuli` must be a positive integer, but got 0"),
        ({"num_repeats": 0}, "`num_repeats` must be a positive integer, but got 0"),
    ],
)
def test_directions_and_distances_are_checked(arguments, says):
    with pytest.raises(ValueError, match=says):
        SearchPlan(**arguments)


@pytest.mark.parametrize("name", ["budget", "num_elites", "num_top", "chunk", "num_starts", "seed"])
def test_plans_are_checked(name):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        SearchPlan(**{name: -1})


def test_a_search_in_bfloat16_reports_the_best_of_its_elites_in_float32(tiny_network, natural):
    probe = run(tiny_network, natural, precision="bfloat16")
    elites = probe.elites[:, :4]
    with Recorder(tiny_network, NEURONS) as recorder:
        objective = Objective(GENERATOR, recorder, chunk=16)
        answers = objective(elites.flatten(0, 1)).activations.unflatten(0, (3, 4))
        shown = recorder.respond(probe.stimuli).activations.diagonal()
    assert torch.equal(probe.activations, answers.diagonal(dim1=0, dim2=2).amax(0))
    torch.testing.assert_close(probe.activations, shown)
    with pytest.raises(ValueError, match="`precision` must be auto, bfloat16, float32, but got"):
        SearchPlan(precision="half")
