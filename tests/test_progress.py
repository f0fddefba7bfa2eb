"""The line of a search that is under way: what it says is what is known, and saying it changes nothing."""

import json
import math

import numpy as np
import pytest
import torch

from daas_lab.compose import search_config
from daas_lab.methods.lookup import METHODS, method_class
from daas_lab.runs.folder import read_run
from daas_lab.space.cell_space import CELL_TYPES, PRIMITIVES, cell_edges
from daas_lab.studies.make import make_runs
from daas_lab.studies.settings import Settings
from daas_lab.train.evolution import decided_edges
from daas_lab.train.progress import run_line, search_line, time_left
from daas_lab.train.search import search
from tests.made_runs import write_search

BRIEF = {"layers": 3, "channels": 2, "nodes": 4, "budget": "1,2", "held_out_images": 16, "epochs": 2, "steps": 1}
SKIP, CONV = PRIMITIVES.index("skip_connect"), PRIMITIVES.index("sep_conv_3x3")
EDGES = cell_edges(4)  # (0, 2) (1, 2) (0, 3) (1, 3) (2, 3)
CERTAIN = 2 * math.atanh(0.99)  # between two logits: 99.5 % to half a percent


def architecture(betas, **operations):
    """α that are sure of skips but for edges named e0_2 …, whose two logits for skip and convolution are given."""
    alphas = np.zeros((len(EDGES), len(PRIMITIVES)))
    alphas[:, SKIP] = 30.0
    for name, logits in operations.items():
        alphas[EDGES.index(tuple(map(int, name[1:].split("_")))), [SKIP, CONV]] = logits
    return {f"alphas_{name}": alphas for name in CELL_TYPES} | {f"betas_{name}": np.array(betas) for name in CELL_TYPES}


def decided(budget, betas, **operations):
    config = search_config("tiny", "digits", "da2s", "paper", nodes=4, budget=budget, partial_channels=1)
    return decided_edges(config, architecture(betas, **operations), 1) / 2


def test_an_edge_is_decided_when_neither_its_place_nor_its_operation_is_open():
    sure = [0.0, 0.0, 9.0, 0.0, 0.0]  # node 2 keeps both inputs, node 3 its first
    assert decided("2,1", sure) == 5
    # Two edges that would change places are open until the loser has half a percent of what both have.
    assert decided("2,1", [0, 0, 9, 9 - 0.99 * CERTAIN, 0]) == 3
    assert decided("2,1", [0, 0, 9, 9 - 1.01 * CERTAIN, 0]) == 5
    assert decided("2,1", [0, 0, 0, 0, 0]) == 2
    # Of a kept edge the operation counts; of one that is cut off it does not.
    assert decided("2,1", sure, e0_3=[30, 30 - 0.99 * CERTAIN]) == 4
    assert decided("2,1", sure, e0_3=[30, 30 - 1.01 * CERTAIN]) == 5
    assert decided("2,1", sure, e1_3=[30, 30]) == 5


def test_what_leaves_a_dropped_node_is_as_open_as_what_could_enter_it():
    # Nodes 2 and 3 share one edge, so that one of them is dropped; 4 keeps one.
    config = search_config("tiny", "digits", "da2s", "paper", nodes=5, budget="{2+3}:1,4:1", partial_channels=1)
    alphas = np.zeros((9, len(PRIMITIVES)))
    alphas[:, SKIP] = 30.0

    def decided_of_nine(betas):
        both = {"alphas": alphas, "betas": np.array(betas)}
        return decided_edges(config, {f"{k}_{name}": v for k, v in both.items() for name in CELL_TYPES}, 1) / 2

    assert decided_of_nine([20, 0, 0, 0, 0, 20, 0, 0, 0]) == 9
    # 0→2 and 0→3 are close, so that 3→4 is not decided either; 2→3, inside the group, is none that could be kept.
    assert decided_of_nine([20, 0, 19, 0, 0, 20, 0, 0, 0]) == 6


