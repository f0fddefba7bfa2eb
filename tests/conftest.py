"""What tests need beside Python, and how they run: what is missing is skipped with its reason, and named at the end.

With DAAS_LAB_REQUIRE_ALL=1, as in CI, which can install it all, a skipped test fails the session. Faults that were
tried and survived are named there too; with DAAS_LAB_FAULTS=FILE they become the table of docs/how-to/headless.md.
"""

import json
import os
import platform
import re
import shutil
from collections import Counter
from pathlib import Path

import hypothesis
import pytest

# Examples are the same everywhere and may take their time: no test fails by chance, or because a machine is slow.
# To look for new ones: pytest --hypothesis-profile=default
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

if "PYTEST_XDIST_WORKER" in os.environ:  # side by side a thread each, as are the processes that tests start
    os.environ["OMP_NUM_THREADS"] = "1"


def _fashion_mnist_is_here() -> bool:
    from daas_lab.data.batches import is_available

    return is_available("fashion_mnist", "data")


# What `@pytest.mark.needs(name)` may name → the Debian package that brings it, and whether it is here.
NEEDS = {
    "dot": ("graphviz", lambda: shutil.which("dot") is not None),
    "chromium": ("chromium", lambda: shutil.which("chromium") is not None),
    "Fashion-MNIST": ("dataset-fashion-mnist", _fashion_mnist_is_here),
}
NO_GPU = "this machine has no CUDA device"


# The longest first, whole files as they are: else one process would be at the last of them alone.
FIRST = ("test_notebooks", "test_sweep", "test_cut", "test_published")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))


def pytest_runtest_setup(item):
    for name in [name for mark in item.iter_markers("needs") for name in mark.args]:
        package, is_here = NEEDS[name]
        if not is_here():
            pytest.skip(f"{name} is missing: apt-get install {package}")
    for mark in item.iter_markers("kind"):
        item.user_properties.append(("kind", mark.args[0]))
    if item.get_closest_marker("cuda"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip(NO_GPU)


@pytest.fixture
def forgets_operations():
    """Afterwards nothing is known of one's own operations: the table is that of the whole process."""
    from daas_lab.space.cell_space import own_operations
    from daas_lab.space.operations import OPERATIONS

    before = set(OPERATIONS) - set(own_operations)
    yield
    for name in set(OPERATIONS) - before:
        del OPERATIONS[name]
    own_operations.clear()


@pytest.fixture
def seen(request, tmp_path):
    """seen(line, exit code): what a user sees of the fault that the test is marked with."""
    [fault] = request.node.get_closest_marker("fault").args

    request.node.user_properties.append(("tried", fault))

    def note(line, code=None):
        line = line.replace(str(tmp_path), "…").replace(platform.node(), "HOST")
        line = re.sub(r'(process |"pid": )\d+', r"\1PID", re.sub(r'"start": "[^"]*"', '"start": "…"', line))
        request.node.user_properties.append(("fault", {"fault": fault, "seen": line, "exit_code": code}))

    return note


def _survived(reporter) -> list[dict]:
    """A row for every fault: how many tests have tried it, what was seen first, and the exit code."""
    rows: dict[str, dict] = {}
    for report in sorted(reporter.stats.get("passed", ()), key=lambda report: report.nodeid):
        for name, note in report.user_properties if report.when == "call" else ():
            if name == "tried":
                rows.setdefault(note, {"fault": note, "tried": 0})["tried"] += 1
            elif name == "fault":
                rows[note["fault"]] = note | rows[note["fault"]]
    return [rows[name] for name in sorted(rows)]


def _kinds(report) -> list[str]:
    return [value for name, value in report.user_properties if name == "kind"] if report.when == "call" else []


def _skipped(reporter) -> Counter:
    """Reason → number of tests, or of files, that were skipped for it."""
    return Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reporter.stats.get("skipped", ()))


def pytest_sessionfinish(session):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("DAAS_LAB_REQUIRE_ALL") == "1" and reporter and _skipped(reporter).keys() - {NO_GPU}:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    skipped = _skipped(terminalreporter)
    for reason, count in skipped.items():
        terminalreporter.write_line(f"skipped {count}: {reason}")
    packages = [package for name, (package, _) in NEEDS.items() if any(f"{name} is" in reason for reason in skipped)]
    if packages:
        terminalreporter.write_line(f"all that is missing: apt-get install {' '.join(packages)}")
    kinds = Counter(mark for report in terminalreporter.stats.get("passed", ()) for mark in _kinds(report))
    if kinds:
        terminalreporter.write_line("kinds of input tried: " + ", ".join(f"{name} ({n})" for name, n in kinds.items()))
    if rows := _survived(terminalreporter):
        terminalreporter.write_line(f"faults tried and survived: {', '.join(row['fault'] for row in rows)}")
        if path := os.environ.get("DAAS_LAB_FAULTS"):
            Path(path).write_text(json.dumps({"rows": rows}, indent=1, ensure_ascii=False) + "\n")
