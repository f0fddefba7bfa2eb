"""A network that was cut and kept: the super-network after the cut, to the bit; saved, exported, trained on."""

import contextlib
import json

import pytest
import torch
from safetensors.torch import load as load_safetensors

from daas_lab import cli, load_network, own_files
from daas_lab.compose import options_of, retrain_config, search_config
from daas_lab.config import EDGE_WEIGHTS
from daas_lab.data.batches import plain_batches
from daas_lab.errors import LabError
from daas_lab.identity import config_hash
from daas_lab.methods.lookup import CHANCE, METHODS, method_class
from daas_lab.networks.build import build_network, network_size
from daas_lab.networks.kept import kept_network
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.own_files import digest_of
from daas_lab.report.plots_field import error_over_epochs
from daas_lab.report.tables import summarise
from daas_lab.runs.folder import read_checkpoint, read_run
from daas_lab.space.budget import NAMED_BUDGETS
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.space.kept_file import read_cut
from daas_lab.studies import make
from daas_lab.studies.kept_weights import epochs_saved, kept_weight_rows, sentence
from daas_lab.studies.settings import Settings
from daas_lab.train.cut import cut, describe_cut, export_network, kept_weights
from daas_lab.train.discretize import (
    BATCH_NORMS,
    accuracy_drops,
    architecture_of,
    derive_genotype,
    discrete_weights,
    recalibration,
)
from daas_lab.train.evolution import genotype_after
from daas_lab.train.loop import evaluate
from daas_lab.train.retrain import retrain
from daas_lab.train.search import build_supernet, load_supernet, search
from daas_lab.train.splits import search_splits
from tests.killing import Stopped, stop


def searched_in(folder, method="da2s", protocol="authors", **changes):
    """A short search whose weights and statistics have moved far enough for a cut to change the logits."""
    sizes = {"epochs": 3, "steps": 4, "learning_rate": 0.2, "arch_learning_rate": None, "threads": 1}
    search(search_config("tiny", "digits", method, protocol, **sizes | changes), folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    return searched_in(tmp_path_factory.mktemp("cut") / "run")


@pytest.fixture(scope="module")
def net(searched):
    path = searched.parent / "net"
    cut(searched, "3/14", path)
    return path


def logits_of(network, images, **options):
    with torch.no_grad():
        return torch.cat([network(x, **options) for x, _ in plain_batches(images)])


def check_cuts(folder, budgets=NAMED_BUDGETS, edge_weights=EDGE_WEIGHTS, batch_norms=BATCH_NORMS):
    """The network of every cut has the accuracy of `accuracy_drops` and the logits of the readable super-network to the
    bit, on held-out and on test images."""
    network, config = load_supernet(folder)
    network.eval()
    splits, names = search_splits(config), config.space.operations
    test = splits.test.subset(torch.arange(100))
    chosen = {"edge_weights": edge_weights, "batch_norms": batch_norms, "stages": ["both"]}
    rows = accuracy_drops(network, config, splits.held_out, splits.weights, budgets, **chosen)
    readable = build_supernet(config, SuperNetwork, epoch=network.at.epoch).eval()
    readable.at = network.at
    readable.keep(network.candidates)
    for row in rows:
        named = {name: row[name] for name in ("budget", "edge_weight", "batch_norm")}
        genotype = derive_genotype(config, architecture_of(network), config.edge_budget.parse(row["budget"]))
        described = describe_cut(network, config, genotype, select="own", **named)
        kept = kept_network(described)
        kept.load_state_dict(kept_weights(network, config, described, splits.weights))
        kept.eval()
        assert evaluate(kept, splits.held_out)[1] == row["after"], named
        mixture = network.mixtures()
        discrete = {
            name: discrete_weights(mixture[name], genotype.cell(name), row["edge_weight"], names=names)
            for name in CELL_TYPES
        }
        recalibrated = row["batch_norm"] == "recalibrated"
        with recalibration(network, splits.weights, discrete) if recalibrated else contextlib.nullcontext():
            readable.load_state_dict(network.state_dict())
            fast = logits_of(network, test, mixtures=discrete)
        ours = logits_of(kept, test)
        assert torch.equal(ours, logits_of(readable, test, mixtures=discrete)), named
        assert (ours - fast).abs().max() <= 1e-5 * max(1, fast.abs().max()), named
    assert rows and any(row["after"] != row["before"] for row in rows)


def test_the_network_is_the_super_network_after_the_cut(searched):
    check_cuts(searched, ["3/14", "6/14*2"], ["learned"])


CASES = [(name, "authors") for name in METHODS if name != CHANCE] + [("da2s", "paper"), ("da2s_exact", "paper")]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "protocol"), CASES)
def test_every_method_and_budget(method, protocol, tmp_path):
    folder = searched_in(tmp_path / "run", method, protocol)
    if method == "da2s":
        check_cuts(folder)
    else:  # with two edges a node, and without one of the nodes: how many there are is no method's
        check_cuts(folder, ["8/14", "3/14"], [method_class(method).edge_weight])


