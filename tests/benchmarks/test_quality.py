import argparse
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import Bars

from benchmarks import quality, quality_jobs, quality_methods
from benchmarks.ingredients import Trained, draw_neurons
from benchmarks.quality_methods import METHODS, Method, fingerprint, settings_of, why_not
from benchmarks.quality_runs import (
    Encoded,
    Ledger,
    Plan,
    Run,
    _again,
    perform,
    read_part,
    write_part,
)
from benchmarks.quality_statistics import (
    Grid,
    area,
    grids_of,
    mean_interval,
    normalised,
    shortfall,
    summarise,
    value_at,
    win_rate,
)
from benchmarks.quality_tables import markdown, report_budget, rivals_of
from spikelens.am.activations import Recorder, Response
from spikelens.am.objective import Objective

RUN = Run(
    "net",
    "vqvae",
    "conv",
    "elite_tt",
    0,
    "conv:0",
    0.3,
    0.8,
    [1, 20, 60],
    [0.2, 0.4, 0.8],
    2.0,
    "cpu",
)


def run(method, neuron, seed, value, natural=0.5):
    """A run that had `value` from its first image on."""
    name = f"conv:{neuron}"
    return Run("net", "vqvae", "conv", method, seed, name, natural, value, [1], [value], 1.0, "cpu")


def test_a_curve_is_a_step_that_rises_at_the_image_that_was_better():
    assert [value_at(RUN, n) for n in (1, 19, 20, 59, 60, 9999)] == [0.2, 0.2, 0.4, 0.4, 0.8, 0.8]


def test_area_is_the_mean_over_the_logarithm_of_images():
    # 10-20: .2, 20-60: .4, 60-100: .8, each as wide as its logarithm.
    by_hand = (0.2 * math.log(2) + 0.4 * math.log(3) + 0.8 * math.log(10 / 6)) / math.log(10)
    assert area(RUN, 100) == pytest.approx(by_hand)
    assert area(RUN, 20) == pytest.approx(0.2)  # what is found with the last image has no width
    assert area(RUN, 5) == 0.2  # the area would begin behind its end


def test_activations_are_divided_by_the_neurons_own_best_known():
    values = np.array([[0.2, 0.4], [0.0, 0.0]])
    assert normalised(values, np.array([0.8, 0.0])).tolist() == [[0.25, 0.5], [1.0, 1.0]]


def test_the_best_known_is_what_float32_said():
    # The search in bfloat16 believed in .9.
    believed = replace(RUN, best=[0.2, 0.4, 0.9], found=0.6)
    other = replace(RUN, method="random", shown=[1], best=[0.3], found=0.3)
    grid = Grid(("net", "vqvae", "conv"), [believed, other])
    assert grid.known.tolist() == [0.6]
    assert grid.shares("random", 100).tolist() == [[0.5]]


def test_a_bootstrap_interval_of_equal_values_is_a_point():
    assert mean_interval(np.full((4, 3), 0.25)) == (0.25, 0.25)


def test_bootstrap_intervals_cover_the_mean_about_as_often_as_they_say():
    # Neurons differ by 1, seeds by .5 more: 200 experiments, of which 95 % would be 190 and a
    # bootstrap of 20 neurons is a few per cent short. Without neurons it would be below 150.
    random = np.random.default_rng(1)
    covers = 0
    for _ in range(200):
        values = random.normal(size=(20, 1)) + 0.5 * random.normal(size=(20, 3))
        low, high = mean_interval(values)
        covers += low <= 0.0 <= high
    assert 175 <= covers <= 199


def test_seeds_are_resampled_within_neurons():
    # Neurons have the same mean: all that varies is which seeds are drawn.
    low, high = mean_interval(np.array([[0.0, 1.0]] * 8))
    assert low < 0.5 < high
    # The mean of 16 draws of 0 or 1 has a standard deviation of 1/8.
    assert high - low == pytest.approx(2 * 1.96 / 8, abs=0.13)


