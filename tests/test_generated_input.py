"""Generated input: whatever stands in a field, an option, a parameter, a sweep file, a genotype's or a budget's text is
used or refused in one line that names it; never a traceback, and nothing is trained."""

import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daas_lab import cli
from daas_lab.compose import retrain_config, search_config
from daas_lab.config import RetrainConfig, SearchConfig
from daas_lab.data.batches import _imagenet_folder
from daas_lab.data.sources import short_name
from daas_lab.errors import LabError
from daas_lab.methods.lookup import METHODS, method_class
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.genotype import Genotype
from daas_lab.space.text_forms import load_genotype
from daas_lab.studies.notebooks import command_text
from daas_lab.studies.settings import Settings, parse_settings
from daas_lab.studies.sweep_file import SETTINGS, Sweep, read_sweep
from tests.made_runs import write_search

# --- what is generated ------------------------------------------------------------------------------------------------

# Fragments of what people mean, so that not all is refused by its first letter.
WORDS = (
    *("8/14", "3/14", "1,1,2,2", "{2+3}:1,4:1,5:1", "normal=8/14;reduce=4/14", "8/14*2", "linear", "log:delayed"),
    *("true", "False", "none", "3", "-1", "0", "1e400", "3e-4", "nan", "inf", "²", "٣", "0x10", "[0, 1]", "[[0]]"),
    *("cpu", "cuda:99", "meta", "tiny", "digits", "folder:", "folder:/nowhere", "own:mine", "x.py:f", ".py:", "../x"),
    *(
        "8/14;parameters<=2M",
        "4/14; multiply_adds<=9k",
        "; parameters<=",
        "darts",
        "skip_connect,none",
        "skip_connect,sep_conv_3x3",
        "learned",
        "zero",
        "$(id)",
        "`id`",
        "'",
        '"',
        "\n",
    ),
    "9" * 5000,
)
NUMBERS = st.one_of(st.integers(), st.integers(-3, 20), st.just(10**400), st.floats())
TEXTS = st.one_of(
    st.sampled_from(WORDS), st.text(max_size=20), st.lists(st.sampled_from(WORDS), max_size=3).map("".join)
)
SIMPLE = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SIMPLE, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2), max_leaves=4
)


@st.composite
def damaged(draw, texts):
    """One of `texts` with a few spans left out, doubled or replaced."""
    text = draw(st.sampled_from(texts))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 30)))
        put = draw(st.one_of(st.just(""), st.just(2 * text[start:end]), TEXTS, st.sampled_from("()[]{},:='0159")))
        text = text[:start] + put + text[end:]
    return text


def examples(count):
    """The number of examples of a test; together they are more than 2,000."""
    return settings(max_examples=count, suppress_health_check=list(HealthCheck))


def used_or_refused(name, use, *given):
    """Call `use`; a refusal is one line, and has one of the names in it."""
    try:
        return use(*given)
    except LabError as error:
        message = str(error)
    assert "\n" not in message and len(message) < 1500, message
    assert any(part in message for part in name), (name, message)
    return None


# --- in Python --------------------------------------------------------------------------------------------------------


def _names(config_class):
    return sorted({spec.name for spec in fields(config_class)} - {"numbers"})


NUMBERS_OF_METHODS = sorted({spec.name for method in METHODS for spec in fields(method_class(method))})


@examples(400)
@given(st.sampled_from(METHODS), st.sampled_from([*_names(SearchConfig), *NUMBERS_OF_METHODS]), VALUES)
def test_every_field_of_a_search(method, name, value):
    given = {"preset": "tiny", "dataset": "digits", "method": method} | {name: value}
    config = used_or_refused([name], partial(search_config, **given))
    assert config is None or isinstance(config, SearchConfig)


@examples(250)
@given(st.sampled_from(_names(RetrainConfig)), VALUES)
def test_every_field_of_a_retraining(name, value):
    given = {"preset": "tiny", "dataset": "digits", "genotype": "DARTS_V2"} | {name: value}
    config = used_or_refused([name], partial(retrain_config, **given))
    assert config is None or isinstance(config, RetrainConfig)