def test_darts_ends_without_a_decision_and_a_search_that_decides_is_counted(tmp_path):
    run = read_run(write_search(tmp_path / "run", "da2s"))
    numbers = [decided_edges(run.config, run.architecture(epoch), epoch) for epoch in (0, 50)]
    assert numbers[0] == 0 < numbers[1] < 28
    assert run_line(run) == f"accuracy 88.4 %, {numbers[1]}/28 edges decided"


def test_the_line_says_what_was_measured_last_and_nothing_else():
    config, parameters = search_config("tiny", "digits", "da2s", nodes=4, budget="2,1"), architecture([0, 0, 9, 0, 0])
    records = [{"epoch": epoch, "held_out_accuracy": 70.0 + epoch} for epoch in (1, 2, 3)]

    def line(*gaps):
        return search_line(
            config, [r | ({"gap": g} if g else {}) for r, g in zip(records, gaps, strict=False)], parameters
        )

    edges = f"{decided_edges(config, parameters, 3)}/10 edges decided"
    other = {"budget": "1,1", "before": 72.0, "after": 11.0}
    own = {"budget": "2,1", "before": 72.0, "after": 40.25}
    assert line(None, None, None) == f"accuracy 73.0 %, {edges}"
    assert line(None, [other, own]) == f"accuracy 72.0 → 40.2 %, {edges}"
    assert line([other], [other, own], None) == f"accuracy 73.0 %, 72.0 → 40.2 % at epoch 2, {edges}"
    assert line(None, [other]) == f"accuracy 72.0 → 11.0 % at 1,1, {edges}"


@pytest.mark.parametrize("method", [name for name in METHODS if method_class(name).trains])
def test_to_ask_how_far_a_search_is_draws_no_random_number(method):
    config = search_config("tiny", "digits", method)
    parameters = {}
    for name in CELL_TYPES:
        drawn = config.searcher.start(config.space, config.edge_budget.only(name))
        parameters |= {f"{kind}_{name}": value for kind, value in drawn._asdict().items()}
    before = torch.get_rng_state()
    assert 0 <= decided_edges(config, parameters, 1) <= 28
    assert torch.equal(torch.get_rng_state(), before)


def test_the_terminal_shows_the_line_and_the_search_ends_in_the_same_bytes(tmp_path, capsys):
    config = search_config("tiny", "digits", "da2s", threads=1, gap_every=1, **BRIEF)
    search(config, tmp_path / "shown")
    shown = capsys.readouterr().err.split("\r")[-1].strip()
    search(config, tmp_path / "silent", progress=False)
    assert capsys.readouterr().err == ""
    run = read_run(tmp_path / "shown")
    assert shown.endswith(f"| 00:00 left, epoch 2/2, {run_line(run)}")
    assert f"{run.history[-1]['held_out_accuracy']:.1f} → {run.history[-1]['gap'][0]['after']:.1f} %" in shown
    for name in ("architecture.safetensors", "genotype.json", "history.jsonl"):
        assert (tmp_path / "shown" / name).read_bytes() == (tmp_path / "silent" / name).read_bytes()


@pytest.mark.slow
def test_runs_side_by_side_share_a_line_that_names_who_speaks(tmp_path, capsys):
    settings = Settings("tiny", "digits", runs=tmp_path / "runs", figures=tmp_path, workers=1)
    brief = {name: value for name, value in BRIEF.items() if name not in ("epochs", "budget")}
    make_runs([settings.search(name, 0, epochs=2, **brief, budget="1,2") for name in ("darts", "da2s")], settings)
    last = capsys.readouterr().err.split("\r")[-1]
    assert " 00:00 left, da2s s0 epoch 2/2, accuracy " in last and "/10 edges decided" in last


def test_the_time_left_is_that_of_the_last_epochs(tmp_path):
    assert time_left(tmp_path, 3) == ""
    lines = [{"epoch": epoch, "seconds": 900.0 if epoch < 3 else 20.0 + epoch} for epoch in range(1, 8)]
    (tmp_path / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert time_left(tmp_path, 3) == "01:15 left"
    assert time_left(tmp_path, 0) == ""
