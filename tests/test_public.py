"""The public face, and `check_method` on every method of ours and on broken ones."""

import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

import daas_lab
from daas_lab import Architecture, LabError, Method, Mixture, check_method
from daas_lab.methods.lookup import METHODS, method_class


@pytest.mark.parametrize("name", daas_lab.__all__)
def test_every_name_of_the_face_is_there(name):
    assert getattr(daas_lab, name).__doc__ and name in dir(daas_lab)


def imported_with(module, candidates):
    code = f"import sys, {module}; print(*sorted({candidates} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_the_package_imports_nothing_heavy():
    assert imported_with("daas_lab", {"torch", "matplotlib", "numpy"}) == []
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        _ = daas_lab.serach


def test_a_command_starts_without_what_only_some_need():
    heavy = {"torchvision", "torch._dynamo", "sympy", "scipy", "sklearn", "matplotlib", "ray"}
    assert imported_with("daas_lab.cli", heavy | {"torch"}) == ["torch"]


def test_a_run_imports_what_is_late_before_there_is_anything_to_put_back():
    code = (
        "import sys, torch; from daas_lab import search_config; from daas_lab.train import loop\n"
        "rules = loop._leaving_no_trace\n"
        "loop._leaving_no_trace = lambda: print(*sorted(set(loop.LATE_PARTS) & set(sys.modules))) or rules()\n"
        "with loop.prepare(search_config('tiny', 'digits')): print(len(sys.modules))\n"
        "torch.optim.Adam([torch.zeros(1)]); torch.use_deterministic_algorithms(False); print(len(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said[:2] == ["torch._dynamo", "torch._inductor.config"] and said[2] == said[3]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_what_a_method_has_to(name):
    check_method(method_class(name))


def test_cells_of_two_types_may_have_parameters_of_two_shapes():
    check_method(method_class("dots"), budgets=("normal=8/14;reduce=4/14",))


def broken(**parts):
    """A method with some of its parts replaced."""
    return dataclass(frozen=True, kw_only=True)(type("Broken", (Method,), {"__module__": __name__} | parts))


def mix_with(change):
    return lambda self, architecture, cell_type, at: change(Method.mix(self, architecture, cell_type, at), at)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"mix": mix_with(lambda m, at: m._replace(operations=m.operations * float("nan")))}, "mix gives operations"),
        (
            {"mix": mix_with(lambda m, at: m._replace(operations=m.operations[:, :3]))},
            r"shape \[14, 3\], not \[14, 7\]",
        ),
        ({"mix": mix_with(lambda m, at: m._replace(edges=m.edges[:4]))}, r"edges of shape \[4\], not \[14\]"),
        ({"mix": mix_with(lambda m, at: None)}, "mix returns no Mixture"),
        ({"mix": mix_with(lambda m, at: m._replace(operations=m.operations.detach()))}, "leaves α without a gradient"),
        ({"mix": mix_with(lambda m, at: m._replace(edges=torch.rand(14)))}, "other weights at evaluation"),
        ({"mix": mix_with(lambda m, at: 1 / 0)}, "mix raises ZeroDivisionError"),
        ({"start": lambda self, space, budget: Architecture(torch.zeros(3, 7), torch.zeros(14))}, "start gives α"),
        ({"start": lambda self, space, budget: 5}, "start returns no Architecture"),
        ({"regularise": lambda self, a, m, at: {"mine": torch.tensor(float("inf"))}}, "regularise gives mine = inf"),
        ({"regularise": lambda self, a, m, at: torch.zeros(())}, "regularise returns no mapping"),
        ({"regularise": lambda self, a, m, at: {"mine": 3.0}}, "regularise gives mine = 3.0, which is no tensor"),
        ({"regularise": lambda self, a, m, at: {"epoch": torch.zeros(())}}, "regularise names a term 'epoch'"),
        ({"measure": lambda self, a, m, at: {"epoch": 7}}, "measure names a number 'epoch'"),
        ({"measure": lambda self, a, m, at: {"size": a["normal"].alphas.norm()}}, "measure gives size = tensor"),
        ({"measure": lambda self, a, m, at: {"size": float("nan")}}, "measure gives size = nan, not one finite number"),
        ({"measure": lambda self, a, m, at: None}, "measure returns no mapping"),
        ({"select": lambda self, a, budget, at: None}, "select returns no Genotype: None"),
        (
            {"select": lambda self, a, budget, at: Method.select(self, a, daas_lab.EdgeBudget.parse("2,3,4,5"), at)},
            "select keeps 14 edges of the 8",
        ),
        (
            {"mix": mix_with(lambda m, at: Mixture(m.operations.log().softmax(1).pow(-1), m.edges))},
            "not finite",
        ),
    ],
)
def test_what_a_method_does_not_keep_is_said_in_one_line_with_its_file_and_class(parts, words):
    with pytest.raises(LabError, match=words) as error:
        check_method(broken(**parts), budgets=("8/14",))
    assert "test_public.py:Broken" in str(error.value) and "\n" not in str(error.value)