def test_a_neuron_is_won_by_the_mean_over_seeds_and_ties_count_half():
    ours = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.2], [0.4, 0.6]])
    theirs = np.array([[0.4], [0.1], [0.3], [0.5]])
    rate, (low, high) = win_rate(ours, theirs)  # won, won, lost, equal
    assert rate == 0.625
    assert 0.0 <= low < 0.625 < high <= 1.0


def test_who_always_wins_does_so_in_every_draw():
    assert win_rate(np.full((5, 2), 0.4), np.full((5, 3), 0.3)) == (1.0, (1.0, 1.0))


def test_a_summary_by_hand():
    runs = [
        *(run("elite_tt", neuron, seed, 0.8) for neuron in (0, 1) for seed in (0, 1)),
        *(run("random", 0, seed, value) for seed, value in ((0, 0.4), (1, 0.6))),
        *(run("random", 1, seed, value) for seed, value in ((0, 0.5), (1, 0.5))),
    ]
    (grid,) = grids_of(runs)
    of_random = summarise(grid, [100])[1]
    assert of_random.method == "random"
    assert (of_random.num_neurons, of_random.num_seeds) == (2, 2)
    assert of_random.activation == pytest.approx(0.5)
    assert of_random.share == pytest.approx(0.625)
    assert of_random.area == pytest.approx(0.625)
    assert of_random.below_natural == 0.25  # equal to the natural image is not below it
    gap, rival = shortfall(summarise(grid, [100]), "random", ["elite_tt", "random"], 100)
    assert (gap, rival) == (pytest.approx(0.375), "elite_tt")
    assert shortfall(summarise(grid, [100]), "elite_tt", ["random"], 100)[0] == pytest.approx(
        -0.375
    )
    assert math.isnan(shortfall(summarise(grid, [100]), "random", ["random"], 100)[0])


def test_cells_are_told_apart():
    runs = [RUN, replace(RUN, layer="fc"), replace(RUN, generator="sngan"), replace(RUN, seed=1)]
    assert [len(grid.runs("elite_tt")[0]) for grid in grids_of(runs)] == [2, 1, 1]


def test_the_tables_hold_the_figures():
    runs = [run("elite_tt", 0, 0, 0.8), run("random", 0, 0, 0.4), run("gradient", 0, 0, 0.8)]
    text = markdown(grids_of(runs), [100, 300], ["- not run: cma: no SN-GAN"])
    assert "as it is: activation 0.500, share 0.625." in text
    assert "| elite_tt | 1 | 1.000 | -0.500 to random, net vqvae conv |" in text
    assert "| random | own | 1 | 0.500 [0.500, 0.500] | 0.500 [0.500, 0.500] | 0.400" in text
    assert "| 100 % [100, 100] | 100 % | 1.00 |" in text
    assert "| gradient | 1 | 1.000 | - |" in text  # knows more than a search may: no rival
    assert "- not run: cma: no SN-GAN" in text


def test_methods_are_compared_in_one_number_at_3000_or_below():
    assert report_budget([100, 3000, 10000]) == 3000
    assert report_budget([100, 300]) == 300
    assert report_budget([5000]) == 5000


def test_a_ledger_keeps_each_neurons_own_images_in_order():
    nan = math.nan
    ledger = Ledger(2, 1, 4, torch.device("cpu"))
    for values in ([[0.1, nan], [0.3, nan], [nan, 0.5]], [[0.3, nan], [0.4, nan], [nan, 0.2]]):
        response = torch.tensor(values)
        ledger.add(torch.arange(3)[:, None], Response(response, response))
    (shown, best), other = ledger.curves()
    assert shown == [1, 2, 4]
    assert best == pytest.approx([0.1, 0.3, 0.4])
    assert other == ([1], [0.5])


def test_runs_are_read_as_they_were_written(tmp_path):
    write_part([RUN, replace(RUN, seed=1)], tmp_path / "parts" / "a.parquet")
    assert read_part(tmp_path / "parts" / "a.parquet") == [RUN, replace(RUN, seed=1)]
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["a.parquet"]


