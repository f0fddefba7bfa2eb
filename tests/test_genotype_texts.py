"""Genotypes as people paste them: read where they can only mean one cell, else refused with what is different."""

import json
from pathlib import Path

import pytest
import torch

from daas_lab import cli
from daas_lab.errors import LabError
from daas_lab.networks.derived import Network
from daas_lab.space.genotype import MOST_NODES
from daas_lab.space.text_forms import PUBLISHED, format_darts, load_genotype, parse_genotype

TEXTS = Path(__file__).parent / "data" / "genotype_texts"
# Parameters in the CIFAR-10 form with 36 channels (XNAS: 44) and 20 cells, without auxiliary head, as the sources state
# them or as computed apart from this package.
PARAMETERS = {
    "plain.txt": 3_201_166,
    "wrapped.txt": 3_201_166,
    "crlf.txt": 3_201_166,
    "log_line.txt": 3_201_166,
    "named_alias.txt": 2_089_846,
    "nested.txt": 2_833_750,
    "nested_several_operations.txt": 3_410_038,
    "autodl_gdas.txt": 3_368_782,
    "fairdarts_a.txt": 2_360_782,
    "FairDARTS_a.json": 2_360_782,
    "FairDARTS_b.json": 3_407_878,
    "FairDARTS_c.json": 2_598_814,
    "FairDARTS_d.json": 3_365_542,
    "FairDARTS_e.json": 2_643_742,
    "FairDARTS_f.json": 3_151_054,
    "FairDARTS_g.json": 2_899_054,
    "pdarts64.txt": 2_800_270,
    "pc_darts_issue_26.txt": 4_496_302,
    "XNAS.txt": 5_594_918,
    "SNAS_mild.txt": 2_661_382,
    "MdeNAS.txt": 3_783_286,
}
PLAIN = (TEXTS / "plain.txt").read_text().strip()


@pytest.mark.kind("genotype texts as people paste them")
@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_every_text_is_the_cell_of_its_size(name):
    channels = 44 if name == "XNAS.txt" else 36
    with torch.device("meta"):
        network = Network(
            load_genotype(TEXTS / name), channels=channels, layers=20, classes=10, form="cifar", auxiliary=False
        )
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]


@pytest.mark.kind("genotype texts as people paste them")
def test_texts_of_one_cell_are_read_as_one():
    plain = load_genotype(TEXTS / "plain.txt")
    assert all(load_genotype(TEXTS / f"{name}.txt") == plain for name in ("wrapped", "crlf", "log_line"))
    assert load_genotype(TEXTS / "fairdarts_a.txt") == load_genotype(TEXTS / "FairDARTS_a.json")
    nested = load_genotype(TEXTS / "nested_several_operations.txt")
    assert [nested.normal.sources(node) for node in range(2, 6)] == [[0, 1], [0, 2], [0, 3], [1, 2]]
    assert len(nested.normal.edges) == 10 and len(nested.reduce.edges) == 13


@pytest.mark.kind("genotype texts as people paste them")
def test_all_edges_of_a_cell_are_six_nodes_and_not_nine():
    every = load_genotype(TEXTS / "edge_all.txt")
    for cell in (every.normal, every.reduce):
        assert cell.nodes == 6 and [cell.sources(node) for node in range(2, 6)] == [list(range(n)) for n in range(2, 6)]


CELL = "[('sep_conv_3x3', 0), ('skip_connect', 1)]"
PAIRS = f"Genotype(normal={CELL}, normal_concat=[2], reduce={CELL}, reduce_concat=[2])"
NUMPY = PAIRS.replace(" 0)", " np.int64(0))").replace("'skip_connect'", "np.str_('skip_connect')")


@pytest.mark.kind("genotype texts as people paste them")
@pytest.mark.parametrize(
    "text",
    [
        f"11/25 08:00:00 PM genotype = {PAIRS}",
        f"INFO:root:{PAIRS}\n",
        f"best = genotypes.{PAIRS}  # epoch 49\nDARTS = best",
        f"Here is mine:\n```python\nmine = {PAIRS}\n```\nWhat is wrong with it?",
        f"the same twice: {PAIRS} and {PAIRS}",
        "> " + PAIRS.replace(", ", ",\n> "),
        PAIRS.replace("'", "’").replace(" ", "\xa0"),
        PAIRS.replace("'", '"').replace(", ", ",\t"),
        PAIRS.replace("[2]", "range(2, 3)"),
        PAIRS.replace("[2]", "(2,)"),
        PAIRS.replace("[2]", "list(range(2, 3))"),
        NUMPY,
        f"Genotype({CELL}, [2], {CELL}, [2])",
        PAIRS.replace(CELL, f"[{CELL}]"),
        PAIRS.replace(CELL, f"({CELL[1:-1]})"),
        PAIRS.replace(CELL, f"({CELL},)"),
        PAIRS.replace(" 0)", " 0, 2)").replace(" 1)", " 1, 2)"),
        PAIRS.replace(" 0)", " 2, 0)").replace(" 1)", " 2, 1)"),
        PAIRS.replace(" 0)", " 0, 0.31)").replace(" 1)", " 1, 0.2)"),
        PAIRS.replace(" 0)", " 0, 2, 0.31)").replace(" 1)", " 1, 2, 0.2)"),
        PAIRS.replace("('sep_conv_3x3', 0)", "(0, 'sep_conv_3x3')"),
        PAIRS.replace("[2])", "[2], connectN=None, connects=None)"),
        f"{{'normal': {CELL}, 'normal_concat': [2], 'reduce': {CELL}, 'reduce_concat': range(2, 3)}}",
        json.dumps(2 * [[["sep_conv_3x3", 0], ["skip_connect", 1]], [2]]),  # a named tuple in JSON
    ],
)
def test_a_cell_is_read_as_it_was_pasted(text):
    assert parse_genotype(text) == load_genotype(text) == parse_genotype(PAIRS)