@pytest.mark.slow
def test_what_has_retired_is_no_part_of_it_and_cannot_be_kept(tmp_path):
    folder = searched_in(tmp_path / "run", "da2s_exact", budget="4/14", epochs=6, steps=8, retire=0.05)
    network, _ = load_supernet(folder)
    assert not all(candidates.all() for candidates in network.candidates.values())
    check_cuts(folder, ["4/14"])
    with pytest.raises(LabError, match="one that keeps nothing that has retired"):
        cut(folder, "2,3,4,5*6", tmp_path / "net")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """With so little to choose from that 240 accuracies take a second."""
    few = {"nodes": 4, "operations": "skip_connect,max_pool_3x3,sep_conv_3x3", "budget": "1,1"}
    return searched_in(tmp_path_factory.mktemp("small") / "run", "darts", **few)


@pytest.mark.slow
@pytest.mark.parametrize("select", ["skips:0", "threshold:0.5", "perturbation"])
def test_another_rule_of_selection(select, searched, small, tmp_path):
    folder, budget = (small, "1,1") if select == "perturbation" else (searched, "4/14")
    row = cut(folder, budget, tmp_path / "net", select=select)
    run, (network, config) = read_run(folder), load_supernet(folder)
    splits, cells = search_splits(config), {budget: genotype_after(run, budget=budget, select=select)}
    chosen = {"edge_weights": [row["edge_weight"]], "batch_norms": ["as-trained"], "stages": ["both"]}
    [measured] = accuracy_drops(network, config, splits.held_out, splits.weights, [budget], cells=cells, **chosen)
    described = read_cut(tmp_path / "net")[0]
    assert row.items() >= measured.items() and described.select == select
    assert edges_of(described.genotype) == edges_of(cells[budget])
    if select == "skips:0":
        assert edges_of(described.genotype) != edges_of(genotype_after(run, budget=budget))


def edges_of(cells):
    return [set(cells.cell(name).edges) for name in CELL_TYPES]


def test_a_method_without_a_super_network_is_refused(tmp_path, capsys):
    searched_in(tmp_path / "run", CHANCE)
    assert cli.main(["cut", str(tmp_path / "run"), "--out", str(tmp_path / "net")]) == 2
    assert "must be a search with a super-network" in capsys.readouterr().err and not (tmp_path / "net").exists()


OWN = """
from torch import nn

def shuffled(channels, stride, affine):
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels),
        nn.ChannelShuffle(2),
        nn.BatchNorm2d(channels, affine=affine),
    )
"""


