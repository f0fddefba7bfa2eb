"""The paper's own presets at full width: real steps of them, and what they say a run will take."""

import re

import pytest
import torch

from daas_lab import cli
from daas_lab.compose import retrain_config, search_config
from daas_lab.errors import LabError
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.studies.estimate import describe, estimate, make_search_step


@pytest.mark.slow
@pytest.mark.parametrize("config", [search_config("full", "cifar10"), retrain_config("DARTS_V2", "full", "cifar10")])
def test_the_full_presets_for_cifar_run_real_steps_and_state_time_and_memory(config):
    figures = estimate(config, images=4, steps=1)
    assert figures["images"] == 4 and figures["step_s"] > 0
    assert figures["epoch_s"] == pytest.approx(figures["step_s"] * config.steps)
    assert figures["run_s"] == pytest.approx(figures["epoch_s"] * config.epochs)
    # Both keep some 50 to 100 MB an image for the backward pass.
    assert 1e9 < figures["peak_bytes"] < 20e9
    text = describe(config, figures)
    assert f"an epoch of {config.steps} steps" in text and f"for {config.epochs} epochs" in text and "GiB" in text


def test_memory_grows_with_the_images_that_pass_at_a_time_and_time_does_not():
    whole = retrain_config("DARTS_V2", "tiny", "digits", side=32, channels=16, batch_size=64)
    parts = retrain_config("DARTS_V2", "tiny", "digits", side=32, channels=16, batch_size=64, micro_batches=16)
    assert estimate(whole, images=16)["peak_bytes"] > estimate(parts, images=16)["peak_bytes"]


def test_a_step_is_measured_as_a_search_takes_it():
    """Each with draws of its own, in either part those of the part, and without α and β where these rest."""
    seen = []

    class Noted(SuperNetwork):
        def forward(self, x, mixtures=None):
            seen.append((self.at.part, self.at.step))
            return super().forward(x, mixtures)

    config = search_config("tiny", "digits", "proxyless", epochs=8, layers=3, channels=2, batch_size=4)
    assert config.warmup == 2
    batch = torch.rand(4, 1, 8, 8), torch.arange(4)
    for epoch in (2, 3):
        step = make_search_step(config, torch.device("cpu"), epoch, form=Noted)
        step(*batch)
        step(*batch)
    both = [(part, step) for step in range(2) for part in ("architecture", "weights")]
    assert seen == [("weights", 0), ("weights", 1), *both]


def test_estimate_on_the_command_line_trains_nothing(capsys, tmp_path):
    command = ["retrain", "--genotype", "PDARTS", "--preset", "tiny", "--dataset", "digits", "--estimate"]
    assert cli.main([*command, "--out", str(tmp_path / "x")]) == 0
    assert re.match(r"[\d.e-]+ s a step of 16 images, [\d.]+ s an epoch of 3 steps", capsys.readouterr().out)
    assert not (tmp_path / "x").exists()
    assert cli.main(command[:-1]) == 2
    assert "--out = None: must be the run's folder" in capsys.readouterr().err
    with pytest.raises(LabError, match="method = 'random': must be one that trains a super-network"):
        estimate(search_config("tiny", "digits", "random"))
