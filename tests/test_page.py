"""The page of `daas-lab report`: what it says is what the runs hold, and what they lack is said in its place."""

import json
import os
import shlex
import shutil
from html.parser import HTMLParser

import pytest

from daas_lab import cli, config, own_files
from daas_lab.compose import retrain_config, search_config
from daas_lab.identity import config_hash
from daas_lab.methods import rules
from daas_lab.report.page import save_page
from daas_lab.runs.folder import read_config, read_run
from daas_lab.runs.lock import locked
from daas_lab.runs.records import write_record
from daas_lab.studies.make import measure_drops, run_folder
from daas_lab.studies.settings import Settings
from daas_lab.train.discretize import weight_evolution
from daas_lab.train.evolution import genotype_after
from daas_lab.train.retrain import retrain
from daas_lab.train.search import search
from tests.made_runs import write_search

SHORT = {"layers": 3, "channels": 4, "steps": 2, "epochs": 2}
HOSTILE = "<script>alert('&')</script>"


class Page(HTMLParser):
    """Tags, texts by the heading that they stand under, and the data of scripts."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.links, self.scripts, self.missing = [], [], [], []
        self.heading = self.within = ""
        self.text: dict[str, str] = {}
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        self.links += [given[name] for name in ("src", "href", "xlink:href", "action") if given.get(name)]
        self.within = "missing" if given.get("class") == "missing" else tag
        if tag in ("h1", "h2", "h3"):
            self.heading = ""

    def handle_data(self, data):
        if self.within in ("h1", "h2", "h3"):
            self.heading += data
        elif self.within in ("script", "missing"):
            {"script": self.scripts, "missing": self.missing}[self.within].append(data)
        else:
            self.text[self.heading] = self.text.get(self.heading, "") + f"{data} "

    def handle_endtag(self, tag):
        self.within = ""

    def heat_maps(self):
        return [json.loads(text) for text in self.scripts if text.startswith("{")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A search with its gap, while it searched and after it, and the retraining of its cell: folders."""
    folder = tmp_path_factory.mktemp("made")
    settings = Settings(preset="tiny", dataset="digits", runs=folder, figures=folder / "figures")
    chosen = settings.search("da2s", 0, **SHORT, gap_every=1)
    found = run_folder(chosen, settings)
    search(chosen, found, progress=False)
    keys = [("8/14", "both"), ("8/14", "none")]
    measure_drops(found, chosen, keys, settings.data, rules.OWN, 1)
    retraining = retrain_config(read_run(found).genotype, "tiny", "digits", **SHORT)
    retrain(retraining, folder / "retrained", progress=False)
    return found, folder / "retrained"