@pytest.fixture
def encoded(tiny_network, natural):
    with torch.no_grad():
        for parameter in tiny_network.parameters():
            parameter.mul_(3.0)  # as first drawn most neurons are silent
    trained = Trained("tiny", SimpleNamespace(), "shapes", tiny_network, natural)
    return Encoded("vqvae", Bars(side=8), trained)


@pytest.fixture
def drawn(encoded):
    return draw_neurons(encoded.trained, encoded.generator, ["conv1"], 3, 2.0)


def test_drawn_neurons_are_neither_silent_nor_saturated(encoded):
    everything = draw_neurons(encoded.trained, encoded.generator, ["conv1", "conv2"], 99, 2.0)
    border = float(everything.best.max())
    drawn = draw_neurons(encoded.trained, encoded.generator, ["conv1", "conv2"], 99, border)
    assert 0 < len(drawn.neurons) < len(everything.neurons)
    assert bool(((drawn.best > 0) & (drawn.best < border)).all())
    few = draw_neurons(encoded.trained, encoded.generator, ["conv1", "conv2"], 2, border)
    assert len(few.neurons) == 2
    assert set(few.neurons) <= set(drawn.neurons)


@pytest.mark.parametrize("name", ["elite_tt", "random", "natural", "protes tt_s"])
def test_a_search_sees_its_budget_and_says_what_it_found(name, encoded, drawn, monkeypatch):
    method = METHODS[name]
    monkeypatch.setattr(quality_methods, "BATCH", 4)
    if "preset" in method.settings:  # five symbols are no power of two
        method = replace(method, settings={**method.settings, "quantised": False})
    counts = []
    plan = Plan(25, 6, "float32")
    results = perform(method, 0, encoded, drawn, plan, lambda shown, total, _: counts.append(shown))
    assert len(results) == 3
    assert counts[-1] == 3 * plan.budget_of(method, 30, 3)
    for found, shown, best, seconds in results:
        assert shown[0] == 1
        assert shown[-1] <= 25
        assert found == best[-1] == max(best)
        assert seconds > 0


def test_natural_images_alone_are_shown_best_first(encoded, drawn):
    results = perform(METHODS["natural"], 0, encoded, drawn, Plan(30, 6, "float32"), print_nothing)
    images = encoded.generator.decode(encoded.codes)  # of all natural images
    with Recorder(encoded.trained.network, drawn.neurons) as recorder:
        activations = Objective(encoded.generator, recorder, 10).of_images(images).activations
    for k, (found, _, best, _) in enumerate(results):
        assert best[0] == pytest.approx(float(activations[drawn.ranking[k, 0], k]), abs=1e-6)
        assert found == pytest.approx(float(activations[:, k].max()), abs=1e-6)


def test_what_a_rough_search_believed_is_shown_again(encoded, drawn):
    ledger = Ledger(3, 64, 8, torch.device("cpu"))
    believed = torch.full((30, 3), 0.99)
    ledger.add(encoded.codes, Response(believed, believed - torch.arange(30)[:, None] / 100))
    with Recorder(encoded.trained.network, drawn.neurons) as recorder:
        objective = Objective(encoded.generator, recorder, 10)
        found = _again(objective, ledger)
        true = objective(encoded.codes[:4]).activations.amax(0)  # the four best believed
    assert found.tolist() == true.tolist()
    assert found.max() < 0.99


def print_nothing(shown, total, activation):
    pass


def test_methods_share_one_batch_unless_they_say_otherwise():
    def takes_batch(space, archive, *, seed=0, batch=3, budget=0): ...
    def takes_none(space, archive, *, seed=0, preset=""): ...

    of_budget = Method("x:X", takes_budget=True)
    assert settings_of(of_budget, takes_batch, 7) == {"budget": 7, "batch": quality_methods.BATCH}
    assert settings_of(Method("x:X", {"batch": 10}), takes_batch, 7) == {"batch": 10}
    assert settings_of(Method("x:X", {"preset": "tt"}), takes_none, 7) == {"preset": "tt"}
    assert settings_of(Method("x:X", role="reference"), takes_batch, 7) == {}


