"""The project as a whole: what it depends on, which way it imports, and its notebooks."""

import ast
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml

from daas_lab.methods.lookup import METHODS
from daas_lab.space.cell_space import NONE
from daas_lab.space.operations import OPERATIONS
from daas_lab.studies.settings import read_settings
from tests.conftest import NO_GPU, pytest_sessionfinish
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent
CONDA_NAMES = {"torch": "pytorch", "graphviz": "python-graphviz"}
# Lowest first; what stands in one place may not import each other, a room's own modules may.
PLACES = [
    ("errors",),
    ("fields", "own_files", "paper"),
    ("space",),
    ("methods",),
    ("data",),
    ("presets",),
    ("config",),
    ("compose",),
    ("identity",),
    ("networks",),
    ("runs",),
    ("train",),
    ("report",),
    ("studies",),
    ("lab",),
    ("commands",),
    ("cli",),
    ("__main__",),
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


def imported_places(tree):
    """Rooms and top-level modules that a module imports when it runs, not for annotations alone."""
    quiet = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in quiet:
            if node.module == "daas_lab":
                yield from (alias.name for alias in node.names)
            elif (node.module or "").startswith("daas_lab."):
                yield node.module.split(".")[1]


def test_imports_between_rooms_go_downwards():
    height = {place: number for number, places in enumerate(PLACES) for place in places}
    package = ROOT / "daas_lab"
    files = [path for path in package.rglob("*.py") if path != package / "__init__.py"]
    place = {path: path.relative_to(package).parts[0].removesuffix(".py") for path in files}
    assert set(place.values()) == set(height)
    for path in files:
        for name in imported_places(ast.parse(path.read_text())):
            own = place[path]
            assert name == own or height[name] < height[own], f"{path.relative_to(ROOT)} imports {name}"


def test_no_module_is_longer_than_a_reader_can_hold():
    for path in (ROOT / "daas_lab").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 400, path.relative_to(ROOT)


def string_literals(path):
    """Every text in a module that is no docstring or part of one."""
    tree = ast.parse(path.read_text())
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    }


def test_no_method_is_named_outside_its_room():
    package = ROOT / "daas_lab"
    allowed = {package / "paper.py", *(package / "methods").glob("*.py")}
    for path in set(package.rglob("*.py")) - allowed:
        assert not string_literals(path) & set(METHODS), path.relative_to(ROOT)


def test_operations_are_named_in_their_table_and_in_the_fast_cell_only():
    # The name `none` means other things too.
    names = re.compile("|".join(rf"\b{name}\b" for name in OPERATIONS if name != NONE))
    package, found = ROOT / "daas_lab", set()
    for path in package.rglob("*.py"):
        if any(map(names.search, string_literals(path))):
            found.add(str(path.relative_to(package)))
    fast, table = {"networks/fast_supernet.py"}, {"space/cell_space.py", "space/operations.py"}
    assert found - {"paper.py"} == fast | table


