"""The command line as its users meet it: results, and one readable line for everything that cannot work."""

import gzip
import json
import signal

import pytest

from daas_lab import cli, commands
from daas_lab.runs.folder import is_whole, read_run
from daas_lab.runs.records import write_record
from daas_lab.space.text_forms import parse_genotype
from daas_lab.train.writer import RunWriter


def refused(capsys, *arguments):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1, captured
    return captured.err


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "x"
    command = ["search", "--preset", "tiny", "--dataset", "digits", "--out", str(folder)]
    assert cli.main(command) == 0
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "huge"], ["preset", "huge", "mini"]),
        (["--method", "dart"], ["method", "dart", "darts"]),
        (["--dataset", "mnist"], ["dataset", "mnist", "digits"]),
        (["--budget", "3,2,2,2"], ["budget of node 2", "3", "1 to 2"]),
        (["--epochs", "-3"], ["epochs", "-3", "at least 1"]),
        (["--epochs", "ten"], ["epochs", "ten", "whole number"]),
        (["--lambda-c", "cubic"], ["lambda_c", "cubic", "linear"]),
        (["--set", "chanels=4"], ["chanels", "channels"]),
        (["--set", "method=darts"], ["method=darts", "--method"]),
        (["--epochs", "2", "--set", "epochs=3"], ["epochs=3", "given as an option"]),
        (["--epocs", "2"], ["--epocs", "did you mean --epochs?", "search --help"]),
        (["--set", "sync_batch_norm=true"], ["sync_batch_norm", "false for a search"]),
        (["--set", "split_seed=99999999999999999999"], ["split_seed", "at most"]),
        (["--threads", "100000000000"], ["threads", "at most 1024"]),
        (["--device", "meta"], ["device", "meta"]),
        (["--dataset", "folder:"], ["dataset", "folder:PATH"]),
        (["--out", ""], ["--out", "the run's folder"]),
        (["--nonsense"], ["--nonsense"]),
    ],
)
def test_bad_search_options_name_field_value_and_what_is_allowed(capsys, tmp_path, arguments, words):
    options = {"--preset": "tiny", "--dataset": "digits", "--out": str(tmp_path / "x")}
    given = dict(zip(arguments[::2], [*arguments[1::2], None], strict=False))
    flat = [word for pair in (options | given).items() for word in pair if word is not None]
    message = refused(capsys, "search", *flat)
    assert all(word in message for word in words), message
    assert not (tmp_path / "x").exists()