def test_what_is_not_run_says_why(monkeypatch):
    monkeypatch.setitem(METHODS, "missing", Method("no_such_module:Search"))
    monkeypatch.setitem(METHODS, "wrong", Method("elite_tt:EliteTT", {"colour": "red"}))
    monkeypatch.setitem(METHODS, "absent", Method("elite_tt:NoSuchClass"))
    assert "no_such_module" in why_not("missing", "vqvae", Bars(), 100)
    assert "colour" in why_not("wrong", "vqvae", Bars(), 100)
    assert "NoSuchClass" in why_not("absent", "vqvae", Bars(), 100)
    assert why_not("cma", "vqvae", Bars(), 100) == "it searches sngan only"
    assert why_not("elite_tt", "vqvae", Bars(), 100) == ""


def test_every_ablation_is_a_setting_that_the_champion_has():
    names = [name for name, method in METHODS.items() if method.role == "ablation"]
    assert len(names) == len(quality_methods.ABLATIONS) + 1
    assert {name: why_not(name, "vqvae", Bars(), 100) for name in names} == dict.fromkeys(names, "")


def test_roles_and_rivals():
    known = {"champion", "rival", "baseline", "ablation", "reference"}
    assert {method.role for method in METHODS.values()} == known
    assert [name for name, m in METHODS.items() if m.role == "champion"] == ["elite_tt"]
    assert rivals_of(["elite_tt", "genetic", "random", "gradient"]) == ["genetic", "random"]


def test_a_module_is_told_by_its_code_and_not_by_its_comments(tmp_path, monkeypatch):
    module = tmp_path / "found.py"
    spec = SimpleNamespace(origin=str(module))
    monkeypatch.setattr(quality_methods.importlib.util, "find_spec", lambda _: spec)
    prints = []
    for text in ('"""Doc."""\nx = 1\n', '"""Other."""\nx = 1  # one\n', "x = 2\n"):
        module.write_text(text)
        prints.append(fingerprint(Method("found:X")))
    assert prints[0] == prints[1] != prints[2]


def test_files_of_one_name_are_told_apart():
    assert quality_jobs.names_of(["w/a.ckpt", "w/b.ckpt"]) == {"w/a.ckpt": "a", "w/b.ckpt": "b"}
    assert quality_jobs.names_of(["x/last.ckpt", "y/last.ckpt"]) == {
        "x/last.ckpt": "x-last.ckpt",
        "y/last.ckpt": "y-last.ckpt",
    }


def test_the_quick_form_gives_way_to_what_is_said():
    args = quality.parse(["--quick", "--neurons", "3"])
    assert (args.neurons, args.seeds, args.budgets) == (3, 2, [100, 300])
    assert quality.parse([]).budgets == [100, 300, 1000, 3000, 10000]
    assert set(args.methods.split(";")) <= METHODS.keys()


@pytest.mark.parametrize(
    "wrong", [["--methods", "nothing"], ["--budgets", "0,10"], ["--shard", "3/2"]]
)
def test_wrong_options_are_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        quality.parse(wrong)
    assert wrong[0] in capsys.readouterr().err