@examples(250)
@given(st.sampled_from([spec.name for spec in fields(Settings)]), VALUES)
def test_every_parameter_of_a_notebook(name, value):
    read = used_or_refused([name], parse_settings, {"preset": "tiny", "dataset": "digits", name: value})
    if read is not None:
        used_or_refused([name], partial(read.search, "da2s", read.seeds[0]))
        used_or_refused([name, "epochs"], partial(read.retraining, "DARTS_V2", read.seeds[0]))


@examples(200)
@given(
    st.sampled_from([(key,) for key in (*SETTINGS, "search", "retrain", "cpus", "gpus")])
    | st.tuples(st.just("search"), st.sampled_from([*_names(SearchConfig), *NUMBERS_OF_METHODS]))
    | st.tuples(st.just("retrain"), st.sampled_from(_names(RetrainConfig)))
    | st.tuples(st.text(min_size=1, max_size=5)),
    VALUES,
)
def test_every_key_of_a_sweep_file(tmp_path_factory, keys, value):
    path = tmp_path_factory.getbasetemp() / "generated.yaml"
    document = {"preset": "tiny", "dataset": "digits", "search": {"method": "da2s"}}
    document |= {keys[0]: value} if len(keys) == 1 else {keys[0]: {keys[1]: value}}
    path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    sweep = used_or_refused([keys[-1], repr(keys[-1])], read_sweep, path)
    assert sweep is None or isinstance(sweep, Sweep)


