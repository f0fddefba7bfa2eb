"""What the paper reports (arXiv 2007.03154): Tables 1–5 and Fig. 1 as data, an index of what is where, and its slips.

Plain rows of numbers; errors and accuracies in percent, parameters and multiply-adds in millions, search cost in
GPU-days; None where the paper prints "-". Nothing here is measured by this project.
"""

from typing import NamedTuple

# §4.1 and the caption of Table 1.
SEARCH_COST_GPU_DAYS = {"GTX 1080 Ti": 0.3, "Tesla V100": 0.2}
SEARCH_EPOCHS = 50
# §4.2 on Fig. 3: when the operation weights begin to differ; §4.2 on Table 3: where delayed functions set in.
DIFFERENTIATION_EPOCH = 20
DELAY_EPOCHS = 8


# --- Fig. 1 and Table 4: accuracies of the super-network --------------------------------------------------------------

# DARTS's super-network before and after discretization (§3.2).
FIGURE_1 = (
    {"method": "darts", "budget": "8/14", "before": 87.87, "after": 10.34},
    {"method": "darts", "budget": "6/14", "before": 87.87, "after": 9.96},
)


def _table_4(budget: str, darts: tuple, da2s: tuple) -> list[dict]:
    names = ("error_mean", "error_std", "params_m_mean", "params_m_std", "before", "after")
    rows = (("darts", darts), ("da2s", da2s))
    return [{"method": method, "budget": budget} | dict(zip(names, values, strict=True)) for method, values in rows]


# CIFAR-10: test error after retraining, parameters, super-network accuracy before and after discretization.
TABLE_4 = (
    *_table_4("3/14", (5.83, 1.21, 1.5, 0.2, 87.87, 10.03), (3.67, 0.24, 1.9, 0.2, 85.52, 64.23)),
    *_table_4("4/14", (4.79, 1.17, 1.9, 0.3, 87.87, 9.87), (2.94, 0.09, 2.5, 0.1, 85.63, 85.42)),
    *_table_4("5/14", (3.23, 0.08, 2.2, 0.2, 87.87, 10.12), (2.72, 0.06, 2.9, 0.1, 84.76, 71.85)),
    *_table_4("6/14", (2.91, 0.05, 2.7, 0.1, 87.87, 9.96), (2.64, 0.02, 3.0, 0.1, 84.29, 64.24)),
)


# --- Tables 1 and 5: comparison with other architectures --------------------------------------------------------------


def _rows(names: str, *rows: tuple) -> tuple[dict, ...]:
    return tuple(dict(zip(names.split(), row, strict=True)) for row in rows)


# CIFAR-10. `error` is the mean where a deviation is printed, else what is printed alone; DA²S prints its best as well.
TABLE_1 = _rows(
    "architecture error error_std error_best params_m search_cost_gpu_days search_method",
    ("DenseNet-BC", 3.46, None, None, 25.6, None, "manual"),
    ("NASNet-A + cutout", 2.65, None, None, 3.3, 1800, "RL"),
    ("AmoebaNet-B + cutout", 2.55, 0.05, None, 2.8, 3150, "evolution"),
    ("Hierarchical Evolution", 3.75, 0.12, None, 15.7, 300, "evolution"),
    ("PNAS", 3.41, 0.09, None, 3.2, 225, "SMBO"),
    ("ENAS + cutout", 2.89, None, None, 4.6, 0.5, "RL"),
    ("NAONet-WS", 3.53, None, None, 3.1, 0.4, "NAO"),
    ("DARTS (1st order) + cutout", 3.00, 0.14, None, 3.3, 0.4, "gradient-based"),
    ("DARTS (2nd order) + cutout", 2.76, 0.09, None, 3.3, 1, "gradient-based"),
    ("SNAS (moderate) + cutout", 2.85, 0.02, None, 2.8, 1.5, "gradient-based"),
    ("ProxylessNAS + cutout", 2.08, None, None, None, 4.0, "gradient-based"),
    ("P-DARTS + cutout", 2.50, None, None, 3.4, 0.3, "gradient-based"),
    ("PC-DARTS + cutout", 2.57, 0.07, None, 3.6, 0.1, "gradient-based"),
    ("BayesNAS + cutout", 2.81, 0.04, None, 3.4, 0.2, "gradient-based"),
    ("DA²S + cutout", 2.51, 0.09, 2.42, 3.4, 0.3, "gradient-based"),
)

