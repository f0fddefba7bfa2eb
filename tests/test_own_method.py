"""Outsiders' code: methods in files of their own, through worker processes, kills, sweeps, cuts and retrainings."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest

from daas_lab import LabError, check_method, cli, drops, make_runs, own_files
from daas_lab.compose import search_config
from daas_lab.config import check_named
from daas_lab.identity import config_hash
from daas_lab.methods.lookup import method_class
from daas_lab.report.drawing import save_cells
from daas_lab.runs.folder import read_run
from daas_lab.studies import make
from daas_lab.studies.settings import Settings
from daas_lab.studies.sweep_file import read_sweep
from daas_lab.train.evolution import close_choices_sentence, genotype_after
from daas_lab.train.search import search
from daas_lab.train.splits import search_splits
from tests.killing import killed_at_random

FAIR_DARTS = '''
from dataclasses import dataclass
from typing import ClassVar

import torch

from daas_lab import Method, Mixture, Strengths


@dataclass(frozen=True, kw_only=True)
class FairDarts(Method):
    """FairDARTS (arXiv 1911.12126): independent sigmoids, a zero-one loss, and a threshold for edges."""

    weight: float = 10.0
    threshold: float = 0.85
    title: ClassVar[str] = "FairDARTS"

    def mix(self, architecture, cell_type, at):
        return Mixture(architecture.alphas.sigmoid(), torch.ones_like(architecture.betas))

    def regularise(self, architectures, mixtures, at):
        sigma = torch.cat([mixture.operations for mixture in mixtures.values()])
        return {"zero_one": -self.weight * ((sigma - 0.5) ** 2).mean()}

    def strengths(self, architecture, cell_type, at):
        sigma = architecture.alphas.sigmoid()
        chosen = (sigma >= self.threshold).sum(dim=1)  # an edge with an operation over the threshold goes first
        return Strengths(sigma, chosen + sigma.amax(dim=1))
'''

GUMBEL = """
from dataclasses import dataclass

import torch

from daas_lab import Method, Mixture


@dataclass(frozen=True, kw_only=True)
class Gumbel(Method):
    temperature: float = 0.5

    def mix(self, architecture, cell_type, at):
        logits = architecture.alphas
        if at.training:
            draws = torch.rand(logits.shape, generator=at.generator()).clamp(1e-6, 1 - 1e-6)
            logits = logits - torch.log(-torch.log(draws)).to(logits)
        return Mixture((logits / self.temperature).softmax(dim=1), torch.ones_like(architecture.betas))
"""

SHORT = {"layers": 3, "channels": 2, "steps": 2, "held_out_images": 16}


@pytest.fixture
def files(tmp_path):
    """The names of both methods, in files that nothing has read yet."""
    found = {}
    for class_name, text in (("FairDarts", FAIR_DARTS), ("Gumbel", GUMBEL)):
        path = tmp_path / f"{class_name.lower()}.py"
        path.write_text(text)
        found[class_name] = f"{path}:{class_name}"
    return found


DECORATED = "@dataclass(frozen=True, kw_only=True)\n"


@pytest.fixture
def settings(tmp_path):
    return Settings(preset="tiny", dataset="digits", runs=tmp_path / "runs", figures=tmp_path / "figures", workers=2)


def test_both_keep_what_a_method_has_to(files):
    for name in files.values():
        check_method(method_class(name), budgets=("8/14", "3/14"))


def test_who_names_an_edited_file_hears_that_it_is_another(tmp_path):
    path = tmp_path / "gumbel.py"
    path.write_text(GUMBEL.replace("Gumbel", "Edited"))
    config = search_config("tiny", "digits", f"{path}:Edited", **SHORT)
    path.write_text(GUMBEL.replace("Gumbel", "Edited") + "\n# edited\n")
    code = f"""
import sys
from daas_lab.methods.lookup import method_class, recorded_class
from daas_lab.errors import LabError
method_class(sys.argv[1])
try:
    recorded_class(sys.argv[1], {config.method_digest!r})
except LabError as error:
    print(error)