@pytest.mark.kind("genotype texts as people paste them")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PAIRS.replace("'skip_connect'", "'none'"), ["none", "passes nothing", "left out"]),
        ((TEXTS / "none_in_reduce.txt").read_text(), ["reduce cell", "none", "passes nothing"]),
        (PAIRS + PAIRS.replace(" 0)", " 1)"), ["2 of them", "leave only the one"]),
        (PAIRS.replace("[2]", "[2, 3]"), ["pairs = 2", "4, two for each node from 2 to 3", "5 edges"]),
        (PAIRS.replace(CELL, f"{CELL[:-1]}, {CELL[1:]}"), ["pairs = 4", "2, two for each node from 2 to 2"]),
        (PAIRS.replace(CELL, f"[{CELL}, {CELL}]"), ["lists of edges = 2", "1, one for each node"]),
        (PAIRS.replace(CELL, f"[{CELL}]").replace(" 0)", " 3, 0)"), ["of node 2, in whose list"]),
        (PAIRS.replace(" 0)", " 2, 0)"), ["name their node = 1", "all 2, or none"]),
        (PAIRS.replace("'sep_conv_3x3'", "'sep_conv_3x3', 'skip_connect'"), ["edge", "(operation, source)"]),
        (PAIRS.replace("'sep_conv_3x3'", "7"), ["edge = [7, 0]"]),
        (PAIRS.replace("('sep_conv_3x3', 0)", "'sep_conv_3x3'"), ["edge = 'sep_conv_3x3'"]),
        (PAIRS.replace(" 0)", " True)"), ["edge = ['sep_conv_3x3', True]"]),
        (PAIRS.replace("sep_conv_3x3", "sep_conv_3"), ["sep_conv_3", "did you mean sep_conv_3x3?"]),
        (PAIRS.replace("[2]", "[]"), ["concat = []"]),
        (PAIRS.replace("[2]", "range(10**12)"), ["genotype"]),
        (PAIRS.replace("[2]", "range(0, 1000000000000)"), ["pairs = 2"]),
        (PAIRS.replace(" 0)", f" 0, {MOST_NODES})").replace(" 1)", " 1, 2)"), ["2 to 99"]),
        (PAIRS.replace("[2])", "[2], connectN=3)"), ["connectN", "3", "left out"]),
        (PAIRS.replace("normal_concat=[2], ", ""), ["normal_concat is missing"]),
        (PAIRS[:-10], ["genotype", "Genotype(normal=…"]),
        ("Genotype(", ["genotype", "Genotype(normal=…"]),
        ("normal: [('sep_conv_3x3', 0)]", ["genotype", "a file, a genotype's text"]),
        ("{", ["genotype", "JSON"]),
        ("[1, 2", ["genotype", "JSON"]),
        ("{" * 10_000, ["genotype"]),
        ("Genotype(normal=" + "[" * 10_000, ["genotype"]),
        ("Genotype\0()", ["genotype"]),
        ("x" * 100_000, ["genotype", "…"]),
    ],
)
def test_what_is_different_is_said_in_one_line(text, words, tmp_path, capsys):
    with pytest.raises(LabError) as error:
        load_genotype(text)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    file = tmp_path / "cell.txt"
    file.write_text(text)
    assert cli.main(["retrain", "--genotype", str(file), "--preset", "tiny", "--dataset", "digits", "--out", "x"]) == 2
    assert str(file) in capsys.readouterr().err and not Path("x").exists()


@pytest.mark.parametrize(
    "code",
    [
        "open({path!r}, 'w')",
        "__import__('os').system('touch {path}')",
        "().__class__.__base__.__subclasses__()",
        "[exec(\"open('{path}', 'w')\") for _ in range(1)]",
        "(lambda: open({path!r}, 'w'))()",
        "range(open({path!r}, 'w').fileno())",
        "int(open({path!r}, 'w').fileno())",
        "f\"{{open('{path}', 'w')}}\"",
    ],
)
def test_a_genotype_that_would_be_code_is_not_executed(code, tmp_path):
    trap = tmp_path / "trap"
    code = code.format(path=str(trap))
    for text in (PAIRS.replace("[2]", code), PAIRS.replace(" 0)", f" {code})"), f"{{'normal': {code}}}", code):
        with pytest.raises(LabError):
            parse_genotype(text)
    assert not trap.exists()


@pytest.mark.kind("a genotype's text in place of its file")
def test_files_as_windows_writes_them_and_the_text_in_place_of_a_file(tmp_path, capsys):
    cell = parse_genotype(PAIRS)
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path = tmp_path / f"{encoding}.txt"
        path.write_bytes(PAIRS.replace(", ", ",\r\n").encode(encoding))
        assert load_genotype(path) == cell
    for text in (PLAIN, json.dumps(PUBLISHED["PDARTS"].to_json()), format_darts(PUBLISHED["NASNet"])):
        assert load_genotype(text) == parse_genotype(text)
    assert cli.main(["count", PAIRS, "--channels", "4", "--layers", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] > 1000