# ImageNet, 224 × 224, mobile setting.
TABLE_5 = _rows(
    "architecture top_1_error top_5_error params_m multiply_adds_m search_cost_gpu_days search_method",
    ("Inception-v1", 30.2, 10.1, 6.6, 1448, None, "manual"),
    ("MobileNet", 29.4, 10.5, 4.2, 569, None, "manual"),
    ("ShuffleNet 2× (v1)", 26.4, 10.2, 5, 524, None, "manual"),  # parameters printed as "~5"
    ("ShuffleNet 2× (v2)", 25.1, None, 5, 591, None, "manual"),
    ("NASNet-A", 26.0, 8.4, 5.3, 564, 1800, "RL"),
    ("AmoebaNet-C", 24.3, 7.6, 6.4, 570, 3150, "evolution"),
    ("PNAS", 25.8, 8.1, 5.1, 588, 225, "SMBO"),
    ("MnasNet-92", 25.2, 8.0, 4.4, 388, None, "RL"),
    ("DARTS (2nd order)", 26.7, 8.7, 4.7, 574, 4.0, "gradient-based"),
    ("SNAS (mild)", 27.3, 9.2, 4.3, 522, 1.5, "gradient-based"),
    ("ProxylessNAS (GPU)", 24.9, 7.5, 7.1, 465, 8.3, "gradient-based"),
    ("P-DARTS (CIFAR10)", 24.4, 7.4, 4.9, 557, 0.3, "gradient-based"),
    ("PC-DARTS (CIFAR10)", 25.1, 7.8, 5.3, 586, 0.1, "gradient-based"),
    ("BayesNAS", 26.5, 8.9, 3.9, None, 0.2, "gradient-based"),
    ("DA²S (CIFAR10)", 24.4, 7.3, 5.0, 565, 0.3, "gradient-based"),
)


class Counted(NamedTuple):
    """What the size of a row of Table 1 or 5 is counted from: a published cell, or a network of `studies.sizes`."""

    what: str | None  # None: there is nothing to count
    why: str = ""  # in a word, why the printed size is another, or why nothing is counted


_NO_CELL = Counted(None, "its code prints no cell")
_OTHER_CELL = "another variant: the cell that is printed is AmoebaNet-A's"
_LAYERWISE = Counted(None, "no cell: every layer has its own operations")
_NORMS_TOO = "batch-norm and ReLU counted as well"
_OWN_SKELETON = "printed for the source's own skeleton of cells, counted in DARTS's"

# Table → architecture → what is counted, for every row.
COUNTED = {
    1: {
        "DenseNet-BC": Counted("densenet_bc_190_40"),
        "NASNet-A + cutout": Counted("NASNet", _OWN_SKELETON),
        "AmoebaNet-B + cutout": Counted("AmoebaNet", _OTHER_CELL),
        "Hierarchical Evolution": Counted(None, "no cell: motifs in motifs"),
        "PNAS": Counted("PNASNet", _OWN_SKELETON),
        "ENAS + cutout": Counted("ENASNet", _OWN_SKELETON),
        "NAONet-WS": Counted(None, "its cell is not among those collected"),
        "DARTS (1st order) + cutout": Counted("DARTS_V1", "its source prints one number for both orders"),
        "DARTS (2nd order) + cutout": Counted("DARTS_V2"),
        "SNAS (moderate) + cutout": Counted("SNAS_moderate"),
        "ProxylessNAS + cutout": _LAYERWISE,
        "P-DARTS + cutout": Counted("PDARTS"),
        "PC-DARTS + cutout": Counted("PC_DARTS_CIFAR"),
        "BayesNAS + cutout": _NO_CELL,
        "DA²S + cutout": _NO_CELL,
    },
    5: {
        "Inception-v1": Counted("googlenet", "multiply-adds of another implementation"),
        "MobileNet": Counted("mobilenet_v1"),
        "ShuffleNet 2× (v1)": Counted(None, "torchvision has version 2 only"),
        "ShuffleNet 2× (v2)": Counted("shufflenet_v2_x2_0", "parameters of version 1; batch-norm counted as well"),
        "NASNet-A": Counted("NASNet", _OWN_SKELETON),
        "AmoebaNet-C": Counted("AmoebaNet", _OTHER_CELL),
        "PNAS": Counted("PNASNet", _OWN_SKELETON),
        "MnasNet-92": Counted("mnasnet1_0", "another variant: torchvision has MnasNet-B1"),
        "DARTS (2nd order)": Counted("DARTS_V2", "multiply-adds: no count that we know (544 with batch-norm, ReLU)"),
        "SNAS (mild)": Counted("SNAS_mild", "parameters as those of SNAS_moderate; multiply-adds fit no cell of SNAS"),
        "ProxylessNAS (GPU)": _LAYERWISE,
        "P-DARTS (CIFAR10)": Counted("PDARTS", _NORMS_TOO),
        "PC-DARTS (CIFAR10)": Counted("PC_DARTS_CIFAR", _NORMS_TOO),
        "BayesNAS": _NO_CELL,
        "DA²S (CIFAR10)": _NO_CELL,
    },
}


# --- Tables 2 and 3: control functions --------------------------------------------------------------------------------

# λ_1 = λ_2 = const; the baseline is second-order DARTS.
TABLE_2 = _rows(
    "lambda_c error_mean error_std",
    ("baseline", 2.76, 0.09),
    ("const", 2.64, 0.14),
    ("log", 2.56, 0.06),
    ("exp", 2.78, 0.11),
    ("step", 2.60, 0.07),
    ("linear", 2.54, 0.02),
)