"""
    said = subprocess.run(
        [sys.executable, "-c", code, f"{path}:Edited"], capture_output=True, text=True, check=True
    ).stdout
    assert "has another content" in said and config.method_digest in said and str(path) in said


def test_an_edit_of_the_same_instant_and_length_is_executed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "often.py"
    for number in range(3):
        path.write_text(f"NUMBER = {number}\n")
        os.utime(path, (1e9, 1e9))
        assert own_files.load_own("operations", f"{path}:NUMBER") == number
    assert [own.name for own in tmp_path.iterdir()] == ["often.py"]


@pytest.mark.parametrize(
    ("gives", "words"),
    [
        ("one, labels", ["gives 2 values", "test images"]),
        ("None", ["cannot be used", "NoneType"]),
        ("one, labels, one, one", ["targets"]),
    ],
)
def test_a_function_of_data_that_gives_something_else_is_told_what_it_gave(gives, words, tmp_path):
    path = tmp_path / "mine.py"
    text = f"one, labels = np.zeros((4, 8, 8), np.uint8), np.arange(4) % 2\ndef mine():\n    return {gives}\n"
    path.write_text(f"import numpy as np\n{text}")
    with pytest.raises(LabError) as error:
        search_config("tiny", f"{path}:mine", "darts")
    assert all(word in str(error.value) for word in ["dataset", str(path), *words])


def test_a_function_of_data_that_was_moved_is_named_again(tmp_path):
    path = tmp_path / "moved_data.py"
    path.write_text(
        "import numpy as np\n\n\ndef moved():\n    x, y = np.full((400, 8, 8), 99, np.uint8), np.arange(400) % 2\n"
        "    return x, y, x[:20], y[:20]\n"
    )
    config = search_config("tiny", f"{path}:moved", "darts")
    (tmp_path / "elsewhere").mkdir()
    path = path.rename(tmp_path / "elsewhere" / path.name)
    own_files.load_own("dataset", f"{path}:moved")
    check_named(config)
    assert len(search_splits(config).weights) == 96


@pytest.mark.slow
def test_a_run_whose_files_were_moved_is_measured_by_worker_processes_that_know_them_too(settings, tmp_path):
    data = "import numpy as np\n\n\ndef grey():\n    x, y = np.full((400, 8, 8), 99, np.uint8), np.arange(400) % 2\n"
    (tmp_path / "grey.py").write_text(f"{data}    return x, y, x[:20], y[:20]\n")
    (tmp_path / "wandering.py").write_text(GUMBEL.replace("Gumbel", "Wandering"))
    names = {"grey": "dataset", "wandering": "method"}
    texts = {part: f"{tmp_path}/{stem}.py:{stem if part == 'dataset' else 'Wandering'}" for stem, part in names.items()}
    own = replace(settings, dataset=texts["dataset"])
    (run,) = make_runs([own.search(texts["method"], 0, epochs=1, **SHORT)], own)
    (tmp_path / "elsewhere").mkdir()
    for stem, part in names.items():
        (tmp_path / f"{stem}.py").rename(tmp_path / "elsewhere" / f"{stem}.py")
        own_files.load_own(part, texts[part].replace(f"{stem}.py", f"elsewhere/{stem}.py"))
    [row] = [
        row for row in drops([run], ["4/14"], own) if (row["edge_weight"], row["batch_norm"]) == ("one", "as-trained")
    ]
    assert 0 <= row["after"] <= 100
    os.remove(tmp_path / "elsewhere" / "wandering.py")
    with pytest.raises(LabError, match=r"method = .*Wandering.*can be read"):
        drops([run], ["3/14"], own)


@pytest.mark.slow
def test_searched_in_worker_processes_cut_drawn_retrained_and_searched_anew_when_edited(files, settings, tmp_path):
    configs = [settings.search(name, 0, **SHORT) for name in files.values()]
    runs = make_runs(configs, settings)
    assert [run.folder.name.split("-")[0] for run in runs] == ["FairDarts", "Gumbel"]
    assert "zero_one" in runs[0].history[-1] and (runs[0].alphas["normal"][-1] != runs[0].alphas["normal"][0]).any()
    rows = drops(runs, ["8/14", "4/14"], settings)
    assert {(row["method"], row["budget"]) for row in rows} == {
        (method, budget) for method in files for budget in ("8/14", "4/14")
    }
    cells = genotype_after(runs[0], budget="4/14")
    assert len(cells.normal.edges) == 4
    assert all(path.stat().st_size > 1000 for path in save_cells(cells, "cells", tmp_path, formats=("svg",)))
    retraining = settings.retraining(cells, 0, layers=3, channels=4, epochs=1, steps=2)
    (retrained,) = make_runs([retraining], settings)
    assert 0 <= retrained.result["test_error"] <= 100

    path = files["FairDarts"].rpartition(":")[0]
    with open(path, "a") as file:
        file.write("\n# edited\n")
    again = settings.search(files["FairDarts"], 0, **SHORT)
    assert config_hash(again) != config_hash(configs[0]) and make.find_run(again, settings) is None
    with pytest.raises(LabError, match="the file has changed since the configuration was made"):
        make_runs([replace(configs[0], seed=5)], settings)


def test_two_methods_of_one_name_are_not_one_row(files, settings, tmp_path):
    other = tmp_path / "second.py"
    other.write_text(FAIR_DARTS.replace("class FairDarts", "# another\nclass FairDarts"))
    configs = [settings.search(name, 0, **SHORT) for name in (files["FairDarts"], f"{other}:FairDarts")]
    with pytest.raises(
        LabError, match=r"method = '.*second.py:FairDarts': must be of another name than that of .*fair"
    ):
        make_runs(configs, settings)
    sweep = tmp_path / "both.yaml"
    sweep.write_text(
        f"preset: tiny\ndataset: digits\nsearch: {{method: ['{files['FairDarts']}', '{other}:FairDarts']}}\n"
    )
    with pytest.raises(LabError, match="must be of another name"):
        read_sweep(sweep)


def search_gumbel(folder, on_epoch):
    config = search_config("tiny", "digits", f"{folder.parent}/gumbel.py:Gumbel", threads=1, epochs=4, **SHORT)
    search(config, folder, progress=False, on_epoch=on_epoch)


@pytest.mark.slow
def test_a_sampled_relaxation_that_is_killed_ends_in_the_same_bytes(tmp_path):
    (tmp_path / "gumbel.py").write_text(GUMBEL)
    folder, undisturbed = killed_at_random(search_gumbel, tmp_path, kills=1)
    for name in ("architecture.safetensors", "genotype.json", "history.jsonl"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name


@pytest.mark.slow
def test_a_run_folder_has_no_file_executed(files, tmp_path):
    """In a process that has not named the file, a run of it is refused with what to do; named again, it is read."""
    name = files["FairDarts"]
    marker = tmp_path / "executed"
    with open(name.rpartition(":")[0], "a") as file:
        file.write(f"\nopen({str(marker)!r}, 'a').close()\n")
    search(search_config("tiny", "digits", name, threads=1, epochs=1, **SHORT), tmp_path / "run", progress=False)
    marker.unlink()
    command = [sys.executable, "-m", "daas_lab", "genotype", str(tmp_path / "run")]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2 and "executed only where it is named" in refused.stderr and not marker.exists()
    assert len(refused.stderr.splitlines()) == 1
    named = subprocess.run([*command, "--own", name], capture_output=True, text=True)
    assert named.returncode == 0 and '"normal"' in named.stdout and marker.exists()
    shutil.copy(name.rpartition(":")[0], tmp_path / "other.py")
    (tmp_path / "other.py").write_text((tmp_path / "other.py").read_text() + "# other content\n")
    other = subprocess.run([*command, "--own", f"{tmp_path}/other.py:FairDarts"], capture_output=True, text=True)
    assert other.returncode == 2 and "executed only where it is named" in other.stderr
    assert read_run(tmp_path / "run").genotype is not None  # what needs no method needs no file


def test_who_is_computed_is_checked_away_from_the_start_and_where_no_gradient_comes_that_way(tmp_path):
    path = tmp_path / "paths.py"
    path.write_text(f"""
