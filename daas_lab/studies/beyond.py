"""Beyond the paper: cuts that cost nothing, what their cells are worth, and what such searches take.

A *case* is a search as the study names it. Rows of single runs have its name as `search` beside the names of
`make.names_of`; accuracies and drops are in percent of held-out images, errors in percent of test images.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from daas_lab.config import SearchConfig
from daas_lab.methods import rules
from daas_lab.networks.fast_supernet import make_supernet
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.report import compare
from daas_lab.report.tables import Row
from daas_lab.runs.folder import Run
from daas_lab.space.budget import NAMED_BUDGETS
from daas_lab.studies import make, table_4
from daas_lab.studies.estimate import seconds_in_turn, warm_step
from daas_lab.studies.paper_tables import budgets_of, retraining_rows
from daas_lab.studies.settings import Settings
from daas_lab.train.evolution import epoch_summaries
from daas_lab.train.retirement import remaining

BUDGETS = tuple(NAMED_BUDGETS)
FEWER = tuple(budget for budget in BUDGETS if budget != "8/14")
Cases = Mapping[str, Mapping[str, Any]]  # name → `method`, and `protocol`, `select`, or fields of the search


# --- which runs -------------------------------------------------------------------------------------------------------


def searches(cases: Cases, settings: Settings) -> dict[str, list[SearchConfig]]:
    """The configurations of every case: for each seed a search for each budget, unless the case says for which, or its
    method needs to know none."""
    found = {}
    for name, case in cases.items():
        changes = {key: value for key, value in case.items() if key not in ("method", "select")}
        own = replace(settings, protocol=changes.pop("protocol", settings.protocol))
        budgets = [changes.pop("budget")] if "budget" in changes else BUDGETS
        if own.protocol == "paper":
            budgets = [table_4.searched_for(budget) for budget in budgets]
        configs = [
            own.search(case["method"], seed, budget=budget, **changes) for seed in own.seeds for budget in budgets
        ]
        found[name] = list(dict.fromkeys(configs))
    return found


def make_searches(cases: Cases, settings: Settings) -> dict[str, list[Run]]:
    """The runs of all cases, made side by side. Cells that a rule has to measure need weights: a record without them
    does not count."""
    configs = searches(cases, settings)
    measured = {config for name, own in configs.items() if _select(cases, name) != rules.OWN for config in own}

    def stands(run: Run) -> bool:
        return run.search not in measured or set(BUDGETS) <= run.cells.get(rules.PERTURBATION, {}).keys()

    every = list(dict.fromkeys(config for own in configs.values() for config in own))
    made = dict(zip(every, make.make_runs(every, settings, stands), strict=True))
    for name, own in configs.items():
        if _select(cases, name) != rules.OWN:
            make.drops([made[config] for config in own], _budgets, settings, select=_select(cases, name))
            made |= zip(own, make.make_runs(own, settings, stands), strict=True)  # with the cells that were chosen
    return {name: [made[config] for config in own] for name, own in configs.items()}


def _select(cases: Cases, name: str) -> str:
    return cases[name].get("select", rules.OWN)


def _budgets(run: Run) -> list[str]:
    return table_4.budgets_served(run) if run.search.protocol == "paper" else budgets_of(run, BUDGETS)


# --- what they give ---------------------------------------------------------------------------------------------------


def gap_rows(made: Mapping[str, Sequence[Run]], cases: Cases, settings: Settings) -> list[Row]:
    """Drops of the whole cut with statistics as trained, kept edges at 1 and as they learned; a row for each search
    with a super-network, budget and edge weight."""
    rows = []
    for name, runs in made.items():
        trained = [run for run in runs if run.search.searcher.trains]
        for row in make.drops(trained, _budgets, settings, select=_select(cases, name)):
            if row["batch_norm"] == "as-trained" and row["edge_weight"] in ("one", "learned"):
                rows.append({"search": name} | row)
    return rows


def cell_rows(made: Mapping[str, Sequence[Run]], cases: Cases, settings: Settings) -> list[Row]:
    """`retraining_rows` of every case at every budget that its searches stand for."""
    return [
        {"search": name} | row
        for name, runs in made.items()
        for row in retraining_rows(runs, settings, _budgets, _select(cases, name))
    ]


def entropy_series(made: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, np.ndarray]]:
    """Case → `operation_entropy` and `edge_entropy` in nats after every epoch [T], means over edges or nodes, both
    cells and all its searches."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, runs in made.items():
        rows = [row for run in runs if run.search.searcher.trains for row in epoch_summaries(run)]
        for quantity in ("operation_entropy", "edge_entropy") if rows else ():
            epochs = range(max(row["epoch"] for row in rows) + 1)
            means = [np.mean([row[quantity] for row in rows if row["epoch"] == epoch]) for epoch in epochs]
            found.setdefault(name, {})[quantity] = np.array(means)
    return found


