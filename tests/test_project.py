"""The project as a whole: what it depends on, which way it imports, and its notebooks."""

import ast
import json
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
CONDA_NAMES = {"torch": "pytorch", "graphviz": "python-graphviz"}
TIERS = [
    ["errors", "provenance", "published"],
    ["paper", "genotype", "schedules", "presets", "distributed", "image_folder", "fields"],
    ["datasets", "image_files"],
    ["config", "tables"],
    ["fused"],
    ["data", "operations", "runs", "projection"],
    ["records"],
    ["relaxations", "losses", "depthwise"],
    ["mixed_edges"],
    ["mixed_cell"],
    ["supernet", "network", "training"],
    ["textbook", "discretize", "unrolled"],
    ["search", "retrain", "bench", "evolution"],
    ["experiments", "estimate"],
    ["studies", "plots", "cell_layout"],
    ["plots_losses", "plots_evolution", "drawing", "explorer"],
    ["claims", "editor", "events", "live", "sweep"],
    ["widgets"],
    ["cli"],
    ["__main__"],
]


def base_name(requirement):
    return requirement.split(">")[0].split("=")[0].strip()


def test_conda_and_pip_ask_for_the_same_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["lab"]]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert conda["channels"][0] == "conda-forge" and "pytorch" not in conda["channels"]
    offered = [entry for entry in conda["dependencies"] if isinstance(entry, str)]
    extra = {"python", "graphviz", "pip"}  # graphviz is the program itself there
    assert {CONDA_NAMES.get(base_name(r), base_name(r)) for r in wanted} == {base_name(r) for r in offered} - extra
    bounds = {base_name(r): r.removeprefix(base_name(r)) for r in offered}
    for requirement in wanted:
        name = base_name(requirement)
        assert bounds[CONDA_NAMES.get(name, name)] == requirement.removeprefix(name)


def test_imports_go_downwards():
    level = {module: height for height, modules in enumerate(TIERS) for module in modules}
    files = sorted((ROOT / "daas_lab").glob("*.py"))
    assert {file.stem for file in files} - {"__init__"} == set(level)
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module == "daas_lab":
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("daas_lab."):
                names = [node.module.removeprefix("daas_lab.")]
            for name in names:
                assert level[name] < level[file.stem], f"{file.stem} imports {name}"


def test_the_package_carries_what_is_not_python():
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    others = [path for path in (ROOT / "daas_lab").iterdir() if path.is_file() and path.suffix != ".py"]
    assert {path.name for path in others} >= {"cell_editor.js", "cell_editor.css"}
    assert all(any(path.match(pattern) for pattern in package["package-data"]["daas_lab"]) for path in others)


def notebooks():
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_notebooks_are_stripped_and_have_one_parameters_cell(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    assert not any(word in line for cell in code for line in cell["source"] for word in ("class ", "backward("))
