"""Which methods there are: those of this folder by name, and one's own as FILE.py:Class."""

import importlib

from daas_lab.errors import one_of, refuse
from daas_lab.methods.method import Method, check_declaration
from daas_lab.own_files import is_own, load_own, named_label, named_own

# Name → module and class.
_BUILT_IN = {
    "darts": "method.Method",
    "darts2": "darts2.Darts2",
    "pc_darts": "pc_darts.PCDarts",
    "da2s": "da2s.DA2S",
    "da2s_exact": "da2s_exact.DA2SExact",
    "da2s_descent": "da2s_descent.DA2SDescent",
    "snas": "snas.SNAS",
    "gdas": "gdas.GDAS",
    "hard_st": "hard_st.HardST",
    "dr_nas": "dr_nas.DrNAS",
    "proxyless": "proxyless.Proxyless",
    "sdarts_rs": "sdarts_rs.SDARTSRS",
    "annealing": "annealing.Annealing",
    "rf_darts": "rf_darts.RFDarts",
    "random": "random.Random",
    "fair_darts": "fair_darts.FairDARTS",
    "beta_darts": "beta_darts.BetaDARTS",
    "prox": "prox.Prox",
    "asap": "asap.ASAP",
    "xnas": "xnas.XNAS",
    "gold_nas": "gold_nas.GoldNAS",
    "dots": "dots.DOTS",
    "p_darts": "p_darts.PDARTS",
}
METHODS = tuple(_BUILT_IN)
BASELINE, PAPERS = "darts", "da2s"  # the two that the paper compares
EXACT = "da2s_exact"  # ours, beside them
CHANCE = "random"  # what all of them have to beat


def method_class(name: str) -> type[Method]:
    """The class of a method that the user names; the file of one's own is executed."""
    if is_own(name):
        found = load_own("method", name)
        if not (isinstance(found, type) and issubclass(found, Method)):
            raise refuse("method", name, "a subclass of daas_lab.Method")
        check_declaration(found)
        return found
    return _built_in(name)


def recorded_class(name: str, digest: str) -> type[Method]:
    """The class of a method that a configuration names; one's own must have been named in this process."""
    return named_own("method", name, digest) if is_own(name) else _built_in(name)


def _built_in(name: str) -> type[Method]:
    one_of("method", name, (*METHODS, "FILE.py:Class"))
    module, _, class_name = _BUILT_IN[name].partition(".")
    return getattr(importlib.import_module(f"daas_lab.methods.{module}"), class_name)


def labelled_class(label: str) -> type[Method]:
    """The class of a method by what rows and run folders call it: its name, or the class's of one's own."""
    found = named_label(label, Method) if label not in METHODS else None
    return found or _built_in(label)
