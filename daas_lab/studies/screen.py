"""What closes the gap, and what costs the cells: constants in which the two protocols differ, changed one at a time
from either side.

A *side* is a protocol; the first search of a side has all of its constants, each of the others one of the other side's.
Rows of single runs have the names of `make.names_of`, with `side`, and `changed`: the constant, or `NOTHING`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from daas_lab.compose import values_of
from daas_lab.config import SearchConfig
from daas_lab.methods.lookup import PAPERS
from daas_lab.methods.protocols import PROTOCOLS
from daas_lab.report import compare
from daas_lab.report.tables import Row
from daas_lab.runs.folder import Run
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.studies import make
from daas_lab.studies.paper_tables import retraining_rows
from daas_lab.studies.settings import Settings
from daas_lab.train.evolution import genotype_evolution, parameter_free

# Field → what tables call it. Partial channels are the same on both sides, for `mini` has too few to divide; the slip
# of the delayed logarithm moves λ_1 by two in a hundred.
CONSTANTS = {
    "first_edge_node": "first node with β",
    "regulariser_factor": "factor of the regulariser",
    "alpha_delay": "epochs in which α rests",
    "square_factor": "factor of the square in Eq. (4)",
    "steepens": "steeper softmax",
    "scales_edges": "b times the number of inputs",
    "initial_noise": "initial noise",
    "learning_rate_min": "last learning rate",
}
NOTHING = "nothing"


def searches(settings: Settings, budgets: Sequence[str]) -> dict[SearchConfig, Row]:
    """The searches of the screen for every budget and seed, each with its `side` and what is `changed`, and the value
    that this then has."""
    found: dict[SearchConfig, Row] = {}
    for side in PROTOCOLS:
        [other] = PROTOCOLS.keys() - {side}
        for seed in settings.seeds:
            for budget in budgets:
                own, theirs = (_search(settings, protocol, seed, budget) for protocol in (side, other))
                found[own] = {"side": side, "changed": NOTHING, "value": None}
                values = values_of(theirs)
                for name, title in CONSTANTS.items():
                    config = _search(settings, side, seed, budget, **{name: values[name]})
                    if config != own:
                        found[config] = {"side": side, "changed": title, "value": values[name]}
    return found


def _search(settings: Settings, protocol: str, seed: int, budget: str, **changes: Any) -> SearchConfig:
    return replace(settings, protocol=protocol).search(PAPERS, seed, budget=budget, partial_channels=1, **changes)


def screen_rows(made: Mapping[SearchConfig, Run], named: Mapping[SearchConfig, Row], settings: Settings) -> list[Row]:
    """A row for every search: `drop_one` and `drop_learned`, of the whole cut with kept edges at 1 and as they learned,
    statistics as trained; its retraining; `share`, that of the entropy in all of α's movement (`entropy_shares`), None
    where there was none."""
    runs = list(made.values())
    drops: dict[str, Row] = {}
    for row in make.drops(runs, lambda run: [run.search.budget], settings):
        if row["batch_norm"] == "as-trained" and row["edge_weight"] != "renormalised":
            drops.setdefault(row["run"], {"before": row["before"]})[f"drop_{row['edge_weight']}"] = row["drop"]
    retrained = {row["run"]: row for row in retraining_rows(runs, settings)}
    rows = []
    for config, run in made.items():
        if (name := make.run_name(config)) not in retrained:
            continue
        share = float(entropy_shares(run)[-1])
        rows.append(retrained[name] | named[config] | drops[name] | {"share": None if math.isnan(share) else share})
    return rows


def entropy_shares(run: Run) -> np.ndarray:
    """After every epoch the share that the entropy has in all of α's movement so far, in percent [T − 1]; NaN before
    the first epoch that has one. An epoch counts by the square of its movement: once α is decided it hardly moves, and
    the entropy pushes many times as far as that, against weight decay."""
    shares = np.array([record.get("regulariser_share", np.nan) for record in run.history])
    moved = sum(np.square(np.diff(run.alphas[name], axis=0)).sum(axis=(1, 2)) for name in CELL_TYPES)
    moved = np.where(np.isnan(shares), 0.0, moved)
    whole = np.cumsum(moved)
    return 100 * np.divide(
        np.cumsum(np.nan_to_num(shares) * moved), whole, np.full_like(whole, np.nan), where=whole > 0
    )


def collapse_series(runs: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, np.ndarray]]:
    """Name → over its searches, if there are any, the means after every epoch of `parameter_free`, pools and skips
    among the operations that the normal cell would keep (percent) [T], and of `share`, `entropy_shares` [T − 1]."""
    found = {}
    for name, own in runs.items():
        if not own:
            continue
        free = [[parameter_free(cells)["parameter_free_normal"] for cells in genotype_evolution(run)] for run in own]
        shares = [entropy_shares(run) for run in own]
        found[name] = {"parameter_free": np.mean(free, axis=0), "share": np.mean(shares, axis=0)}
    return found


def sentences(rows: Sequence[Row], quantity: str, title: str) -> str:
    """Side by side, every change against the side with nothing changed; `quantity` of the rows, called `title`."""
    named, pairs = [], []
    for side in PROTOCOLS:
        own = [row | {"name": f"{row['changed']} changed, {side}"} for row in rows if row["side"] == side]
        base = f"{NOTHING} changed, {side}"
        pairs += [(base, name) for name in dict.fromkeys(row["name"] for row in own) if name != base]
        named += own
    return compare.listed(compare.differences(named, "name", pairs, quantity, title))