def test_the_page_says_what_a_search_and_a_retraining_hold(made, tmp_path, capsys):
    out = tmp_path / "new" / "page.html"
    assert cli.main(["report", *map(str, made), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    page, run = Page(out), read_run(made[0])
    assert page.missing == [] and page.tags.count("svg") == 4  # a curve and the cells of each
    assert page.heading == "Provenance" and "–" not in page.text["Provenance"]

    [data] = page.heat_maps()
    evolution = weight_evolution(run)
    for name, shown in data["cells"].items():
        a, b = evolution[name]
        assert shown["a"] == a.reshape(3, -1).astype(float).round(3).tolist()
        assert shown["b"] == b.astype(float).round(3).tolist()
        for epoch in range(3):
            edges, operations = run.config.space.edges, run.config.space.operations
            kept = [(*edges[number // 7], operations[number % 7]) for number in shown["kept"][epoch]]
            assert kept == [tuple(edge) for edge in genotype_after(run, epoch).cell(name).edges]
    assert data["accuracy"] == [None, *(record["held_out_accuracy"] for record in run.history)]

    drops = page.text["What the cut costs"]
    assert len(run.gap) == 2 * 3 * 2 and "nothing cut, statistics recalibrated" in drops
    for row in run.gap:
        change = f"{row['after']:.1f} ({row['after'] - row['before']:+.1f})".replace("-", "−")
        assert change in drops and row["budget"] in drops and row["edge_weight"] in drops
    for found in map(read_run, made):
        told = page.text["Provenance"]
        parts = [config_hash(found.config), found.origin["versions"]["torch"], found.origin["machine"]["processor"]]
        assert all(part in told for part in parts)
    assert f"{read_run(made[1]).result['parameters']:,}" in page.text["Result"]


def test_the_command_that_a_page_shows_makes_the_same_run(made, tmp_path, monkeypatch):
    save_page(made, tmp_path / "page.html")
    told = Page(tmp_path / "page.html").text["Provenance"].splitlines()
    commands = [line.strip().removeprefix("command").strip() for line in told if "daas-lab " in line]
    assert len(commands) == 2
    again = []
    for trainer in ("commands.search", "train.retrain.retrain"):
        monkeypatch.setattr(f"daas_lab.{trainer}", lambda *given: again.append(given[:2]))
    assert [cli.main(shlex.split(command)[1:]) for command in commands] == [0, 0]
    assert again == [(read_config(folder), str(folder)) for folder in made]


def test_what_differs_is_marked_in_runs_of_a_kind(tmp_path):
    for seed in (0, 1):
        write_search(tmp_path / f"s{seed}", "darts", "tiny", "digits", seed=seed)
    write_record(read_run(tmp_path / "s0"), tmp_path / "records" / "s0.json")
    save_page([tmp_path / "s0", tmp_path / "s1", tmp_path / "s0"], tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert page.text["What differs between the searches"].split() == ["run", "seed", "1", "0", "2", "1"]
    assert page.tags.count("mark") == 2 and page.tags.count("svg") == 5  # both curves in one picture too
    # A record says what its run does; two that are the same differ in nothing.
    save_page([tmp_path / "s0", tmp_path / "records" / "s0.json"], tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert "mark" not in page.tags and not any("What differs" in heading for heading in page.text)
    assert all(text in page.text["daas_lab: 2 runs"] for text in (f"{tmp_path}/s0", "s0.json", "record"))


def test_what_a_run_lacks_is_said_in_its_place(tmp_path, monkeypatch):
    method = tmp_path / "mine.py"
    method.write_text("from daas_lab import Method\n\nclass Mine(Method):\n    pass\n")
    search(search_config("tiny", "digits", "random"), tmp_path / "drawn", progress=False)
    write_search(tmp_path / "own", f"{method}:Mine", "tiny", "digits")
    write_search(tmp_path / "going", "darts", "tiny", "digits", epochs=4, finish=False)
    with (tmp_path / "going" / "epochs.log").open("rb+") as log:  # of the last line a half is there so far
        log.truncate(log.seek(0, os.SEEK_END) - 9)
    (tmp_path / "going" / "epochs.copy.log").unlink()
    write_search(tmp_path / "begun", "darts", "tiny", "digits", finish=False)
    for path in (tmp_path / "begun").glob("*.log"):
        path.unlink()
    (tmp_path / "begun" / "history.jsonl").unlink()
    monkeypatch.setattr(own_files, "_named", {})
    config._searcher.cache_clear()
    with locked(tmp_path / "going"):
        save_page([tmp_path / name for name in ("drawn", "own", "going", "begun")], tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    missing, states = page.missing, page.text["daas_lab: 4 runs"]
    assert f"going on, epoch 3 of 4 (process {os.getpid()})" in states and "stopped, epoch 0 of 3" in states
    assert len([text for text in missing if "Chance drew the cell" in text]) == 3
    assert len([text for text in missing if "executed only where it is named: name the same file" in text]) == 2
    assert len([text for text in missing if "No epoch is recorded" in text]) == 3
    assert len([text for text in missing if "there is no gap.json" in text]) == 3 and len(missing) == 11
    assert len(page.heat_maps()) == 1 and "Not written out" in page.text["Provenance"]
    write_record(read_run(write_search(tmp_path / "whole", "darts", "tiny", "digits")), tmp_path / "whole.json")
    save_page([tmp_path / "whole.json"], tmp_path / "page.html")
    [said] = Page(tmp_path / "page.html").missing
    assert "the record has no drops" in said and "gap.json" not in said


def damage(folder):
    """Copies of a whole run and its record, each damaged in another way; their names."""
    row = {
        "budget": "8/14",
        "edge_weight": "one",
        "stage": "both",
        "batch_norm": "as-trained",
        "before": 90,
        "after": 9,
    }
    (folder / "whole" / "gap.json").write_text(json.dumps([row]))
    damaged = {
        "config.json": b'{"kind": "search"',
        "DONE": b"[1, 2]",
        "gap.json": json.dumps([row | {"before": "high"}]).encode(),
        "genotype.json": b'{"format": 1}',
        "history.jsonl": b'{"epoch": 1, "held_out_accuracy": NaN, "gap": 5}\n[]\n',
        "architecture.safetensors": b"\x00" * 50,
        "timing.jsonl": b"\xff\xfe",
    }
    for name, content in damaged.items():
        shutil.copytree(folder / "whole", folder / name)
        (folder / name / name).write_bytes(content)
    # Without digests, as older versions left it, what is damaged passes for what the run wrote.
    shutil.copytree(folder / "history.jsonl", folder / "old")
    (folder / "old" / "DONE").write_text("")
    write_record(read_run(folder / "whole"), folder / "record.json")
    (folder / "cut.json").write_bytes((folder / "record.json").read_bytes()[:999])
    changed = json.loads((folder / "record.json").read_text()) | {"history": [3], "gap": 7, "versions": 1, "result": []}
    (folder / "changed.json").write_text(json.dumps(changed))
    return [*damaged, "old", "cut.json", "changed.json"]


def test_a_damaged_run_does_not_spoil_the_page_of_the_others(tmp_path):
    write_search(tmp_path / "whole", "darts", "tiny", "digits")
    names = damage(tmp_path)
    save_page([tmp_path / "whole"], tmp_path / "whole.html")
    save_page([tmp_path / name for name in [*names, "whole"]], tmp_path / "page.html")
    text, alone = ((tmp_path / name).read_text() for name in ("page.html", "whole.html"))
    for number, name in enumerate(names, start=1):
        section = text[text.index(f'id="run-{number}"') : text.index(f'id="run-{number + 1}"')]
        assert ('class="missing"' in section) == (name != "timing.jsonl"), name
    # The whole run is shown as it is alone, but for the marks of what differs.
    sections = (shown[shown.rindex('id="run-') :] for shown in (text, alone))
    last, alone = (section.partition("<h3>")[2].partition("<footer")[0] for section in sections)
    assert last.replace("<mark>", "").replace("</mark>", "") == alone
    assert all(isinstance(data, dict) for data in Page(tmp_path / "page.html").heat_maps()) and "NaN" not in text


def test_texts_of_a_run_are_texts_on_the_page(tmp_path):
    folder = tmp_path / os.fsdecode(f"{HOSTILE.replace('/', '∕')} $\\x$ {{{{ 7 * 7 }}}} \n".encode() + b"\xff")
    write_search(folder, "darts", "tiny", "digits")
    row = {"budget": HOSTILE, "edge_weight": HOSTILE, "stage": "both", "batch_norm": HOSTILE, "before": 5, "after": 6}
    (folder / "gap.json").write_text(json.dumps([row]))
    header = json.loads((folder / "config.json").read_text())
    header |= {"versions": {HOSTILE: HOSTILE}, "machine": {"processor": HOSTILE}}
    (folder / "config.json").write_text(json.dumps(header))
    (folder / "DONE").write_text("")
    save_page([folder], tmp_path / "page.html", f"daas-lab {HOSTILE}")
    page = Page(tmp_path / "page.html")
    assert page.missing == [] and page.tags.count("script") == 2  # ours, and the data of one search
    assert page.text["What the cut costs"].count(HOSTILE) == 3 and HOSTILE in page.text["Provenance"]
    assert "{{ 7 * 7 }}" in page.heading + str(page.text)
    assert all(link.startswith("#") for link in page.links) and not {"img", "iframe", "link"} & set(page.tags)


@pytest.mark.parametrize("name", ["nothing", "folder", "genotype.json", "list.json", "text.txt"])
def test_what_is_no_run_is_refused_before_anything_is_written(capsys, made, tmp_path, name):
    (tmp_path / "folder").mkdir()
    shutil.copy(made[0] / "genotype.json", tmp_path)
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "text.txt").write_text("run")
    out = tmp_path / "new" / "page.html"
    assert cli.main(["report", str(made[0]), str(tmp_path / name), "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and f"{name}': must be a run's folder, or a record" in said.err
    assert not out.parent.exists()


def test_a_page_goes_to_an_html_file_that_can_be_written(capsys, made, tmp_path):
    assert cli.main(["report", str(made[0]), "--out", str(tmp_path / "page.pdf")]) == 2
    assert "ending of --out = '.pdf': must be one of .html" in capsys.readouterr().err
    (tmp_path / "folder.html" / "full").mkdir(parents=True)
    assert cli.main(["report", str(made[0]), "--out", str(tmp_path / "folder.html")]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["folder.html"]