def test_the_readable_network_knows_nothing_of_the_fast_one():
    tree = ast.parse((ROOT / "daas_lab" / "networks" / "supernet.py").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(module.startswith("daas_lab.networks") for module in imported)


def test_the_space_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; from daas_lab.space import {}"
    layers = {"operations", "skeleton", "cost"}  # are made of its modules
    modules = {path.stem for path in (ROOT / "daas_lab" / "space").glob("*.py")} - {"__init__", *layers}
    subprocess.run([sys.executable, "-c", code.format(", ".join(sorted(modules)))], check=True)


def test_the_package_carries_what_is_not_python():
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    others = [path for path in (ROOT / "daas_lab").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert {path.name for path in others} >= {"cell_editor.js", "cell_editor.css", "published.json"}
    carried = {
        path
        for name, patterns in package["package-data"].items()
        for pattern in patterns
        for path in (ROOT / name.replace(".", "/")).glob(pattern)
    }
    assert set(others) <= carried


def notebooks():
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_notebooks_are_stripped_and_have_one_parameters_cell(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    # own_method defines one, in the one cell that it writes to a file.
    own = [cell for cell in code if path.stem == "own_method" and cell["source"][0].startswith("%%writefile ")]
    assert len(own) == (path.stem == "own_method") and all(len(cell["source"]) <= 30 for cell in own)
    others = [line for cell in code if cell not in own for line in cell["source"]]
    assert not any(word in line for line in others for word in ("class ", "backward("))


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_what_a_notebook_has_as_parameters_are_settings(path):
    """Those that read them; `read_settings` refuses all others."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    [parameters] = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    namespace = {}
    exec("".join(parameters["source"]), namespace)
    read = [line for cell in cells for line in cell["source"] if "read_settings(globals()" in line]
    assert len(read) == 1 and read_settings(namespace).seeds


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_a_notebook_ends_by_saving_its_results_under_its_own_name(path):
    *_, last = (cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code")
    saved = "".join("".join(last["source"]).split())
    said = f'save_results("{path.stem}",settings,', f'notebook="{path.stem}"'  # of a table with a name of its own
    assert any(own in saved for own in said) or path.stem == "explore"


@pytest.mark.slow
def test_make_lab_listens_on_loopback_and_asks_for_a_token(tmp_path):
    told = subprocess.run(["make", "-n", "lab", "-o", ".venv/installed"], cwd=ROOT, capture_output=True, text=True)
    [line] = [line for line in told.stdout.splitlines() if " jupyter lab " in line]
    words = shlex.split(line)[1:-1]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "RUNTIME")}
    options = ["--no-browser", "--allow-root", f"--port={port}", "--ServerApp.port_retries=0"]
    with open(tmp_path / "log", "wb") as log:
        command = [sys.executable, *words, *options]
        server = subprocess.Popen(command, cwd=tmp_path, env=os.environ | own, stdout=log, stderr=log)

    def listening():
        """Addresses and ports. The system's table of sockets changes while it is read, and may lack one at times."""
        found = psutil.Process(server.pid).net_connections()
        return [connection.laddr for connection in found if connection.status == psutil.CONN_LISTEN]

    try:
        wait_until(lambda: b"token=" in (tmp_path / "log").read_bytes() or server.poll() is not None)
        assert server.poll() is None, (tmp_path / "log").read_text()
        wait_until(lambda: port in [number for _, number in listening()])
        assert {ip for ip, _ in listening()} == {"127.0.0.1"}
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/contents")
    finally:
        server.terminate()
        server.wait()


def test_the_table_of_faults_has_those_that_tests_try():
    tree = ast.parse((ROOT / "tests" / "test_faults.py").read_text())
    marks = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "fault"
    ]
    rows = json.loads((ROOT / "figures" / "faults.json").read_text())["rows"]
    assert {row["fault"] for row in rows} == {mark.args[0].value for mark in marks}
    assert f"\n{len(rows)} faults are tried" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(("reasons", "fails"), [((), False), ((NO_GPU,), False), ((NO_GPU, "dot is missing"), True)])
def test_where_all_is_required_a_skip_fails_but_for_want_of_a_gpu(reasons, fails, monkeypatch):
    skipped = [SimpleNamespace(longrepr=("path", 1, f"Skipped: {reason}")) for reason in reasons]
    reporter = SimpleNamespace(stats={"skipped": skipped})
    plugins = SimpleNamespace(get_plugin={"terminalreporter": reporter}.get)
    for required in ("0", "1"):
        monkeypatch.setenv("DAAS_LAB_REQUIRE_ALL", required)
        session = SimpleNamespace(config=SimpleNamespace(pluginmanager=plugins), exitstatus=pytest.ExitCode.OK)
        pytest_sessionfinish(session)
        assert (session.exitstatus == pytest.ExitCode.TESTS_FAILED) == (fails and required == "1")