# --- what a search takes ----------------------------------------------------------------------------------------------


def search_seconds(
    runs: Sequence[Run], settings: Settings, rounds: int = 3, form: Callable[..., SuperNetwork] = make_supernet
) -> dict[str, float]:
    """Run's name → seconds of all steps of the search on this machine: of every set of candidates that it went through
    the median of `rounds` steps, times the steps that it made with it. The steps of all runs are taken in turn, so that
    whatever else the machine does meets them alike."""
    names: list[str] = []
    counts: list[int] = []
    steps: list[Callable[[], None]] = []
    for run in runs:
        config, before = replace(run.search, device=settings.device), None
        for epoch in range(1, config.epochs + 1):
            parameters = {name: torch.as_tensor(value) for name, value in run.architecture(epoch).items()}
            candidates = [own.tolist() for own in remaining(parameters).values()]
            if candidates != before:
                names.append(make.run_name(run.config))
                counts.append(0)
                steps.append(warm_step(config, epoch, parameters, form))
                before = candidates
            counts[-1] += config.steps
    found = dict.fromkeys(names, 0.0)
    for name, count, seconds in zip(names, counts, seconds_in_turn(steps, config, rounds), strict=True):
        found[name] += count * seconds
    return found


def search_time(plain: Run, retired: Run, one: Run, five: Sequence[Run], settings: Settings) -> dict[str, float]:
    """What searches take of each other's time, measured in one call (`search_seconds`).

    `retired_over_plain`: a search whose candidates retire, and the same without. `one_over_five`: one search for all
    budgets, and one for each. `textbook_over_retired`: the readable form without retirement, and the fast one with it.
    """
    seconds = search_seconds([plain, retired, one, *five], settings)
    slow = search_seconds([plain], settings, rounds=1, form=SuperNetwork)
    took = [seconds[make.run_name(run.config)] for run in (plain, retired, one)]
    return {
        "retired_over_plain": took[1] / took[0],
        "one_over_five": took[2] / sum(seconds[make.run_name(run.config)] for run in five),
        "textbook_over_retired": sum(slow.values()) / took[1],
    }


# --- in words ---------------------------------------------------------------------------------------------------------


def drop_sentence(gaps: Sequence[Row]) -> str:
    """What each case loses with kept edges at 1, over all budgets and seeds: the mean, and the worst run."""
    whole = [row for row in gaps if row["edge_weight"] == "one"]
    parts = []
    for name in dict.fromkeys(row["search"] for row in whole):
        drops = [row["drop"] for row in whole if row["search"] == name]
        parts.append(f"{name} {np.mean(drops):.2f} (at worst {max(drops):.2f}, {len(drops)} cuts)")
    lost = "Points of accuracy lost at the cut, kept edges at 1, in the mean over budgets and seeds"
    return f"{lost}: {'; '.join(parts)}."


def network_sentence(gaps: Sequence[Row], baseline: str) -> str:
    """The accuracies before the cut, in the mean over the budgets, against those of `baseline`."""
    groups = compare.groups_by([row for row in gaps if row["edge_weight"] == "one"], "search", "before")
    found = [
        compare.difference(groups, baseline, name, "accuracy before the cut") for name in groups if name != baseline
    ]
    return compare.listed(found)


def error_sentence(cells: Sequence[Row], ours: str) -> str:
    """Test errors of retrained cells: of `ours` against every other case, pooled over the budgets below 8/14 and at
    8/14."""
    found = []
    for budgets, where in ((FEWER, "below 8/14"), (("8/14",), "at 8/14")):
        groups = compare.groups_by([row for row in cells if row["budget"] in budgets], "search", "error")
        found += [compare.difference(groups, name, ours, f"test error {where}") for name in groups if name != ours]
    return compare.listed(found)
