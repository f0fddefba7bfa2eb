"""Sizes of published networks beside what their sources and the paper print."""

import json

import pytest
import torch
from torch import nn

from daas_lab import paper
from daas_lab.cli import main
from daas_lab.errors import LabError
from daas_lab.networks.derived import Network
from daas_lab.space.cost import count
from daas_lab.space.published import PUBLISHED
from daas_lab.studies import sizes


@pytest.fixture(scope="module")
def cells():
    return {row["name"]: row for row in sizes.cell_rows()}


@pytest.fixture(scope="module")
def counted():
    """Table → architecture → its row of sizes."""
    return {table: {row["architecture"]: row for row in sizes.table_sizes(table)} for table in (1, 5)}


@pytest.mark.parametrize(
    ("printed", "computed", "word"),
    [
        ("3.3", 3.349, ""),
        ("3.36", 3.3688, "cut off"),
        ("2.84", 2.361, "with auxiliary head"),
        ("2.83", 2.361, "with auxiliary head, cut off"),
        ("574", 529.9, None),
        ("5", 7.39, None),
    ],
)
def test_agreement(printed, computed, word):
    assert sizes.agreement(printed, computed, 0.476) == word


def test_published_cells_agree_with_what_their_sources_state(cells):
    """Parameters always do, if need be cut off or with the auxiliary head; of other multiply-adds the remark speaks."""
    found = dict.fromkeys(sizes.QUANTITIES, 0)
    for name, row in cells.items():
        for form, numbers in row.get("stated", {}).items():
            computed, head = sizes.size_of(PUBLISHED[name], form), 0.476426 if form == "cifar" else 0.0
            for key, printed in numbers.items():
                found[key] += 1
                word = sizes.agreement(printed, computed[key], head if key == "params_m" else 0.0)
                quantity = sizes.QUANTITIES[key].replace("_", "-")
                assert word is not None or (key == "multiply_adds_m" and quantity in row["remark"]), (name, printed)
                assert not word or f"{form} {quantity} {word}" in row["remark"]
    assert found == {"params_m": 40, "multiply_adds_m": 19}


def test_the_auxiliary_head_is_counted():
    with torch.device("meta"):
        network = Network(PUBLISHED["FairDARTS_a"])
    head = sum(parameter.numel() for parameter in network.auxiliary_head.parameters())
    assert sizes._auxiliary_size(PUBLISHED["FairDARTS_a"]) == head / 1e6 == 0.476426


@pytest.mark.parametrize(
    "given", [{"layers": 0}, {"channels": 2.5}, {"side": "a"}, {"classes": 0}, {"image_channels": 0}]
)
def test_a_network_that_cannot_be_is_not_counted(given):
    [(name, value)] = given.items()
    with pytest.raises(LabError, match=f"{name} = {value!r}: must be a whole number of at least 1"):
        count("DARTS_V2", **given)


@pytest.mark.parametrize("table", [1, 5])
def test_each_printed_size_is_counted_or_explained(table, counted):
    for printed in {1: paper.TABLE_1, 5: paper.TABLE_5}[table]:
        row, (what, why) = counted[table][printed["architecture"]], paper.COUNTED[table][printed["architecture"]]
        assert ("params_m" in row) == ("multiply_adds_m" in row) == bool(what)
        both = [key for key in sizes.QUANTITIES if key in row and printed.get(key)]
        agree = [sizes.agreement(str(printed[key]), row[key]) for key in both]
        # An explanation stands where one is needed, and nowhere else.
        assert bool(why) == (not what or None in agree), row
        assert why in row["remark"]


def test_networks_made_by_hand_have_their_own_papers_sizes(counted):
    mobilenet = counted[5]["MobileNet"]
    assert (round(mobilenet["multiply_adds_m"]), mobilenet["params_m"]) == (569, 4.231976)
    # DenseNet-BC by its definition: two convolutions a layer, 1×1 to 4k channels and 3×3 to k; halved between blocks.
    growth, channels, total = 40, 80, 27 * 80
    for block in range(3):
        for _ in range(31):
            total += 2 * channels + channels * 4 * growth + 2 * 4 * growth + 9 * 4 * growth * growth
            channels += growth
        total += 2 * channels
        if block < 2:
            total += channels * (channels // 2)
            channels //= 2
    assert counted[1]["DenseNet-BC"]["params_m"] == (total + channels * 10 + 10) / 1e6


def elements(network, kind):
    """Numbers that the modules of one kind put out for an image of 224 × 224."""
    found = []
    for module in network.modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda _, __, output: found.append(output.numel()))
    with torch.no_grad():
        network(torch.empty(1, 3, 224, 224, device="meta"))
    return sum(found) / 1e6


@pytest.mark.slow
def test_what_counters_added_is_what_the_remarks_say(counted):
    """The remarks of Table 5: batch-norm counts as two operations, ReLU as one."""
    form = {"form": "imagenet", "channels": 48, "layers": 14, "classes": 1000, "auxiliary": False}
    printed = {row["architecture"]: row["multiply_adds_m"] for row in paper.TABLE_5}
    for name, architecture in (
        ("PDARTS", "P-DARTS (CIFAR10)"),
        ("PC_DARTS_CIFAR", "PC-DARTS (CIFAR10)"),
        ("DARTS_V2", None),
    ):
        with torch.device("meta"):
            network = Network(PUBLISHED[name], **form).eval()
        total = sizes.size_of(PUBLISHED[name], "imagenet")["multiply_adds_m"]
        total += 2 * elements(network, nn.BatchNorm2d) + elements(network, nn.ReLU)
        assert round(total) == printed.get(architecture, 544)
    with torch.device("meta"):
        network = sizes.MANUAL["shufflenet_v2_x2_0"].make().eval()
    total = counted[5]["ShuffleNet 2× (v2)"]["multiply_adds_m"] + 2 * elements(network, nn.BatchNorm2d)
    assert round(total) == printed["ShuffleNet 2× (v2)"]
    snas = {name: count(PUBLISHED[name], "imagenet") for name in PUBLISHED if name.startswith("SNAS")}
    assert round(snas["SNAS_moderate"]["parameters"] / 1e6, 1) == 4.3
    assert all(abs(size["multiply_adds"] / 1e6 - printed["SNAS (mild)"]) > 50 for size in snas.values())


def test_cells_lists_them(capsys, cells):
    assert main(["cells", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in listed] == list(PUBLISHED) and all(row["source"] for row in listed)
    assert {"name": "XNAS"} | count(PUBLISHED["XNAS"]) == {
        key: cells["XNAS"][key] for key in ("name", "parameters", "multiply_adds")
    }
    assert main(["cells"]) == 0
    lines = capsys.readouterr().out.splitlines()
    [line] = [line for line in lines if line.startswith("FairDARTS_b ")]
    assert line.split()[1:5] == ["3.41", "(3.88)", "536.49", "(536)"] and line.endswith("with auxiliary head")


def test_published_cells_are_known_by_name_and_differ(tmp_path, capsys):
    texts = [json.dumps(genotype.to_json()) for genotype in PUBLISHED.values()]
    assert len(set(texts)) == len(texts)
    for name in ("SETN", "FairDARTS_c", "SNAS_aggressive", "PNASNet"):
        assert main(["draw", name, "--out", str(tmp_path / f"{name}.dot")]) == 0
        assert (tmp_path / f"{name}.dot").stat().st_size > 1000
    assert main(["count", "FairDARTS_x"]) == 2
    assert "did you mean FairDARTS_" in capsys.readouterr().err
