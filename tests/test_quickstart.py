"""The command, from a wheel too; what it says at its end follows from its numbers, whichever way they point."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from daas_lab import cli
from daas_lab.runs.provenance import provenance
from daas_lab.studies import quickstart


def document(darts, da2s, errors, seeds=(0,)):
    """A quickstart whose cut costs so much, and whose cells have these test errors."""
    std = None if len(seeds) == 1 else 0.5
    rows = []
    for method, drop in (("darts", darts), ("da2s", da2s)):
        for edge_weight, more in (("one", 0.0 if method == "darts" else 50.0), ("learned", 0.0)):
            for batch_norm, less in (("as-trained", 0.0), ("recalibrated", 9.0)):
                cost = drop + more - less
                row = {"method": method, "budget": "8/14", "edge_weight": edge_weight, "batch_norm": batch_norm}
                row |= {"seeds": list(seeds), "before_mean": 97.0, "after_mean": 97.0 - cost, "drop_mean": cost}
                rows.append(row | dict.fromkeys(("before_std", "after_std", "drop_std"), std))
    rows += [
        {"method": method, "budget": "8/14", "seeds": list(seeds), "test_error_mean": error, "test_error_std": std}
        for method, error in zip(("darts", "da2s"), errors, strict=True)
    ]
    return {"provenance": provenance("digits", "quick", "papermill …", 100.0), "rows": rows}


def test_the_summary_has_table_meaning_pictures_and_what_to_open_next():
    text = quickstart.summary(document(84.0, 0.5, (0.25, 1.01)), "runs/figures/quick")
    lines = [line.split() for line in text.splitlines()]
    assert ["DARTS", "97.00", "13.00", "0.25"] in lines and ["DA²S", "97.00", "96.50", "1.01"] in lines
    assert "Chance is 10 %." in text and "8/14" in text and "digits" in text and "AVX" in text
    assert "runs/figures/quick/00_quickstart_" in text and "make lab" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ((84.0, 0.0, (0.25, 1.01)), ["DARTS 84.0 points and DA²S 0.0: DA²S, which", "avoids 100%", "DARTS errs less"]),
        ((80.0, 20.0, (1.0, 0.5)), ["avoids 75%", "the cell of DA²S errs less, by 0.50 points; one seed"]),
        ((50.0, -1.0, (0.5, 0.5)), ["avoids 100%", "err equally often"]),
        ((40.0, 60.0, (0.5, 0.5)), ["does not close the gap"]),
        ((40.0, 40.0, (0.5, 0.5)), ["does not close the gap"]),
        ((-0.5, 0.0, (0.5, 0.5)), ["no gap to close"]),
    ],
)
def test_the_meaning_follows_from_the_numbers(measured, words):
    text = " ".join(quickstart.summary(document(*measured), "there").split())
    assert all(word in text for word in words), text


def test_several_seeds_are_said():
    text = " ".join(quickstart.summary(document(84.0, 0.5, (0.25, 1.01), (0, 1)), "there").split())
    assert "97.00 ± 0.50" in text and "seeds 0, 1" in text and "in the mean of 2 seeds" in text


# --- the command ------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parent.parent
NAMES = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}


def test_notebooks_are_copied_and_what_a_user_changed_stays(tmp_path, capsys):
    folder = tmp_path / "notebooks"
    quickstart.copy_notebooks(folder)
    assert {path.name for path in folder.iterdir()} == NAMES and capsys.readouterr().err == ""
    changed, removed = folder / "explore.ipynb", folder / "00_quickstart.ipynb"
    changed.write_text("mine")
    removed.unlink()
    quickstart.copy_notebooks(folder)
    assert changed.read_text() == "mine"
    assert removed.read_bytes() == (ROOT / "notebooks" / removed.name).read_bytes()
    assert capsys.readouterr().err == f"{changed} is not this version's, and stays as it is\n"


@pytest.mark.parametrize("name", ["papermill", "ipykernel"])
def test_without_the_lab_one_line_says_how_to_install_it(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, name, None)
    assert cli.main(["quickstart"]) == 2
    line = f"daas-lab: {name} is missing, of the extra `lab`: pip install 'daas-lab[lab]'\n"
    assert capsys.readouterr().err == line and not list(tmp_path.iterdir())


def test_a_preset_that_is_none_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["quickstart", "--preset", "quik"]) == 2
    assert "preset = 'quik'" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_wheel_in_an_empty_folder_runs_its_notebook_and_prints_the_table(tmp_path):
    """Built and installed without a network. The second time the user's own notebook runs."""
    source, installed, here = tmp_path / "source", tmp_path / "installed", tmp_path / "here"
    left_out = shutil.ignore_patterns(".*", "runs", "site", "data", "figures", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, symlinks=True, ignore=left_out)
    here.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--quiet"]
    subprocess.run([*pip, "wheel", *offline, "--no-build-isolation", "-w", tmp_path, source], check=True)
    [wheel] = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", *offline, "--target", installed, wheel], check=True)
    shutil.rmtree(source)

    def run():
        command = [sys.executable, str(installed / "bin" / "daas-lab"), "quickstart", "--preset", "tiny"]
        environment = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": str(installed), "HOME": str(here)}
        return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)

    done = run()
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in (here / "notebooks").iterdir()} == NAMES
    assert "executed notebook: runs/notebooks/tiny/00_quickstart.ipynb\n" in done.stdout
    assert "Chance is 10 %" in done.stdout and "runs/figures/tiny/00_quickstart_*.svg" in done.stdout
    assert (here / "runs/figures/tiny/00_quickstart_drop.svg").is_file()

    own = here / "notebooks" / "00_quickstart.ipynb"
    own.write_text(own.read_text().replace("%matplotlib inline", "raise KeyError('mine')"))
    done = run()
    assert done.returncode == 2 and "KeyError: 'mine'" in done.stderr
    assert "notebooks/00_quickstart.ipynb is not this version's, and stays as it is\n" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("daas-lab: notebooks/00_quickstart.ipynb ended with exit code 1")