# λ_c = linear; one of λ_1, λ_2 is const, the other the function, delayed by 8 epochs.
TABLE_3 = _rows(
    "lambda_1 lambda_2 error_best error_mean error_std",
    ("const", "const:delayed", 2.71, 2.74, 0.03),
    ("const", "linear:delayed", 2.55, 2.57, 0.02),
    ("const", "exp:delayed", 2.51, 2.53, 0.02),
    ("const", "step:delayed", 2.49, 2.54, 0.05),
    ("const", "log:delayed", 2.61, 2.64, 0.03),
    ("const:delayed", "const", 2.53, 2.56, 0.03),
    ("linear:delayed", "const", 2.66, 2.68, 0.02),
    ("exp:delayed", "const", 2.57, 2.60, 0.03),
    ("step:delayed", "const", 2.51, 2.57, 0.06),
    ("log:delayed", "const", 2.42, 2.51, 0.09),
)


# --- index ------------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """Where an equation, figure or table of the paper lives in this project."""

    what: str
    notebook: str  # stem under notebooks/
    function: str  # room.module.function of daas_lab


INDEX = {
    "Eq. (1)": Entry("classification loss", "00_quickstart", "methods.losses.classification_loss"),
    "Eq. (2)": Entry("operation entropy of an edge", "figure_2_entropy", "methods.losses.operation_entropy"),
    "Eq. (3)": Entry("operation loss", "figure_3_alpha_evolution", "methods.losses.operation_loss"),
    "Eq. (4)": Entry("edge loss of a node", "figure_2_entropy", "methods.losses.node_edge_loss"),
    "Eq. (5)": Entry("edge loss", "figure_4_beta_evolution", "methods.losses.edge_loss"),
    "Eq. (6)": Entry("objective", "paper_vs_code", "methods.losses.objective"),
    "Eq. (7)": Entry("objective with priorities", "table_3_priority", "methods.losses.prioritised_objective"),
    "Fig. 1": Entry("discretization gap at node 3", "figure_1_discretization_gap", "report.plots.node_inputs"),
    "Fig. 2": Entry("what the entropy losses push to", "figure_2_entropy", "report.plots_losses.entropy_surface"),
    "Fig. 3": Entry("operation weights over the epochs", "figure_3_alpha_evolution", "report.plots.alpha_evolution"),
    "Fig. 4": Entry("edge weights over the epochs", "figure_4_beta_evolution", "report.plots.beta_evolution"),
    "Fig. 5": Entry("control functions", "figure_5_control_functions", "report.plots_losses.control_functions"),
    "Fig. 6": Entry("the cells that were found", "figure_6_cells", "report.drawing.draw_cells"),
    "Table 1": Entry("test errors on CIFAR-10", "table_1_cifar10", "report.tables.table_1"),
    "Table 2": Entry("control functions for λ_c", "table_2_lambda_c", "report.tables.table_2"),
    "Table 3": Entry("priority of operations or edges", "table_3_priority", "report.tables.table_3"),
    "Table 4": Entry("imbalanced edge budgets", "table_4_imbalanced", "report.tables.table_4"),
    "Table 5": Entry("transfer to ImageNet", "table_5_imagenet", "report.tables.table_5"),
}


# --- slips ------------------------------------------------------------------------------------------------------------

# Table 4: gain of DA²S over DARTS in test error as its text prints them, by budget.
PRINTED_GAINS = {"3/14": 2.16, "4/14": 1.75, "5/14": 0.51, "6/14": 0.27}


class Slip(NamedTuple):
    """A place where print, arithmetic or published code disagree."""

    where: str
    printed: str
    actual: str


SLIPS = (
    Slip("Eq. (1)", "mean of yᵀ log F", "minus the mean: as printed, minimising it would maximise the loss"),
    Slip("Table 4, text", "4/14 gains 1.75 points", "4.79 − 2.94 = 1.85"),
    Slip("Table 1, text", "2.42 % against DARTS's 2.76 %", "a best against a mean; mean against mean is 2.51 to 2.76"),
    Slip("Table 1", "2.42 is set bold as the lowest error", "ProxylessNAS's row says 2.08"),
    Slip("Table 5", "24.4 is set bold as the lowest error", "P-DARTS has 24.4 as well, AmoebaNet-C 24.3"),
    Slip("Tables 1 and 5", "DARTS (2nd order) costs 1 and 4.0 GPU-days", "one search, and the four it was chosen from"),
    Slip(
        "Tables 1 and 5", "parameters of NASNet, AmoebaNet, DARTS (1st order)", "their published cells count otherwise"
    ),
    Slip("Table 5", "multiply-adds of the published cells", "a clean count of convolutions and classifier differs"),
    Slip("§4.1", "initial learning rate 0.25", "0.025 in the published code and in all of its line"),
    Slip("published code, delayed log", "ln(e'+1) / ln E'", "ends at 1.006; ln(E'+1) would end at 1"),
    Slip(
        "published code, cells", "normal cells use the β named for reduction, and the reverse", "β belongs to its name"
    ),
    Slip("published code, entropy", "Σ p log p of the softmax", "NaN once a p underflows to 0; use the log-softmax"),
)