@pytest.fixture
def command(tmp_path, monkeypatch, encoded):
    """Options of a comparison of two methods of a tiny network."""
    for name in ("net.safetensors", "vqvae.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.setattr(quality_jobs, "load_trained", lambda *_: encoded.trained)
    monkeypatch.setattr(quality_jobs, "load_generator", lambda *_: encoded.generator)
    return [
        *("--nets", str(tmp_path / "net.safetensors")),
        *("--generators", f"vqvae={tmp_path / 'vqvae.safetensors'},sngan={tmp_path / 'none'}"),
        *("--layers", "conv1", "--below", "2", "--neurons", "2", "--seeds", "2"),
        *("--budgets", "10,20", "--starts", "3", "--methods", "elite_tt;random;cma"),
        *("--no-figures", "--out", str(tmp_path / "out")),
    ]


def test_a_comparison_resumes(command, tmp_path, monkeypatch, capsys):
    searched = []
    original = quality_jobs.perform

    def counted(method, seed, *rest):
        searched.append((method.target, seed))
        return original(method, seed, *rest)

    monkeypatch.setattr(quality_jobs, "perform", counted)
    quality.main(quality.parse(command))
    first = capsys.readouterr().out
    assert len(searched) == 4
    assert "not run: net, sngan: there is no" in first
    assert "not run: net, vqvae, cma: it searches sngan only" in first
    quality.main(quality.parse(command))
    assert len(searched) == 4  # all are there
    tables = first[first.index("###") :]
    assert tables in capsys.readouterr().out
    assert (tmp_path / "out" / "tables.md").read_text().strip() == tables.strip()
    next((tmp_path / "out" / "parts").glob("*random_seed1*")).unlink()
    quality.main(quality.parse(command))
    assert searched[4:] == [("random:RandomSearch", 1)]


def test_without_matplotlib_there_are_tables(command, monkeypatch, capsys):
    monkeypatch.setattr(quality.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(quality_jobs, "fingerprint", lambda _: "")  # looks for modules as well
    quality.main(quality.parse([one for one in command if one != "--no-figures"]))
    out = capsys.readouterr().out
    assert "| random | 1 |" in out
    assert "spikelens[bench]" in out


def test_shards_share_the_work(command, capsys):
    quality.main(quality.parse([*command, "--shard", "1/3"]))
    assert "0 of 2 searches are there" in capsys.readouterr().out
    quality.main(quality.parse([*command, "--shard", "2/3"]))
    out = capsys.readouterr().out
    assert "0 of 1 searches are there" in out
    assert out.count("is not there yet") == 1


def test_encoded_images_are_kept(encoded, tmp_path):
    cache = tmp_path / "codes" / "a.safetensors"
    kept = Encoded("vqvae", encoded.generator, encoded.trained, cache)
    assert kept.codes.equal(encoded.codes)
    again = Encoded("vqvae", SimpleNamespace(), encoded.trained, cache)  # cannot encode
    assert again.codes.equal(encoded.codes)
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


def test_a_report_of_what_is_there_runs_nothing(command, capsys):
    quality.main(quality.parse([*command, "--report"]))
    out = capsys.readouterr().out
    assert "No results." in out
    assert "not run: net, vqvae, conv1, elite_tt: seed 1 is not there yet" in out


def test_whatever_changes_a_search_changes_its_key(encoded, drawn, monkeypatch):
    method, plan, files = METHODS["elite_tt"], Plan(20, 3, "float32"), {"net": "a"}
    key = quality_jobs.key_of
    keys = {
        key(method, 0, drawn, plan, files),
        key(method, 1, drawn, plan, files),
        key(replace(method, settings={"switch": 0.5}), 0, drawn, plan, files),
        key(method, 0, replace(drawn, neurons=drawn.neurons[:2]), plan, files),
        key(method, 0, drawn, replace(plan, budget=21), files),
        key(method, 0, drawn, plan, {"net": "b"}),
        key(replace(method, is_started=False), 0, drawn, plan, files),
    }
    monkeypatch.setattr(quality_jobs, "fingerprint", lambda _: "another")
    keys.add(key(method, 0, drawn, plan, files))
    assert len(keys) == 8
    assert key(replace(method, role="rival"), 0, drawn, plan, files) in keys


def test_figures_are_drawn_for_each_cell(tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks.quality_figures import draw_all

    names = ("elite_tt", "random", "elite_tt, no mutation")
    runs = [run(name, k, seed, 0.5 + 0.1 * k) for name in names for k in (0, 1) for seed in (0, 1)]
    paths = draw_all(grids_of(runs), [100, 300], tmp_path)
    assert [path.name for path in paths] == [
        "curves_net_vqvae_conv.png",
        "ablations_net_vqvae_conv.png",
        "win_rates.png",
    ]
    assert all(path.stat().st_size > 5000 for path in paths)


def test_arguments_of_the_neurons_are_shared():
    from benchmarks.ingredients import add_options

    parser = argparse.ArgumentParser()
    add_options(parser, neurons=8, natural=500, below=0.6)
    args = parser.parse_args([])
    assert (args.neurons, args.natural, args.below, args.layers) == (8, 500, 0.6, "conv2")