from dataclasses import dataclass
import torch
from daas_lab import Method, Mixture
from daas_lab.methods.sampling import straight_through

{DECORATED}class Later(Method):
    def mix(self, architecture, cell_type, at):
        soft = architecture.alphas.softmax(dim=1)
        kept = soft >= 0.1  # at the start everybody
        hard = soft.detach() * kept
        edges = torch.ones_like(architecture.betas)
        return Mixture(straight_through(hard, soft), edges, computed=kept if at.training else None)

{DECORATED}class ByTerm(Method):
    def mix(self, architecture, cell_type, at):
        draws = torch.rand(architecture.alphas.shape, generator=at.generator(cell_type))
        gates = torch.zeros_like(draws).scatter(1, draws.argmax(dim=1, keepdim=True), 1.0).to(architecture.alphas)
        computed = gates > 0 if at.training else None
        gates = gates if at.training else gates * 0 + 1 / 7
        return Mixture(gates, torch.ones_like(architecture.betas), computed=computed)

    def regularise(self, architectures, mixtures, at):
        return {{"decay": sum(both.alphas.square().sum() for both in architectures.values())}}
""")
    with pytest.raises(LabError, match="asks a candidate that is not computed for a gradient of α"):
        check_method(method_class(f"{path}:Later"))
    check_method(method_class(f"{path}:ByTerm"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def mix(self, architecture, cell_type, at): return Mixture(architecture.alphas * float('nan'), "
         "torch.ones_like(architecture.betas))", ["mix gives operations that are not finite"]),
        ("def mix(self, architecture, cell_type, at): return Mixture(architecture.alphas[:2], "
         "torch.ones_like(architecture.betas))", ["mix gives operations of shape [2, 7], not [14, 7]"]),
        ("def mix(self, architecture, cell_type, at): raise RuntimeError('mine')", ["mix raises RuntimeError('mine')"]),
        ("def mix(self, architecture, cell_type, at): return Mixture(architecture.alphas.detach().softmax(1), "
         "torch.ones_like(architecture.betas))", ["mix leaves α without a gradient"]),
        ("def mix(self, architecture, cell_type, at): return super().mix(architecture, cell_type, at)._replace("
         "computed=torch.ones(14))", ["mix gives computed = torch.float32 [14]", "no tensor of truth values [14, 7]"]),
        ("def mix(self, architecture, cell_type, at): return super().mix(architecture, cell_type, at)._replace("
         "computed=architecture.alphas < 9)", ["mix says who is computed where nothing is trained"]),
        ("def mix(self, architecture, cell_type, at): return super().mix(architecture, cell_type, at)._replace("
         "computed=(architecture.alphas > 0) if at.training else None)",
         ["mix gives a weight to a candidate that is not computed"]),
        ("def mix(self, architecture, cell_type, at): a = architecture.alphas.softmax(1); hard = (a.detach() > 0.143)"
         ".double(); return Mixture(hard + a - a.detach(), torch.ones_like(architecture.betas), "
         "computed=hard > 0 if at.training else None)",
         ["mix asks a candidate that is not computed for a gradient of α"]),
        ("def optimizer(self, groups, **rules): pass", ["optimizer returns no torch.optim.Optimizer"]),
        ("def depth(self, layers, at): return layers / 2", ["depth gives 1.5 in epoch 1"]),
        ("def annealing(self, at): return at.epoch", ["annealing gives 1 in epoch 1"]),
        ("def stops(self, epochs, space): return {'9/14': 1}", ["stops says: budget = '9/14'"]),
        ("def stops(self, epochs, space): return {'4/14': epochs + 1}", ["stops is at 4/14 after epoch 4"]),
        ("def stops(self, epochs, space): return {'1,1,2,2': epochs}", ["written '6/14'"]),
        ("def select(self, architectures, budget, at): raise LabError('mine')", ["select says: mine"]),
    ],
)  # fmt: skip
def test_a_broken_method_stops_before_any_training_and_names_file_and_class(text, words, tmp_path):
    path = tmp_path / "broken.py"
    head = "import torch\nfrom dataclasses import dataclass\nfrom daas_lab import LabError, Method, Mixture\n"
    path.write_text(f"{head}@dataclass(frozen=True, kw_only=True)\nclass Broken(Method):\n    {text}\n")
    config = search_config("tiny", "digits", f"{path}:Broken", threads=1, **SHORT)
    with pytest.raises(LabError) as error:
        search(config, tmp_path / "run", progress=False)
    assert all(word in str(error.value) for word in [*words, f"{path}:Broken"]), error.value
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class Own(Method):\n    budget: str = '8/14'", "a dataclass, or budget is no number of it"),
        (f"{DECORATED}class Own(Method):\n    initial_noise = 0.5", "says the type .* initial_noise: float = …"),
        (f"{DECORATED}class Own(Method):\n    def settings(self, protocol, epochs=0): return {{'epoch': 1}}",
         "unknown search, in settings of method .*'epoch'.*did you mean epochs"),
        (f"{DECORATED}class Own(Method):\n    edge_weight: ClassVar[str] = 'renormalized'", "mean renormalised"),
        (f"{DECORATED}class Own(Method):\n    tau: float | None = 'abc'", "tau = 'abc': must be a number"),
        (f"{DECORATED}class Own(Method):\n    tau: Optional[float] = 'abc'", "tau = 'abc': must be a number"),
        (f"class Mixin:\n    initial_noise = 0.5\n\n{DECORATED}class Own(Mixin, Method): pass", "Mixin.*must be a d"),
        (f"{DECORATED}class Own(Method):\n    def regularize(self, *_): pass", "regularize.*mean regularise"),
        (f"{DECORATED}class Own(Method):\n    learns_edge: ClassVar[bool] = False", "mean learns_edges"),
        (f"{DECORATED}class A(Method):\n    tau: float = 1.0\n\n{DECORATED}class Own(A):\n    tau = 2.0",
         "says the type of what it sets: tau: float"),
    ],
)  # fmt: skip
def test_a_class_that_would_search_with_other_numbers_than_it_says_is_refused(text, words, tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar, Optional\n\nfrom daas_lab import Method\n\n"
        + text.replace("def settings(self", "@classmethod\n    def settings(cls")
    )
    with pytest.raises(LabError, match=words):
        search_config("tiny", "digits", f"{path}:Own")


def test_a_method_is_checked_by_its_name(tmp_path):
    check_method("darts")
    path = tmp_path / "own.py"
    path.write_text("from daas_lab import Method\n\nclass Own(Method):\n    def mix(self, *_): return 1\n")
    with pytest.raises(LabError, match=r"own\.py:Own: mix"):
        check_method(f"{path}:Own")


def test_slots_and_mixins_that_set_no_number_are_no_matter(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "from dataclasses import dataclass\nfrom daas_lab import Method\n"
        "class Mixin:\n    initial_noise: float\n    def help(self): return self.initial_noise\n"
        "@dataclass(frozen=True, kw_only=True, slots=True)\nclass Own(Mixin, Method):\n    tau: float = 2.0\n"
        "    initial_noise: float = 0.5\n"
    )
    assert search_config("tiny", "digits", f"{path}:Own").searcher.help() == 0.5


def test_a_number_that_may_be_missing_is_checked_where_it_is_there(tmp_path):
    path = tmp_path / "own.py"
    lines = ("from dataclasses import dataclass", "from daas_lab import Method")
    path.write_text("\n".join([*lines, f"{DECORATED}class Own(Method):", "    tau: float | None = None"]))
    made = partial(search_config, "tiny", "digits", f"{path}:Own")
    assert [made(tau=tau).searcher.tau for tau in (None, "3", 0.5)] == [None, 3.0, 0.5]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.py:FairDarts", "FILE.py:NAME of a file that can be read"),
        ("fairdarts.py:Unfair", "must be a name that"),
        ("fairdarts.py:torch", "a subclass of daas_lab.Method"),
        ("fairdarts.py:", "FILE.py:NAME"),
        ("syntax.py:FairDarts", "cannot be executed: SyntaxError"),
    ],
)
def test_a_class_that_is_not_there_is_named_in_one_line(files, name, words, tmp_path):
    (tmp_path / "syntax.py").write_text("class FairDarts(:\n")
    with pytest.raises(LabError, match=words) as error:
        search_config("tiny", "digits", f"{tmp_path}/{name}")
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["own.json:x", "own.py", "own.py:"])
def test_what_names_nothing_in_a_python_file_is_refused_in_one_line(text, tmp_path, capsys):
    (tmp_path / "own.json").write_text("{}")
    assert cli.main(["count", "DARTS_V2", "--own", f"{tmp_path}/{text}"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "must be FILE.py:NAME" in said


def test_its_numbers_are_checked_hashed_and_set_by_name(files):
    name = files["FairDarts"]
    base, other = (search_config("tiny", "digits", name, weight=weight) for weight in (10, "5"))
    assert dict(other.numbers)["weight"] == 5.0 and config_hash(base) != config_hash(other)
    with pytest.raises(LabError, match=r"unknown search setting 'wieght' \(did you mean weight\?\)"):
        search_config("tiny", "digits", name, wieght=1)
    with pytest.raises(LabError, match="weight = 'heavy'"):
        search_config("tiny", "digits", name, weight="heavy")
    with pytest.raises(LabError, match="unknown search setting 'weight'"):
        search_config("tiny", "digits", "darts", weight=1)


def test_of_a_selection_of_its_own_no_choice_is_said_to_be_close(tmp_path):
    (tmp_path / "own.py").write_text(SCALES)
    made = {name: search_config("tiny", "digits", f"{tmp_path}/own.py:{name}") for name in ("Heavy", "Scales")}
    said = {name: close_choices_sentence(config, []) for name, config in made.items()}
    assert "Heavy selects cells in its own way" in said["Heavy"] and "No choice" in said["Scales"]


SCALES = """
from dataclasses import dataclass

