"""Retraining: killed, divided over processes or micro-batches, in other precisions, it is the same training."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from daas_lab.compose import retrain_config, search_config
from daas_lab.errors import LabError
from daas_lab.methods.losses import operation_entropy
from daas_lab.networks.build import build_network
from daas_lab.runs.folder import epochs_done, is_finished, read_checkpoint, read_run
from daas_lab.runs.lock import BeingWritten
from daas_lab.train import distributed, loop
from daas_lab.train.retrain import describe, learning_rate, retrain
from daas_lab.train.search import build_supernet, search
from tests.killing import killed_at_random
from tests.waiting import PATIENCE


def tiny(**changes):
    return retrain_config("PDARTS", "tiny", "digits", **({"threads": 1, "drop_path": 0.3} | changes))


def weights(folder):
    return read_checkpoint(folder)[0]["network"]


# --- recipes ----------------------------------------------------------------------------------------------------------


def test_the_recipe_for_cifar():
    config = retrain_config("DARTS_V2", "full", "cifar10")
    expected = {"form": "cifar", "layers": 20, "channels": 36, "epochs": 600, "batch_size": 96, "steps": 520}
    expected |= {"learning_rate": 0.025, "schedule": "cosine", "momentum": 0.9, "weight_decay": 3e-4, "side": 32}
    expected |= {"cutout": 16, "drop_path": 0.3, "auxiliary_weight": 0.4, "gradient_clip": 5.0, "crop_padding": 4}
    expected |= {"train_images": 50_000, "label_smoothing": 0.0, "flip": True}
    assert {name: getattr(config, name) for name in expected} == expected
    rates = [learning_rate(config, epoch) for epoch in range(1, 601)]
    assert rates[0] == 0.025 and rates[300] == pytest.approx(0.0125) and 0 < rates[-1] < 1e-6
    assert rates == sorted(rates, reverse=True)


def test_a_network_above_the_mobile_setting_is_warned_of():
    config = retrain_config("NASNet", "full", "imagenet")
    size = {"parameters": 5_564_320, "multiply_adds": 604_031_616}
    expected = "5,564,320 parameters, 604 M multiply-adds an image"
    assert describe(config, size) == f"{expected}: more than the 600 M of the mobile setting"
    assert describe(retrain_config("NASNet", "full", "cifar10"), size) == expected
    size["multiply_adds"] = 600_000_000
    assert describe(config, size) == "5,564,320 parameters, 600 M multiply-adds an image"
    assert describe(config, size | {"multiply_adds": 123_456}).endswith("0.12 M multiply-adds an image")


# --- interrupted ------------------------------------------------------------------------------------------------------


def retrain_briefly(folder, on_epoch):
    retrain(tiny(epochs=12, steps=1, layers=3, channels=2), folder, progress=False, on_epoch=on_epoch)


@pytest.mark.slow
def test_a_killed_retraining_ends_bit_for_bit_like_an_undisturbed_one(tmp_path):
    # A few times: all below the trainer is what a search killed eight times has shown.
    folder, undisturbed = killed_at_random(retrain_briefly, tmp_path, kills=4)
    for name in ("history.jsonl", "result.json"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name
    ours, theirs = weights(folder), weights(undisturbed)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_loss_that_is_not_finite_stops_with_epoch_step_and_term_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    config = tiny(epochs=3, drop_path=0)
    original = loop.StepLosses.add
    steps = []

    def add(self, terms):  # as if the second step of the second epoch had overflowed
        steps.append(terms)
        auxiliary = terms["auxiliary_loss"] * (math.inf if len(steps) == 5 else 1)
        original(self, terms | {"auxiliary_loss": auxiliary})

    monkeypatch.setattr(loop.StepLosses, "add", add)
    with pytest.raises(LabError, match=r"auxiliary_loss = inf in epoch 2, step 2: .* checkpoint of epoch 1 is kept"):
        retrain(config, tmp_path, progress=False)
    assert epochs_done(tmp_path) == 1 and not is_finished(tmp_path)
    monkeypatch.undo()
    retrain(config, tmp_path, progress=False)
    assert epochs_done(tmp_path) == 3 and is_finished(tmp_path)


def test_a_learning_rate_that_breaks_the_training_is_noticed(tmp_path):
    with pytest.raises(LabError, match=r"_loss = (nan|inf) in epoch \d+, step \d+"):
        retrain(tiny(epochs=4, learning_rate=1e30), tmp_path, progress=False)


# --- on several processes ---------------------------------------------------------------------------------------------

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
PAIR = {"epochs": 4, "steps": 2, "micro_batches": 2, "drop_path": 0.3, "threads": 1}


BUFFERS = ("running_", "num_batches")  # of batch-norm: each process has seen its own halves


def start_pair(folder):
    """Two processes under torchrun that retrain `PAIR` in `folder`."""
    command = [*TORCHRUN, "-m", "daas_lab", "retrain", "--genotype", "PDARTS", "--preset", "tiny"]
    options = [word for item in PAIR.items() for word in ("--set", "=".join(map(str, item)))]
    return subprocess.Popen(
        [*command, "--dataset", "digits", "--out", str(folder), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair") / "run"
    finish(start_pair(folder))
    return folder


@pytest.mark.cluster
def test_two_processes_train_like_one_that_accumulates_the_gradients_of_the_same_halves(pair, tmp_path):
    retrain(tiny(**PAIR), tmp_path, progress=False)
    ours, theirs = weights(tmp_path), weights(pair)
    compared = [name for name in ours if not name.split(".")[-1].startswith(BUFFERS)]
    assert len(compared) > 100
    for name in compared:
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-5, atol=1e-5, msg=name)
    for alone, together in zip(read_run(tmp_path).history, read_run(pair).history, strict=True):
        assert together["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-5)
        assert together["train_accuracy"] == alone["train_accuracy"]
    # The halves are halves: without accumulation batch-norm sees other batches.
    retrain(tiny(**PAIR | {"micro_batches": 1}), tmp_path / "whole", progress=False)
    assert read_run(tmp_path / "whole").history[0]["train_loss"] != read_run(tmp_path).history[0]["train_loss"]


@pytest.mark.cluster
def test_a_pair_of_which_one_was_killed_continues_to_the_same_result(pair, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import json, os, signal, sys\n"
        "from daas_lab.compose import retrain_config\n"
        "from daas_lab.train import loop, retrain\n"
        "means = loop.StepLosses.means\n"
        "def die_in_the_third_epoch(losses, epoch):\n"
        "    if os.environ['RANK'] == '1' and epoch == 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return means(losses, epoch)\n"
        "loop.StepLosses.means = die_in_the_third_epoch\n"
        "config = retrain_config('PDARTS', 'tiny', 'digits', **json.loads(sys.argv[1]))\n"
        "retrain.retrain(config, sys.argv[2], progress=False)\n"
    )
    folder = tmp_path / "run"
    killed = subprocess.run([*TORCHRUN, str(program), json.dumps(PAIR), str(folder)], capture_output=True)
    assert killed.returncode != 0 and epochs_done(folder) == 2 and not is_finished(folder)
    finish(start_pair(folder))
    for name in ("history.jsonl", "result.json"):
        assert (folder / name).read_bytes() == (pair / name).read_bytes(), name
    ours, theirs = weights(folder), weights(pair)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.cluster
def test_what_a_launched_process_says_is_said_in_one_line():
    assert distributed.launch(1, math.sqrt, 4) is None
    with pytest.raises(LabError, match=r"^process [01] of 2: ValueError: .*$"):
        distributed.launch(2, math.sqrt, -1)
    with pytest.raises(BeingWritten, match=r"^run folder x is being written$"):  # for which its caller can wait
        distributed.launch(2, _being_written)


def _being_written():
    raise BeingWritten("run folder x is being written")


@pytest.mark.cluster
def test_a_search_on_two_processes_trains_like_one_that_accumulates(tmp_path):
    sizes = {"layers": 3, "channels": 2, "nodes": 4, "budget": "1,2", "held_out_images": 16, "epochs": 2, "steps": 2}
    sizes |= {"micro_batches": 2, "threads": 1}
    program = (
        "import json, sys\n"
        "from daas_lab.compose import search_config\n"
        "from daas_lab.train.search import search\n"
        "search(search_config('tiny', 'digits', **json.loads(sys.argv[1])), sys.argv[2], progress=False)\n"
    )
    (tmp_path / "program.py").write_text(program)
    together, alone = tmp_path / "together", tmp_path / "alone"
    subprocess.run([*TORCHRUN, str(tmp_path / "program.py"), json.dumps(sizes), str(together)], check=True)
    search(search_config("tiny", "digits", **sizes), alone, progress=False)
    ours, theirs = weights(alone), weights(together)
    moved = build_supernet(search_config("tiny", "digits", **sizes)).state_dict()
    for name in ours:
        if not name.split(".")[-1].startswith(BUFFERS):
            torch.testing.assert_close(theirs[name], ours[name], rtol=1e-5, atol=1e-5, msg=name)
    assert not torch.equal(ours["alphas_normal"], moved["alphas_normal"])


def test_a_number_of_micro_batches_that_cannot_be_is_refused(tmp_path, monkeypatch):
    for parts in (3, 16):
        with pytest.raises(LabError, match=rf"micro_batches = {parts}: must be a divisor of batch_size = 16"):
            tiny(micro_batches=parts)
    with pytest.raises(LabError, match="micro_batches = 2: must be 1 for DARTS, second order"):
        search_config("tiny", "digits", "darts2", micro_batches=2)
    with (
        pytest.raises(LabError, match="sync_batch_norm = True: must be false on cpu"),
        loop.prepare(tiny(sync_batch_norm=True)),
    ):
        pass
    monkeypatch.setattr(loop.distributed, "world_size", lambda: 2)
    with (
        pytest.raises(LabError, match="micro_batches = 1: must be a multiple of the 2 processes"),
        loop.prepare(tiny()),
    ):
        pass


# --- in other precisions ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_float32(tmp_path_factory):
    folder = tmp_path_factory.mktemp("float32")
    retrain(tiny(drop_path=0, epochs=1), folder, progress=False)
    return read_run(folder)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_retraining_under_autocast_stays_near_float32(in_float32, tmp_path, precision):
    retrain(tiny(drop_path=0, epochs=1, precision=precision), tmp_path, progress=False)
    theirs, ours = in_float32.history[0]["train_loss"], read_run(tmp_path).history[0]["train_loss"]
    assert ours == pytest.approx(theirs, rel=0.02) and ours != theirs
    assert all(value.dtype in (torch.float32, torch.int64) for value in weights(tmp_path).values())
    scaler = read_checkpoint(tmp_path)[0].get("scaler")
    assert (scaler is not None) == (precision == "float16")
    if scaler is not None:
        # Each of the three steps is counted: as one that went well, or by halving the scale.
        assert scaler["_growth_tracker"] > 0 or scaler["scale"] < 65536


def test_under_autocast_logits_and_batch_norm_statistics_are_float32():
    torch.manual_seed(0)
    network = build_network(tiny(side=32)).to(memory_format=torch.channels_last)
    # 32,768 pixels a channel of mean 5: a sum in bfloat16 would stand still at a few hundred.
    x = (5 + torch.randn(32, 1, 32, 32)).to(memory_format=torch.channels_last)
    expected = network.stem(x)
    assert expected.abs().max() > 1
    statistics = network.stem[1].running_mean.clone(), network.stem[1].running_var.clone()
    network.stem[1].reset_running_stats()
    logits, auxiliary_logits = loop.forward(network, "bfloat16", x)
    assert logits.dtype == auxiliary_logits.dtype == torch.float32
    for ours, theirs in zip((network.stem[1].running_mean, network.stem[1].running_var), statistics, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0.01)


def test_a_search_under_autocast_keeps_softmax_and_entropies_in_float32(tmp_path):
    changes = {"layers": 3, "channels": 2, "nodes": 4, "budget": "1,2", "epochs": 1, "steps": 2, "threads": 1}
    # The entropies are measured after the epoch, when Adam has moved α by its learning rate whatever the gradient.
    changes["arch_learning_rate"] = 0.01
    config = search_config("tiny", "digits", precision="bfloat16", **changes)
    network = build_supernet(config)
    with torch.autocast("cpu", torch.bfloat16):
        mixture = network.mixtures()
        for part in mixture.values():
            assert part.operation_logits.dtype == torch.float32 and part.edges.dtype == torch.float32
            assert part.operations.dtype == torch.float32
            assert operation_entropy(part.operation_logits).dtype == torch.float32
    for name, value in (("16", "bfloat16"), ("32", "float32")):
        search(search_config("tiny", "digits", precision=value, **changes), tmp_path / name, progress=False)
    ours, theirs = (read_run(tmp_path / name).history[0] for name in ("16", "32"))
    for loss in ("train_loss", "architecture_loss"):
        assert ours[loss] == pytest.approx(theirs[loss], rel=0.05) and ours[loss] != theirs[loss]
    assert ours["operation_loss"] == pytest.approx(theirs["operation_loss"], rel=0.05)
    assert weights(tmp_path / "16")["alphas_normal"].dtype == torch.float32


@pytest.mark.slow
def test_a_compiled_network_computes_the_same_under_the_same_names(monkeypatch):
    """As torch traces it; what its compilers make of that is theirs, and needs one at hand."""
    compiled = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda network: compiled(network, backend="eager"))
    config, found = tiny(layers=3, channels=4), []
    for by in (False, True):
        torch.manual_seed(0)
        network = loop.place(build_network(config), replace(config, compile=by), torch.device("cpu"))
        found.append((*network(torch.linspace(-1, 1, 256).view(4, 1, 8, 8)), *network.state_dict().values()))
        names = list(network.state_dict())
    assert all(map(torch.equal, *found)) and "stem.0.weight" in names