@pytest.mark.slow
def test_operations_of_ones_own_and_skips_beside_others_are_kept(tmp_path, monkeypatch, forgets_operations):
    (tmp_path / "blocks.py").write_text(OWN)
    own = f"{tmp_path / 'blocks.py'}:shuffled"
    sizes = {"nodes": 4, "budget": "2,1", "epochs": 2, "steps": 2}
    operations = f"skip_connect,{own},max_pool_3x3_and_skip,none"
    folder, net = searched_in(tmp_path / "own", "darts", operations=operations, **sizes), tmp_path / "net"
    check_cuts(folder, ["2,1", "1,1", "{2+3}:1"], ["one"])
    cut(folder, "1,2*3", net)  # so that every operation is kept
    described, *_ = read_cut(net)
    assert described.own_operations == {"shuffled": digest_of("operations", own)}
    assert load_network(net).genotype == described.genotype
    retraining = on_from(net, operations=own)
    assert network_size(retraining)["parameters"] == sum(w.numel() for w in load_network(net).parameters())
    monkeypatch.setattr(own_files, "_named", {})  # as in a process in which nobody has named the file
    with pytest.raises(LabError, match="operations = 'shuffled': code of one's own"):
        load_network(net)
    (tmp_path / "blocks.py").write_text(OWN + "\n")
    on_from(net, operations=own)
    with pytest.raises(LabError, match="operations = 'shuffled': code of one's own"):  # not this content
        load_network(net)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_says_what_was_cut_and_is_the_same_every_time(searched, net, tmp_path, capsys):
    command = ["cut", str(searched), "--budget", "3/14", "--out", str(tmp_path / "net"), "--json"]
    assert cli.main(command) == 0
    row = json.loads(capsys.readouterr().out)
    assert (tmp_path / "net").read_bytes() == net.read_bytes()
    described, _, content = read_cut(net)
    run = read_run(searched)
    assert (described.run, described.epoch, described.edge_weight) == (config_hash(run.config), 3, "learned")
    assert row.items() >= {"budget": "3/14", "edge_weight": "learned", "batch_norm": "as-trained"}.items()
    network, held_out = load_network(net), search_splits(run.config).held_out
    assert not network.training and network.genotype == described.genotype
    assert row["after"] == evaluate(network, held_out)[1]
    assert row["parameters"] == sum(weight.numel() for weight in network.parameters())
    trained = read_checkpoint(searched)[0]["network"]
    own = {"edge_weights", "operation_weights", "weight", "bias"}  # of the mixture, and of batch-norms without them
    names = load_safetensors(content).keys()
    assert all(name in trained for name in names if name.rsplit(".", 1)[1] not in own or ".conv" in name)


def test_a_file_that_is_not_as_it_was_written_is_refused(net, tmp_path):
    content, path = net.read_bytes(), tmp_path / "net"
    end = 8 + int.from_bytes(content[:8], "little")
    # What is said of the search may be anything: no weight depends on it.
    source = range(content.index(b'"source"'), content.index(b'"cells.'))
    for place in [*range(0, end, end // 60), *range(end, len(content), len(content) // 20), len(content) - 1]:
        if place not in source and content[place : place + 1] != b" ":
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with pytest.raises(LabError, match=r"weights|damaged"):
                load_network(path)
    for part in (b"", content[:7], content[: end - 9], content[:-4], b"\x80\x02}q\x00.", b"[" * 10**5):
        path.write_bytes(part)
        with pytest.raises(LabError, match=r"weights|damaged") as refused:
            load_network(path)
        assert "\n" not in str(refused.value)
    for place in (tmp_path, tmp_path / "missing", "\0"):
        with pytest.raises(LabError, match=r"weights = .*written by daas-lab cut"):
            load_network(place)


@pytest.mark.slow
def test_its_export_has_the_same_logits(net, tmp_path):
    export_network(net, tmp_path / "net.pt2")
    program, network = torch.export.load(tmp_path / "net.pt2").module(), load_network(net)
    images = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(program(images), network(images))


# --- training goes on -------------------------------------------------------------------------------------------------


def on_from(net, **changes):
    return retrain_config(None, "tiny", "digits", **{"weights": net, "threads": 1, "epochs": 1} | changes)


def test_it_is_not_tested_on_images_that_it_was_searched_on(tmp_path):
    config = search_config("tiny", "digits", "darts", split_seed=1, epochs=1, steps=1)
    search(config, tmp_path / "run", progress=False)
    cut(tmp_path / "run", "8/14", tmp_path / "net")
    assert on_from(tmp_path / "net").split_seed == 1
    with pytest.raises(LabError, match="split_seed = 0: must be 1, which weights"):
        on_from(tmp_path / "net", split_seed=0)


def test_what_contradicts_the_network_is_refused(net, capsys):
    for name, value in {"channels": 8, "layers": 4, "form": "imagenet"}.items():
        with pytest.raises(LabError, match=f"{name} = '?{value}'?: must be .*, which weights"):
            on_from(net, **{name: value})
    with pytest.raises(LabError, match="genotype = 'PDARTS': must be left out"):
        retrain_config("PDARTS", "tiny", "digits", weights=net)
    with pytest.raises(LabError, match=r"dataset = 'cifar100': must be one of 10 classes and 1 channels"):
        retrain_config(None, "tiny", "cifar100", weights=net)
    with pytest.raises(LabError, match="weights = 5: must be a file"):
        on_from(5)
    on_from(net, channels="4", side=16)
    retrain_config(None, "tiny", "fashion_mnist", weights=net)
    assert "its weights are from images of digits, not of fashion_mnist" in capsys.readouterr().err


def test_it_is_another_run_than_from_scratch_wherever_the_file_lies(net, tmp_path):
    (tmp_path / "moved").write_bytes(net.read_bytes())
    ours, moved = on_from(net), on_from(tmp_path / "moved")
    assert config_hash(ours) == config_hash(moved)
    assert options_of(ours)[4:6] == ["--from", str(net)]
    scratch = retrain_config(load_network(net).genotype, "tiny", "digits", threads=1, epochs=1)
    assert config_hash(scratch) != config_hash(ours)
    (tmp_path / "moved").unlink()
    with pytest.raises(LabError, match=r"weights = .*moved"):
        build_network(moved)


def test_training_begins_with_the_kept_weights_and_a_fresh_head(net):
    network = build_network(on_from(net))
    kept = load_network(net).state_dict()
    state = network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in kept.items())
    assert {name.split(".")[0] for name in state.keys() - kept.keys()} == {"auxiliary_head"}
    images = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), load_network(net)(images), rtol=1e-5, atol=1e-5)