@examples(20)
@given(st.one_of(TEXTS, damaged(["preset: tiny\nsearch:\n  method: [darts, da2s]\n  budget: 8/14\nseeds: [0, 1]\n"])))
def test_every_text_of_a_sweep_file(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "generated.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    used_or_refused(["search", "seeds", "preset", "method", "budget", "key", str(path)], read_sweep, path)


GENOTYPES = [
    path.read_text() for path in sorted((Path(__file__).parent / "data" / "genotype_texts").iterdir()) if path.is_file()
]


@examples(300)
@given(st.one_of(damaged(GENOTYPES), VALUES, VALUES.map(json.dumps)))
def test_every_text_of_a_genotype(text):
    cells = used_or_refused(["genotype"], load_genotype, text)
    assert cells is None or isinstance(cells, Genotype)
    assert cells is None or load_genotype(cells.to_json()) == cells


@examples(200)
@given(st.one_of(damaged([word for word in WORDS if "/14" in word or "," in word]), VALUES))
def test_every_text_of_a_budget(text):
    budget = used_or_refused(["budget", "operations per edge"], EdgeBudget.parse, text)
    assert budget is None or EdgeBudget.parse(str(budget)) == budget


# --- on the command line ----------------------------------------------------------------------------------------------

# What stands beside a generated option: a valid command, but for what would begin the work.
BESIDE = {
    "search": ["--preset", "tiny", "--dataset", "digits"],  # no --out
    "retrain": ["--preset", "tiny", "--dataset", "digits", "--genotype", "DARTS_V2"],
    "gap": ["RUN"],  # a search without weights
    "attribution": ["RUN"],
    "cut": ["RUN", "--out", "net"],
    "genotype": ["RUN"],
    "cells": [],  # takes no value
    "count": ["NO_CELL"],
    "draw": ["NO_CELL"],
    "reproduce": ["--preset", "tiny", "--dataset", "digits"],  # where there are no notebooks
    "sweep": ["NO_FILE", "--dry-run"],
    "bench": ["--sizes", "none"],
    "report": ["NO_RUN"],
}
WITHOUT_LACK = {"quickstart"}  # its one value is a preset, tried with the others': a valid one begins the work


def _options():
    """(command, option) of everything that takes a value; of a positional argument, its name in the help."""
    commands = next(action.choices for action in cli._parser()._actions if action.choices)
    assert commands.keys() == BESIDE.keys() | WITHOUT_LACK
    return [
        (name, action.option_strings[-1] if action.option_strings else action.metavar)
        for name, parser in commands.items()
        if name in BESIDE
        for action in parser._actions
        if action.nargs != 0
    ]


@st.composite
def commands(draw):
    """A command line, and the words of which one has to be in its refusal."""
    command, option = draw(st.sampled_from(_options()))
    field = draw(st.sampled_from([*_names(SearchConfig), *_names(RetrainConfig), *NUMBERS_OF_METHODS, ""]))
    value = draw(TEXTS).replace("\0", "")
    beside = BESIDE[command]
    if not option.startswith("--"):  # an option is judged before a file is read
        return [command, value, *beside[1:]], [option, option.lower(), "argument", "genotype", "run", "sweep", value]
    if option == "--set":
        value = f"{field}={value}"
    kept = [word for pair in zip(beside[::2], beside[1::2], strict=False) if pair[0] != option for word in pair]
    kept = kept if beside[0].startswith("--") else beside
    names = [option, option[2:], option[2:].replace("-", "_"), field or "--set", field.replace("_", "-") or "--set"]
    # A valid value is followed by the refusal of what lacks beside it.
    lacking = {"search": "--out", "retrain": "--out", "reproduce": "notebooks", "bench": "size", "count": "NO_CELL"}
    lacking |= {"draw": "NO_CELL", "sweep": "NO_FILE", "gap": "checkpoint", "attribution": "checkpoint"}
    lacking |= {"cut": "checkpoint", "report": "NO_RUN"}
    if option == "--out" and command in ("search", "retrain"):  # any text is a folder's name
        kept, names = [*kept, "--epochs", "0"], ["epochs"]
    return [command, *kept, option, value], [*names, lacking.get(command, option)]


@pytest.fixture(scope="module")
def run_without_weights(tmp_path_factory):
    return write_search(tmp_path_factory.mktemp("runs") / "x", preset="tiny", dataset="digits")


def refused_or_printed(arguments, names, code, out, error):
    """A refusal is one line that has one of the names in it, with exit code 2; all else is a success that says so."""
    assert code in (0, 2) and "Traceback" not in error, (arguments, error)
    if code == 2:
        assert not out and error.count("\n") == 1 and error.startswith("daas-lab: "), (arguments, error)
        assert any(name in error for name in names if name), (arguments, names, error)
    else:
        assert arguments[0] in ("genotype", "draw", "count"), arguments


@pytest.mark.slow
@examples(400)
@given(commands())
def test_every_option_of_every_command(tmp_path_factory, run_without_weights, capsys, monkeypatch, case):
    arguments, names = case
    monkeypatch.chdir(tmp_path_factory.mktemp("beside"))
    threads = torch.get_num_threads()
    arguments = [str(run_without_weights) if word == "RUN" else word for word in arguments]
    try:
        code = cli.main(arguments)
    except SystemExit as error:  # --help
        assert error.code == 0 and ("-h" in arguments or "--help" in arguments)
        code = 0
    torch.set_num_threads(threads)
    captured = capsys.readouterr()
    refused_or_printed(arguments, names, code, captured.out, captured.err)
    assert not list(Path().glob("*/history.jsonl"))


@pytest.mark.slow
def test_six_of_them_as_real_commands(tmp_path, run_without_weights):
    chosen = []

    @examples(6)
    @given(commands())
    def choose(case):
        chosen.append(case)

    def run(case):
        arguments = [str(run_without_weights) if word == "RUN" else word for word in case[0]]
        done = subprocess.run(
            [sys.executable, "-m", "daas_lab", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        refused_or_printed(arguments, case[1], done.returncode, done.stdout, done.stderr)

    choose()
    assert len(chosen) >= 6
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, chosen[:6]))
    assert not list(tmp_path.rglob("history.jsonl"))


# --- commands and names that are made of input ------------------------------------------------------------------------


@examples(200)
@given(st.text(alphabet=st.characters(exclude_characters="\0", codec="utf-8"), min_size=1))
def test_printed_commands_can_be_pasted_and_names_stay_in_their_folder(name):
    folder = Path("/data") / name
    words = shlex.split(command_text("figure_5", Settings(dataset=f"folder:{folder}", seeds=(0, 1))))
    assert words[words.index("dataset") + 1] == f"folder:{folder}" and words[-1] == "[0, 1]"
    with pytest.raises(LabError) as error:
        _imagenet_folder(folder)
    command = shlex.split(str(error.value).rsplit("unpack them there with `", 1)[1][:-1])
    assert command[:2] == ["python", "-c"] and repr(str(folder)) in command[2]
    for dataset in (f"folder:{folder}", f"own:{name}"):
        file = short_name(dataset)
        assert "/" not in file and len(os.fsencode(file)) <= 150
