"""daas_lab: a workbench for Discretization-Aware Architecture Search (DA²S, arXiv 2007.03154)."""

__version__ = "0.1.0"