def test_a_command_that_keeps_nothing_does_not_say_that_it_goes_on(capsys, searched, monkeypatch):
    monkeypatch.setattr(commands.discretize, "own_cells", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert cli.main(["gap", str(searched)]) == 143
    assert capsys.readouterr().err == "daas-lab: stopped\n"


def test_missing_and_damaged_data_name_the_folder_or_the_file(capsys, tmp_path, monkeypatch):
    from daas_lab.data import batches as data

    monkeypatch.setattr(data, "SYSTEM_FOLDERS", {"fashion_mnist": tmp_path / "nowhere"})
    common = ["search", "--preset", "tiny", "--data", str(tmp_path), "--out", str(tmp_path / "x"), "--dataset"]
    for dataset in ("fashion_mnist", "cifar10", "cifar100", "imagenet"):
        message = refused(capsys, *common, dataset)
        assert str(tmp_path) in message and "http" in message and "`" in message, message
    broken = tmp_path / "train-images-idx3-ubyte.gz"
    for content in (gzip.compress(bytes(1000))[:40], gzip.compress(b"abcde"), gzip.compress(b"")):
        broken.write_bytes(content)
        message = refused(capsys, *common, "fashion_mnist")
        assert str(broken) in message and "damaged" in message
    (tmp_path / "cifar-10-batches-py").mkdir()
    common[4] = str(tmp_path / "cifar-10-batches-py")  # the folder itself
    assert f"{tmp_path}/cifar-10-batches-py/data_batch_1 is missing" in refused(capsys, *common, "cifar10")


def test_another_configuration_in_the_same_folder_is_refused(capsys, searched):
    message = refused(
        capsys, "search", "--preset", "tiny", "--dataset", "digits", "--seed", "5", "--out", str(searched)
    )
    assert "seed = 0 there, 5 here" in message
    # What makes no other run is not to blame.
    message = refused(
        capsys, *("search", "--preset", "tiny", "--dataset", "digits", "--epochs", "2", "--out", str(searched)),
        *("--gap-every", "1", "--threads", "1"),
    )  # fmt: skip
    assert "epochs = 3 there, 2 here" in message and "gap_every" not in message and "threads" not in message


def test_a_file_is_asked_for_before_long_work_where_a_folder_is_given(searched, capsys, tmp_path):
    (tmp_path / "dir.svg").mkdir()
    said = refused(capsys, "attribution", str(searched), "--out", str(tmp_path / "dir.svg"))
    assert "dir.svg" in said and "a file, not a folder" in said


def test_lambdas_without_effect_are_said(capsys):
    words = ["search", "--preset", "tiny", "--dataset", "digits", "--lambda-1", "linear", "--estimate"]
    assert cli.main([*words, "--method", "darts"]) == 0
    assert "lambda_1 = 'linear': without effect in this search by darts" in capsys.readouterr().err
    assert cli.main([*words, "--method", "da2s"]) == 0
    assert "without effect" not in capsys.readouterr().err


def test_what_lies_beside_a_cell_is_named(capsys, searched, tmp_path):
    cell = searched / "genotype.json"
    assert f"did you mean {cell}?" in refused(capsys, "count", str(searched))
    assert "a run's folder, or a record" in refused(capsys, "genotype", str(cell))
    assert "there is no such file" in refused(capsys, "genotype", str(tmp_path / "none.json"))
    assert cli.main(["cut", str(searched), "--out", str(tmp_path / "net")]) == 0
    capsys.readouterr()
    assert "retrain --from" in refused(capsys, "count", str(tmp_path / "net"))
    short = ["--preset", "tiny", "--dataset", "digits", "--epochs", "1", "--out", str(tmp_path / "y")]
    assert cli.main(["retrain", "--genotype", str(cell), *short]) == 0
    assert f"test error {read_run(tmp_path / 'y').result['test_error']:.2f} %\n" in capsys.readouterr().err


def test_settings_that_may_be_meant_are_named_in_one_order(capsys, tmp_path):
    known = refused(capsys, "search", "--preset", "tiny", "--set", "foo=1", "--out", str(tmp_path / "x"))
    assert (
        known.index("preset, dataset, method") < known.index("weight_images, architecture_images") < known.index("tf32")
    )


def test_numbers_of_a_search_that_is_not_finished_say_so(capsys, tmp_path, monkeypatch):
    out = str(tmp_path / "half")
    command = ["search", "--preset", "tiny", "--dataset", "digits", "--threads", "1", "--out", out]
    save = RunWriter.save_epoch

    def stopped(*arguments):
        save(*arguments)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(RunWriter, "save_epoch", stopped)
    assert cli.main(command) == 143
    capsys.readouterr()
    brief = ["--batch-norm", "as-trained", "--edge-weight", "learned"]
    for asked in (
        ["gap", *brief, "--stage", "both"],
        ["cut", "--out", f"{tmp_path}/new/net"],
        ["genotype"],
        ["attribution", *brief],
    ):
        options = [] if asked[0] == "genotype" else ["--json"]
        if asked[0] == "attribution":
            options += ["--budget", "3/14"]
        assert cli.main([asked[0], out, *asked[1:], *options]) == 0
        said = capsys.readouterr()
        assert f"{out}: after epoch 1 of 3: the search is not finished\n" in said.err
        assert json.loads(said.out)


@pytest.mark.parametrize(
    ("edge", "words"),
    [([0, 2, "sep_conv_4x4"], ["sep_conv_4x4", "sep_conv_3x3"]), ([4, 3, "skip_connect"], ["source", "4", "0, 1"])],
)
def test_impossible_genotypes_are_refused(capsys, tmp_path, edge, words):
    cell = {"edges": [edge], "concat": [edge[1]]}
    path = tmp_path / "g.json"
    path.write_text(json.dumps({"format": 1, "normal": cell, "reduce": cell}))
    message = refused(capsys, "retrain", "--genotype", str(path), "--out", str(tmp_path / "y"))
    assert all(word in message for word in words), message


def test_gap_prints_rows_as_json(capsys, searched):
    budgets = ["--budget", "8/14", "--budget", "3/14", "--budget", "2,2,2,2"]  # the last is the first
    assert cli.main(["gap", str(searched), *budgets, "--stage", "both", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 2 * 3 * 2
    twice = ["--edge-weight", "one", "--edge-weight", "one", "--batch-norm", "as-trained", "--batch-norm", "as-trained"]
    assert cli.main(["gap", str(searched), *budgets, "--stage", "both", *twice, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        row for row in rows if (row["edge_weight"], row["batch_norm"]) == ("one", "as-trained")
    ]
    assert {tuple(row) for row in rows} == {("budget", "edge_weight", "batch_norm", "stage", "before", "after")}
    assert all(0 <= row[key] <= 100 for row in rows for key in ("before", "after"))


def gap_of_what_fits(capsys, folder, *options):
    """Budgets of `daas-lab gap` that was asked for none, and what it said beside."""
    command = ["search", "--preset", "tiny", "--dataset", "digits", "--steps", "1", "--out", str(folder), *options]
    assert cli.main(command) == 0
    capsys.readouterr()
    assert cli.main(["gap", str(folder), "--edge-weight", "one", "--batch-norm", "as-trained", "--json"]) == 0
    printed = capsys.readouterr()
    return {row["budget"] for row in json.loads(printed.out)}, printed.err


def test_gap_of_no_budget_is_of_those_that_fit_the_space(capsys, tmp_path):
    budgets, said = gap_of_what_fits(capsys, tmp_path / "x", "--epochs", "1", "--set", "nodes=5")
    assert budgets == {"2,2,2"} and not said


def test_gap_of_no_budget_leaves_out_what_has_retired(capsys, tmp_path):
    leaving = [
        "--epochs",
        "4",
        "--steps",
        "8",
        "--set",
        "retire=0.1",
        "--set",
        "retire_after=1",
        "--set",
        "arch_learning_rate=0.5",
    ]
    budgets, said = gap_of_what_fits(capsys, tmp_path / "x", "--method", "da2s", "--budget", "4/14", *leaving)
    assert {"4/14"} <= budgets < {"8/14", "6/14", "5/14", "4/14", "3/14"}
    assert said.count("keeps what has retired") == 5 - len(budgets)


def test_a_home_of_nobody_is_a_path_like_any_other(capsys, tmp_path):
    out = ["--preset", "tiny", "--out", str(tmp_path / "x")]
    for command in (["search", "--dataset", "folder:~nobody-here/x"], ["search", "--method", "~nobody-here/m.py:M"],
                    ["retrain", "--from", "~nobody-here/net"]):  # fmt: skip
        assert "~nobody-here/" in refused(capsys, *command, *out)


def test_a_field_that_a_command_does_not_have_is_not_named_as_its_option(capsys, tmp_path):
    out = ["--preset", "tiny", "--dataset", "digits", "--out", str(tmp_path / "x")]
    message = refused(capsys, "retrain", "--genotype", "DARTS_V2", "--set", "method=darts", *out)
    assert "method" in message and "--method" not in message


def test_genotype_of_an_epoch(capsys, searched):
    assert cli.main(["genotype", str(searched), "--epoch", "0", "--budget", "4/14"]) == 0
    assert len(json.loads(capsys.readouterr().out)["normal"]["edges"]) == 4
    message = refused(capsys, "genotype", str(searched), "--epoch", "9")
    assert "epoch" in message and "at least 0 and of at most 3" in message


def test_attribution_prints_every_decision_and_draws_them(capsys, searched, tmp_path):
    picture = tmp_path / "heat.svg"
    assert cli.main(["attribution", str(searched), "--budget", "4/14", "--out", str(picture), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 2 * (14 + 4) and {row["edge_weight"] for row in rows} == {"learned"}
    text = picture.read_text()
    assert "points of accuracy lost" in text and text.count("_3x3") + text.count("_5x5") + text.count("skip_") >= 28
    for option, value, allowed in (
        ("--edge-weight", "two", "renormalised"),
        ("--batch-norm", "old", "recalibrated"),
        ("--budget", "2,2", "4 intermediate nodes"),
        ("--out", "heat.txt", ".svg"),
    ):
        message = refused(capsys, "attribution", str(searched), option, value)
        assert value.split(".")[-1] in message and allowed in message, message


def test_dropped_nodes_and_several_operations_an_edge_from_search_to_retraining(capsys, tmp_path):
    budget = "normal=3/14;reduce=4/14*2"
    common = ["--preset", "tiny", "--dataset", "digits", "--epochs", "1", "--steps", "1"]
    command = ["search", *common, "--method", "da2s", "--protocol", "paper", "--budget", budget]
    gap = ["--gap-every", "1", "--gap-budgets", f"8/14 {budget}", "--gap-edge-weight", "renormalised"]
    assert cli.main([*command, *gap, "--out", str(tmp_path / "x")]) == 0
    [record] = [json.loads(line) for line in (tmp_path / "x" / "history.jsonl").read_text().splitlines()]
    assert [row["budget"] for row in record["gap"]] == ["8/14", budget]
    assert 0 < record["operation_loss"] < 1000

    path = tmp_path / "x" / "genotype.json"
    cells = json.loads(path.read_text())
    assert [len(cells[name]["edges"]) for name in ("normal", "reduce")] == [6, 8]
    assert len(cells["normal"]["concat"]) == 3 and len(cells["reduce"]["concat"]) == 4
    for name in ("normal", "reduce"):
        pairs = [tuple(edge[:2]) for edge in cells[name]["edges"]]
        assert all(pairs.count(pair) == 2 for pair in pairs)
    capsys.readouterr()
    assert cli.main(["gap", str(tmp_path / "x"), "--budget", budget, "--stage", "both", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["budget"] for row in rows} == {budget}
    assert next(row for row in rows if row["edge_weight"] == "renormalised") == record["gap"][1]

    assert cli.main(["draw", str(path), "--out", str(tmp_path / "cells.svg")]) == 0
    assert cli.main(["count", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["parameters"] > 100_000
    assert cli.main(["retrain", *common, "--genotype", str(path), "--out", str(tmp_path / "y")]) == 0
    assert 0 <= json.loads((tmp_path / "y" / "result.json").read_text())["test_error"] <= 100


def test_count_draw_and_retrain(capsys, tmp_path):
    assert cli.main(["count", "DARTS_V2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 3_349_342
    assert cli.main(["draw", "NASNet", "--out", str(tmp_path / "cells.svg")]) == 0
    assert "sep_conv_7x7" in (tmp_path / "cells.svg").read_text()
    command = ["retrain", "--genotype", "DARTS_V2", "--preset", "tiny", "--dataset", "digits"]
    assert cli.main([*command, "--out", str(tmp_path / "y")]) == 0
    assert 0 <= json.loads((tmp_path / "y" / "result.json").read_text())["test_error"] <= 100


def test_places_and_files_that_cannot_be_used_are_one_line(capsys, searched, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"\xff\xfe")
    search = ["search", "--preset", "tiny", "--dataset", "digits", "--out"]
    assert str(file) in refused(capsys, *search, str(file))
    assert str(file) in refused(capsys, "draw", "DARTS_V2", "--out", str(file / "cells.svg"))
    assert str(file) in refused(capsys, "count", str(file))
    assert (
        "nowhere" in refused(capsys, "cut", "nowhere", "--out", f"{tmp_path}/new/net")
        and not (tmp_path / "new").exists()
    )
    for command in (["cut", str(searched)], ["attribution", str(searched)]):
        ending = ".svg" if command[0] == "attribution" else ""
        message = refused(capsys, *command, "--out", f"{file}/new/net{ending}")
        assert message.startswith(f"daas-lab: --out = '{file}/new/net{ending}': must be in a folder that can be made")
    assert "side = '²'" in refused(capsys, "count", "DARTS_V2", "--side", "²")


def test_a_record_knows_the_cell_of_every_epoch(capsys, searched, tmp_path):
    record = tmp_path / "x.json"
    write_record(read_run(searched), record)
    for arguments in (["--epoch", "2", "--budget", "4/14"], ["--darts"]):
        printed = []
        for place in (searched, record):
            assert cli.main(["genotype", str(place), *arguments]) == 0
            captured = capsys.readouterr()
            printed.append(captured.out)
            assert captured.err.count("\n") == 1 and "of a coin toss" in captured.err
        assert printed[0] == printed[1]
    assert parse_genotype(printed[0]) == read_run(searched).genotype
    assert "two for each node" in refused(capsys, "genotype", str(record), "--darts", "--budget", "4/14")


def test_the_cell_and_the_drop_by_another_rule(searched, capsys):
    cells = {}
    for rule in ("own", "strongest", "skips:0", "threshold:1"):
        assert cli.main(["genotype", str(searched), "--select", rule]) == 0
        cells[rule] = json.loads(capsys.readouterr().out)
    assert cells["own"] == cells["strongest"]
    assert not any("skip_connect" in edge for name in ("normal", "reduce") for edge in cells["skips:0"][name]["edges"])
    assert [len(cells["threshold:1"][name]["edges"]) for name in ("normal", "reduce")] == [1, 1]
    command = ["gap", str(searched), "--budget", "8/14", "--stage", "both", "--json"]
    assert cli.main([*command, "--select", "skips:0"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["select"] for row in rows} == {"skips:0"} and len(rows) == 6
    assert cli.main([*command, "--select", "skips"]) == 2
    assert "skips:2" in capsys.readouterr().err


@pytest.mark.parametrize("rule", ["skips:0", "perturbation"])
def test_a_search_keeps_its_cell_by_the_rule_that_was_asked_for(rule, tmp_path, capsys):
    folder = tmp_path / "x"
    command = ["search", "--preset", "tiny", "--dataset", "digits", "--budget", "1,1", "--out", str(folder)]
    brief = {"nodes": 4, "layers": 3, "channels": 2, "epochs": 2, "steps": 1, "retire": 1e-3}
    command += [word for name, value in brief.items() for word in ("--set", f"{name}={value}")]
    assert cli.main([*command, "--select", rule]) == 0
    assert capsys.readouterr().out == f"{folder}\n"
    assert is_whole(folder)
    kept = json.loads((folder / "cells.json").read_text())
    assert cli.main(["genotype", str(folder), "--select", rule]) == 0
    assert kept == {rule: {"1,1": json.loads(capsys.readouterr().out)}}
    written = (folder / "cells.json").stat().st_mtime_ns
    assert cli.main([*command, "--select", "own"]) == 0 and (folder / "cells.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--select", "best"], ["select", "best", "strongest"]),
        (["--select", "skips"], ["select", "skips:2"]),
        (["--method", "random", "--select", "strongest"], ["select", "strongest", "own", "random"]),
        (["--select", "perturbation", "--budget", "8/14; parameters<=2M"], ["budget", "2M", "perturbation"]),
    ],
)
def test_a_rule_that_cannot_choose_is_refused_before_the_search(arguments, words, tmp_path, capsys):
    options = ["--preset", "tiny", "--dataset", "digits", "--out", str(tmp_path / "x"), *arguments]
    message = refused(capsys, "search", *options)
    assert all(word in message for word in words) and not (tmp_path / "x").exists(), message
