"""Searches killed in the middle end exactly as undisturbed ones."""

import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from daas_lab.compose import retrain_config, search_config
from daas_lab.errors import LabError
from daas_lab.identity import config_hash
from daas_lab.methods.lookup import method_class
from daas_lab.runs.folder import epochs_done, is_finished, read_run
from daas_lab.train.loop import evaluate, prepare, restore, set_learning_rate
from daas_lab.train.retrain import retrain
from daas_lab.train.search import begin_anew, build_supernet, load_supernet, make_optimizers, search
from daas_lab.train.splits import search_splits
from daas_lab.train.writer import open_run
from tests.killing import Stopped, killed_at_random, stop

COMMAND = [sys.executable, "-m", "daas_lab", "search", "--preset", "tiny", "--dataset", "digits", "--threads", "1"]
FILES = ("history.jsonl", "architecture.safetensors", "genotype.json")


def start(folder):
    return subprocess.Popen([*COMMAND, "--epochs", "6", "--out", str(folder)], stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert start(folder).wait() == 0
    return folder


def search_briefly(folder, on_epoch):
    """25 epochs of one step: a process that is killed finishes one of them at the most."""
    sizes = {"layers": 3, "channels": 2, "nodes": 4, "budget": "1,2", "held_out_images": 16}
    config = search_config("tiny", "digits", "da2s_exact", threads=1, epochs=25, steps=1, **sizes)
    search(config, folder, progress=False, on_epoch=on_epoch)


@pytest.mark.slow
def test_a_search_killed_eight_times_ends_bit_for_bit_like_an_undisturbed_one(tmp_path):
    folder, undisturbed = killed_at_random(search_briefly, tmp_path, kills=8)
    for name in FILES:
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name


@pytest.mark.slow
def test_damaged_files_of_a_finished_search_are_written_again_by_the_same_command(undisturbed, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    for name in FILES:
        (folder / name).write_bytes((folder / name).read_bytes()[:40])
    assert start(folder).wait() == 0
    for name in (*FILES, "checkpoint.pt"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name


@pytest.mark.slow
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(undisturbed, tmp_path):
    folder = tmp_path / "run"

    def stop():
        if epochs_done(folder) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(read_run(undisturbed).config, folder, progress=False, on_epoch=stop)
    content = bytearray((folder / "checkpoint.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "checkpoint.pt").write_bytes(content)
    again = subprocess.run(
        [*COMMAND, "--epochs", "6", "--out", str(folder)], capture_output=True, text=True, check=True
    )
    assert "damaged" in again.stderr
    for name in FILES:
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name


@pytest.mark.slow
def test_a_folder_that_is_being_written_is_refused_with_the_pid(tmp_path):
    config = search_config("tiny", "digits", threads=1)
    with open_run(tmp_path / "run", config):
        second = subprocess.run([*COMMAND, "--out", str(tmp_path / "run")], capture_output=True, text=True)
    assert second.returncode == 2 and str(os.getpid()) in second.stderr


def test_the_history_holds_every_epoch_and_alpha_rests_at_first(undisturbed):
    run = read_run(undisturbed)
    assert [record["epoch"] for record in run.history] == list(range(1, 7))
    assert run.alphas["normal"].shape == (7, 14, 7) and run.betas["reduce"].shape == (7, 14)
    assert (run.alphas["normal"][1] == run.alphas["normal"][0]).all(), "α waits one of six epochs"
    assert (run.alphas["normal"][2] != run.alphas["normal"][1]).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoilt_groups", "rate", "words"),
    [
        (1, 1e38, "architecture_loss = nan in epoch 3, step 2"),  # the weights' learning rate
        (2, float("nan"), "train_loss = nan in epoch 3, step 1"),  # that of α and β, which are trained first
    ],
)
def test_a_loss_that_is_not_finite_stops_the_search_and_names_it(spoilt_groups, rate, words, tmp_path, monkeypatch):
    config = search_config("tiny", "digits", "darts", threads=1, layers=3, channels=2, held_out_images=16, epochs=4)

    def spoil(optimizer, *rates):
        spoilt = len(rates) == spoilt_groups and epochs_done(tmp_path) == 2
        set_learning_rate(optimizer, *([rate] * len(rates) if spoilt else rates))

    with monkeypatch.context() as patch:
        patch.setattr("daas_lab.train.search.set_learning_rate", spoil)
        with pytest.raises(LabError, match=f"{words}: must be finite; the checkpoint of epoch 2 is kept"):
            search(config, tmp_path, progress=False)
    assert not is_finished(tmp_path) and epochs_done(tmp_path) == 2
    search(config, tmp_path, progress=False)
    assert is_finished(tmp_path)


def test_a_search_and_a_retraining_leave_the_process_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("GPUs' generators are seeded"))

    def state():
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        rules = cudnn.benchmark, *(part.fp32_precision for part in (cudnn.conv, cudnn.rnn, matmul))
        rules += (torch.are_deterministic_algorithms_enabled(),)
        random_state = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()
        return torch.get_num_threads(), rules, os.environ.get("CUBLAS_WORKSPACE_CONFIG"), random_state

    before = state()
    threads = 2 if torch.get_num_threads() == 1 else 1
    brief = {"layers": 3, "channels": 2, "epochs": 1, "steps": 1, "threads": threads, "deterministic": True}
    search(search_config("tiny", "digits", "darts", **brief), tmp_path / "search", progress=False)
    load_supernet(tmp_path / "search")
    retrain(retrain_config("DARTS_V2", "tiny", "digits", **brief), tmp_path / "retrain", progress=False)
    assert state() == before


def test_what_a_notebook_has_chosen_for_its_gpus_is_left_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # whose random numbers cannot be read here
    matmul, precision = torch.backends.cuda.matmul, torch.backends.cuda.matmul.fp32_precision
    matmul.fp32_precision = "tf32"  # from now on torch refuses to say it by its old name
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with prepare(search_config("tiny", "digits", threads=1)):
            torch.use_deterministic_algorithms(False)
            matmul.fp32_precision = "ieee"
        assert matmul.fp32_precision == "tf32"
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        matmul.fp32_precision = precision


def test_a_network_is_drawn_without_seeding_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeded"))
    config = search_config("tiny", "digits", threads=1, layers=3, channels=2)
    network = build_supernet(config)
    begin_anew(network, config, 4, 2, *make_optimizers(config, network))


def test_an_optimizer_steps_as_it_was_made_whichever_way_the_one_of_the_checkpoint_did(tmp_path):
    weight = torch.nn.Parameter(torch.zeros(2))
    here, there = (torch.optim.Adam([weight], fused=fused) for fused in (False, True))
    restore(tmp_path, {"optimizer": here}, {"optimizer": there.state_dict()})
    assert here.param_groups[0]["fused"] is False and there.param_groups[0]["fused"] is True
    other = torch.optim.RMSprop([weight])  # of no such kind
    restore(tmp_path, {"optimizer": other}, {"optimizer": other.state_dict()})
    more = torch.optim.Adam([{"params": [weight]}, {"params": [torch.nn.Parameter(torch.zeros(1))]}])
    with pytest.raises(LabError, match="is not one of its configuration"):
        restore(tmp_path, {"optimizer": here}, {"optimizer": more.state_dict()})


def test_a_checkpoint_of_another_configuration_is_not_gone_on_from(tmp_path):
    given = {"layers": 3, "channels": 2, "epochs": 2, "steps": 1, "threads": 1}
    with pytest.raises(Stopped):
        search(search_config("tiny", "digits", "darts", **given), tmp_path, progress=False, on_epoch=stop)
    (tmp_path / "config.json").unlink()
    with pytest.raises(LabError, match="must be a folder of its own: its checkpoint is of hash"):
        search(search_config("tiny", "digits", "darts", seed=1, **given), tmp_path, progress=False)


HALVING = """
from dataclasses import dataclass

from daas_lab import Method
from daas_lab.methods.pruning import prune
from daas_lab.space.cell_space import CELL_TYPES


@dataclass(frozen=True, kw_only=True)
class Halving(Method):
    def after_epoch(self, search):
        for name in CELL_TYPES:
            alphas = search.network.alphas(name).data
            prune(alphas, alphas < alphas.median(), search.config.space)
"""


@pytest.mark.slow
def test_where_candidates_leave_after_an_epoch_its_gap_is_that_of_the_network_that_is_left(tmp_path):
    path = tmp_path / "halving.py"
    path.write_text(HALVING)
    sizes = {"layers": 3, "channels": 4, "epochs": 1, "steps": 24, "threads": 1}
    method_class(f"{path}:Halving")
    config = search_config("tiny", "digits", f"{path}:Halving", gap_every=1, gap_budgets="4/14 8/14*4", **sizes)
    search(config, tmp_path / "run", progress=False)
    network, _ = load_supernet(tmp_path / "run")
    before = evaluate(network, search_splits(config).held_out)[1]
    record = read_run(tmp_path / "run").history[-1]
    assert [(row["budget"], row["before"]) for row in record["gap"]] == [("4/14", before)]
    assert record["held_out_accuracy"] != before


def test_a_search_that_keeps_less_of_its_forward_pass_ends_like_another(tmp_path):
    sizes = {"layers": 3, "channels": 2, "nodes": 4, "budget": "1,2", "held_out_images": 16, "steps": 2, "threads": 1}
    configs = [
        search_config("tiny", "digits", "da2s", epochs=2, checkpointed=kept_less, **sizes)
        for kept_less in (True, False)
    ]
    assert config_hash(configs[0]) == config_hash(configs[1])
    assert [build_supernet(config).checkpointed for config in configs] == [True, False]
    with pytest.raises(LabError, match=r"checkpointed = True: must be false: .*without affine batch-norm"):
        search(search_config("tiny", "digits", "rf_darts", checkpointed=True), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    for config, name in zip(configs, ("less", "all"), strict=True):
        search(config, tmp_path / name, progress=False)
    for name in ("history.jsonl", "architecture.safetensors"):
        assert (tmp_path / "less" / name).read_bytes() == (tmp_path / "all" / name).read_bytes()