def test_a_retraining_from_a_network_goes_on_bit_for_bit(net, tmp_path):
    config = on_from(net, epochs=3, drop_path=0.4)

    with pytest.raises(Stopped):
        retrain(config, tmp_path / "stopped", progress=False, on_epoch=stop)
    for name in ("stopped", "undisturbed"):
        retrain(config, tmp_path / name, progress=False)
    for name in ("history.jsonl", "result.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
    ours, theirs = (read_checkpoint(tmp_path / name)[0]["network"] for name in ("stopped", "undisturbed"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    begun = load_network(net).state_dict()
    assert torch.equal(theirs["cells.0.edge_weights"], begun["cells.0.edge_weights"])
    assert not torch.equal(theirs["classifier.weight"], begun["classifier.weight"])


# --- what kept weights are worth --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_errors_by_epochs_of_retraining_from_scratch_and_kept(tmp_path):
    settings = Settings("tiny", "digits", runs=tmp_path, figures=tmp_path, records=False)
    searches = make.make_runs([settings.search("darts", 0, epochs=2)], settings)
    rows = kept_weight_rows(searches, settings, "4/14", [1, 2])
    assert [(row["start"], row["epochs"]) for row in rows] == [
        ("kept", 0),
        *((start, epochs) for epochs in (1, 2) for start in ("scratch", "kept")),
    ]
    assert {row["method"] for row in rows} == {"darts"} and all(0 <= row["error"] <= 100 for row in rows)
    # Two searches that have found one cell have rows each.
    assert len(kept_weight_rows(2 * searches, settings, "4/14", [1, 2])) == 2 * len(rows)


def test_epochs_saved_are_those_from_scratch_until_the_error_is_as_small():
    errors = {"scratch": {1: 40, 2: 30, 4: 20}, "kept": {0: 35, 1: 20, 2: 10}}
    rows = [
        {"method": "m", "budget": "4/14", "seed": seed, "start": start, "epochs": epochs, "error": error + seed}
        for seed in (0, 2)
        for start, own in errors.items()
        for epochs, error in own.items()
    ]
    found = {row["epochs"]: (row["scratch_epochs"], row["saved"]) for row in epochs_saved(rows)}
    assert found == {0: (2, 2), 1: (4, 3), 2: (None, None)}
    assert "of 1, 2, 4 that were tried: m 36.00 % (2)" in sentence(rows)
    figure = error_over_epochs(summarise(rows, ("method", "start", "epochs"), ("error",)))
    assert len(figure.axes[0].containers) == 2