import torch

from daas_lab import EdgeBudget, Method


@dataclass(frozen=True, kw_only=True)
class Scales(Method):
    scales: tuple = (1.0, 2.0)


@dataclass(frozen=True, kw_only=True)
class Heavy(Method):
    def select(self, architectures, budget, at):
        return super().select(architectures, EdgeBudget.parse("8/14"), at)
"""


def test_a_sequence_of_numbers_comes_back_from_a_run(tmp_path):
    (tmp_path / "own.py").write_text(SCALES)
    config = search_config("tiny", "digits", f"{tmp_path}/own.py:Scales", epochs=1, threads=1, scales=[3, 4.0])
    search(config, tmp_path / "run", progress=False)
    run = read_run(tmp_path / "run")
    assert run.config == config and run.search.searcher.scales == (3, 4.0)
    assert genotype_after(run, budget="4/14").normal.edges
    with pytest.raises(LabError, match="epoch = 9: must be a whole number of at most 1"):
        genotype_after(run, 9)
    with pytest.raises(LabError, match=r"scales = \{\}: must be a number, a text"):
        search_config("tiny", "digits", f"{tmp_path}/own.py:Scales", scales={})


def test_a_way_to_select_that_keeps_to_no_limit_is_refused_before_any_training(tmp_path):
    (tmp_path / "own.py").write_text(SCALES)
    budget = "8/14; parameters<=1.4M"
    config = search_config("tiny", "digits", f"{tmp_path}/own.py:Heavy", epochs=1, threads=1, budget=budget)
    with pytest.raises(LabError, match="must be without a limit for Heavy: its way to select keeps to none"):
        search(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.cluster
@pytest.mark.slow
def test_swept_on_ray(files, tmp_path):
    (tmp_path / "sweep.yaml").write_text(
        f"preset: tiny\ndataset: digits\nseeds: [0]\nruns: {tmp_path}/runs\nsearch:\n"
        f"  method: [darts, '{files['FairDarts']}']\n  layers: 3\n  channels: 2\n  steps: 2\n  epochs: 1\n"
    )
    command = [sys.executable, "-m", "daas_lab", "sweep", str(tmp_path / "sweep.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "FairDarts" in done.stdout and {path.name.split("-")[0] for path in (tmp_path / "runs").glob("*-s0-*")} == {
        "darts", "FairDarts"
    }  # fmt: skip
