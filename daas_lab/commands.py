"""What each command of `daas-lab` does, from its parsed options (cli.py)."""

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from daas_lab import compose, config
from daas_lab.errors import LabError, one_of, refuse
from daas_lab.fields import coerce
from daas_lab.methods import rules
from daas_lab.report import tables
from daas_lab.runs import provenance
from daas_lab.runs.folder import epochs_done, read_run, read_search_config
from daas_lab.runs.records import read_any
from daas_lab.space.budget import NAMED_BUDGETS, EdgeBudget, every_edge
from daas_lab.space.cost import check_limits, count
from daas_lab.space.genotype import Genotype
from daas_lab.space.text_forms import format_darts, load_genotype
from daas_lab.train import attribution, cut, discretize, evolution
from daas_lab.train.perturbation import keep_cells, keep_perturbed_cells
from daas_lab.train.search import load_supernet, search, supernets_at
from daas_lab.train.splits import search_splits


def run_search(options: argparse.Namespace) -> None:
    changes = _changes(options, config.SearchConfig)
    chosen = compose.search_config(options.preset, options.dataset, options.method, options.protocol, **changes)
    for name in config.LAMBDAS:
        without = config.WITHOUT_METHOD[name]
        if getattr(chosen, name) == without != changes.get(name, without):
            print(f"{name} = {changes[name]!r}: without effect in this search by {chosen.method}", file=sys.stderr)
    rules.check(options.select, chosen.searcher, chosen.edge_budget)
    _train(options, search, chosen, lambda: _keep_choice(options, chosen.edge_budget))


def _keep_choice(options: argparse.Namespace, budget: EdgeBudget) -> None:
    """The cell of a finished search by the rule that the options name, kept in its folder."""
    if options.select == rules.PERTURBATION:
        keep_perturbed_cells(options.out, options.data, [str(budget)])
    elif options.select != rules.OWN:
        chosen = evolution.genotype_after(read_run(options.out), budget=budget, select=options.select)
        keep_cells(options.out, options.select, {str(budget): chosen})


def run_retrain(options: argparse.Namespace) -> None:
    from daas_lab.train.retrain import retrain

    changes = _changes(options, config.RetrainConfig)
    chosen = compose.retrain_config(options.genotype, options.preset, options.dataset, **changes)
    _train(options, retrain, chosen, lambda: _say_error(options.out))


def _say_error(folder: str) -> None:
    result = read_run(folder).result
    print(f"test error {result['test_error']:.2f} %", file=sys.stderr)


def _train(
    options: argparse.Namespace,
    trainer: Callable,
    settings: config.SearchConfig | config.RetrainConfig,
    afterwards: Callable[[], None] = lambda: None,
) -> None:
    """Run a trainer as the options say, and once it has ended act `afterwards`; or only say what that would take."""
    if options.estimate:
        from daas_lab.studies.estimate import describe, estimate

        print(describe(settings, estimate(settings)))
        return
    if not options.out:
        raise refuse("--out", options.out, "the run's folder")
    if options.tensorboard:
        from daas_lab.studies.events import follow

        trainer(settings, options.out, options.data, on_epoch=follow(options.out))
    else:
        trainer(settings, options.out, options.data)
    if int(os.environ.get("RANK", 0)) == 0:  # the processes' group has ended
        afterwards()
        print(options.out)


def run_gap(options: argparse.Namespace) -> None:
    allowed = {
        "edge_weight": discretize.EDGE_WEIGHTS,
        "batch_norm": discretize.BATCH_NORMS,
        "stage": discretize.STAGES,
    }
    chosen = {name: list(dict.fromkeys(getattr(options, name) or values)) for name, values in allowed.items()}
    for name, values in chosen.items():
        for value in values:
            one_of(name, value, allowed[name])
    run_config = read_search_config(options.run_folder)
    # Asked for none: those that every run of two inputs and four nodes can be cut to, and its own.
    usual = [text for text in NAMED_BUDGETS if EdgeBudget.parse(text).nodes == run_config.nodes]
    own = run_config.edge_budget.unlimited if options.select == rules.PERTURBATION else run_config.budget
    asked = options.budget or [*usual, str(own)]
    budgets = dict.fromkeys(_budget_for(budget, run_config) for budget in asked)
    _choose_cells(options, budgets)
    lists: dict[str, Any] = {f"{name}s": values for name, values in chosen.items()}
    networks = supernets_at(options.run_folder, budgets)
    splits, rows = search_splits(run_config, options.data), []
    for network, own in networks:
        by_rule = options.select != rules.OWN
        cells = _cells(options, own, network.at.epoch) if by_rule else discretize.own_cells(network, run_config, own)
        if not options.budget:
            within = discretize.within_reach(network, cells)
            for budget in [budget for budget in cells if budget not in within]:
                print(f"budget = {budget!r}: left out, for it keeps what has retired", file=sys.stderr)
            cells = within
        given = network, run_config, splits.held_out, splits.weights
        rows += discretize.accuracy_drops(*given, cells, cells=cells, **lists)
    if not rows:
        raise refuse("budget", ", ".join(map(str, budgets)), "another one: each of these keeps what has retired")
    if options.select != rules.OWN:
        rows = [{"select": options.select} | row for row in rows]
    _note_unfinished(options.run_folder, run_config)
    _print_accuracies(rows, run_config, len(splits.held_out), options.json)


def _choose_cells(options: argparse.Namespace, budgets: Iterable[EdgeBudget]) -> None:
    """Where the options name a rule that has to measure, do that for all budgets at once."""
    if options.select == rules.PERTURBATION and Path(options.run_folder).is_dir():
        keep_perturbed_cells(options.run_folder, options.data, list(map(str, budgets)))


def _cells(options: argparse.Namespace, budgets: Iterable[EdgeBudget], epoch: int = -1) -> dict[str, Genotype]:
    """Budget → the cell of a run after an epoch, by the rule that the options name."""
    run = read_any(options.run_folder)
    return {str(budget): evolution.genotype_after(run, epoch, budget, options.select) for budget in budgets}


def run_cut(options: argparse.Namespace) -> None:
    if not options.out:
        raise refuse("--out", options.out, "the network's file")
    if options.export:
        one_of("ending of --export", Path(options.export).suffix, (".pt2",))
        if Path(options.export).resolve() == Path(options.out).resolve():
            raise refuse("--export", options.export, "another file than that of --out")
    run_config = read_search_config(options.run_folder)
    budget = _budget_for(options.budget or run_config.budget, run_config)
    for option, path in (("--out", options.out), ("--export", options.export)):
        if path:
            _make_folder(option, path)
    names = ("edge_weight", "batch_norm", "select")
    row = cut.cut(
        options.run_folder, budget, options.out, options.data, **{name: getattr(options, name) for name in names}
    )
    if options.export:
        cut.export_network(options.out, options.export)
    _note_unfinished(options.run_folder, run_config)
    if options.json:
        print(json.dumps(row))
    else:
        images = run_config.held_out_images or run_config.architecture_images
        _print_accuracies([row], run_config, images, False)


def run_attribution(options: argparse.Namespace) -> None:
    one_of("edge_weight", options.edge_weight, discretize.EDGE_WEIGHTS)
    one_of("batch_norm", options.batch_norm, discretize.BATCH_NORMS)
    if options.out:
        _check_picture(options.out)
    run_config = read_search_config(options.run_folder)
    budget = _budget_for(options.budget or run_config.budget, run_config)
    if options.out:
        _make_folder("--out", options.out)
    network, _ = load_supernet(options.run_folder, budget)
    splits = search_splits(run_config, options.data)
    choice = {"edge_weight": options.edge_weight, "batch_norm": options.batch_norm}
    rows = attribution.attribution(network, run_config, splits.held_out, splits.weights, budget, **choice)
    _note_unfinished(options.run_folder, run_config)
    _print_accuracies(rows, run_config, len(splits.held_out), options.json)
    if options.out:
        run, every = read_run(options.run_folder), every_edge(run_config.nodes)
        cells = evolution.genotype_after(run, network.at.epoch, every)  # as at the stop, if the budget has one
        _save_cells(cells, options.out, attribution.attribution_values(rows), "points of accuracy lost")


def _note_unfinished(folder: str | Path, run_config: config.SearchConfig) -> None:
    """Whose numbers these are, where the search goes on."""
    if Path(folder).is_dir() and run_config.searcher.trains and (done := epochs_done(folder)) < run_config.epochs:
        print(f"{folder}: after epoch {done} of {run_config.epochs}: the search is not finished", file=sys.stderr)


def _make_folder(option: str, path: str) -> None:
    """Have the folder of a file that is written after long work, or raise before it."""
    if Path(path).is_dir():
        raise refuse(option, path, "a file, not a folder")
    folder = Path(path).resolve().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refuse(option, path, f"in a folder that can be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise refuse(option, path, "in a folder that can be written")


def _print_accuracies(rows: Sequence[dict], run_config: config.SearchConfig, images: int, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    which = "held-out" if run_config.held_out_images else "architecture"
    named = f"{run_config.dataset}, {run_config.method}, seed {run_config.seed}"
    print(f"accuracy (%) on {images} {which} images of {named}")
    print(tables.to_text(rows))


def _budget_for(text: str, run_config: config.SearchConfig) -> EdgeBudget:
    budget = EdgeBudget.parse(text)
    if budget.nodes != run_config.nodes:
        raise refuse("budget", str(budget), f"for the {run_config.nodes - 2} intermediate nodes of this run")
    budget.check(run_config.space)
    check_limits(budget, run_config.space.operations)
    return budget


def run_count(options: argparse.Namespace) -> None:
    sizes: dict[str, Any] = {name: _count_option(options, name) for name in ("channels", "layers", "classes", "side")}
    result = count(load_genotype(options.genotype), options.form, **sizes)
    text = f"{result['parameters']:,} parameters, {result['multiply_adds']:,} multiply-adds"
    print(json.dumps(result) if options.json else text)


def run_cells(options: argparse.Namespace) -> None:
    from daas_lab.studies import sizes

    rows = sizes.cell_rows()
    print(json.dumps(rows, indent=1) if options.json else sizes.format_cells(rows))


def run_draw(options: argparse.Namespace) -> None:
    _check_picture(options.out)
    for written in _save_cells(load_genotype(options.genotype), options.out):
        print(written)


def _check_picture(path: str) -> None:
    one_of("ending of --out", Path(path).suffix, (".svg", ".png", ".dot"))


def _save_cells(cells: Genotype, out: str, values: Mapping | None = None, label: str = "value") -> list[Path]:
    from daas_lab.report.drawing import missing_dot_notice, save_cells

    path = Path(out)
    written = save_cells(cells, path.stem, path.parent, values=values, value_label=label, formats=(path.suffix[1:],))
    if path.suffix != ".dot" and (notice := missing_dot_notice()):
        print(notice, file=sys.stderr)
    return written


def run_genotype(options: argparse.Namespace) -> None:
    run = read_any(options.run_folder)
    if not isinstance(run.config, config.SearchConfig) or not (run.alphas or run.genotype):
        raise refuse("run", options.run_folder, "the folder of a search that has finished an epoch")
    last = len(run.alphas["normal"]) - 1 if run.alphas else 0  # a cell that was drawn has no epochs
    budget = _budget_for(options.budget or run.config.budget, run.config)
    epoch = -1 if options.epoch is None else coerce("epoch", int, options.epoch, {"at_least": 0, "at_most": last})
    if options.select == rules.PERTURBATION and epoch not in (-1, last):
        raise refuse("epoch", epoch, f"the last one for {options.select}, which needs the network's weights")
    _choose_cells(options, [budget])
    cells = _cells(options, [budget], epoch)[str(budget)]
    if epoch == -1:
        _note_unfinished(options.run_folder, run.config)
    print(format_darts(cells) if options.darts else json.dumps(cells.to_json()))
    if run.config.searcher.trains and options.select == rules.OWN:
        print(
            evolution.close_choices_sentence(run.search, evolution.close_choices(run, epoch, budget)), file=sys.stderr
        )


def run_report(options: argparse.Namespace) -> None:
    from daas_lab.report.page import save_page

    one_of("ending of --out", Path(options.out).suffix, (".html",))
    named = [word for text in options.own for word in ("--own", text)]
    command = ["daas-lab", "report", *options.runs, "--out", options.out, *named]
    save_page(options.runs, options.out, shlex.join(command))
    print(options.out)


def run_reproduce(options: argparse.Namespace) -> None:
    names = ("preset", "seeds", "publish", "workers", "device", "data", "runs")
    dataset = options.dataset or ("cifar10" if options.preset == "full" else "fashion_mnist")
    from daas_lab.studies import notebooks
    from daas_lab.studies.settings import read_settings

    settings = read_settings({"dataset": dataset} | {name: getattr(options, name) for name in names})
    rows = notebooks.reproduce(settings, options.notebook)
    for row in rows:
        print(f"{row['notebook']:<32} {row['seconds']:>6} s  {row['result']}")
    if any(row["result"] != "done" for row in rows):
        raise LabError("not every notebook ended well; the same command goes on where they stopped")


def run_quickstart(options: argparse.Namespace) -> None:
    from daas_lab.studies.quickstart import quickstart

    one_of("preset", options.preset, config.PRESETS)
    print(quickstart(options.preset))


def run_sweep(options: argparse.Namespace) -> None:
    from daas_lab.studies import sweep, sweep_file

    begun, asked = time.perf_counter(), sweep_file.read_sweep(options.file)
    if options.dry_run:
        for name, state in sweep.planned(asked):
            print(f"{state:<16} {name}")
        cells = sum(map(len, asked.searches.values()))
        notebooks = f", {len(asked.notebooks)} notebooks" if asked.notebooks else ""
        print(f"{len(asked.searches)} searches, {cells} cells, {cells * len(asked.retrainings)} retrainings{notebooks}")
        return
    failed = sweep.make(asked, options.address)
    rows, shown = sweep.table(asked)
    if rows:
        command, settings = shlex.join(["daas-lab", "sweep", options.file]), asked.settings
        seconds, behind = time.perf_counter() - begun, sweep.finished(asked)
        facts = provenance.provenance(str(settings.dataset), settings.preset, command, seconds, behind)
        folder, single = settings.runs / "sweeps", sweep.rows_of(asked)
        saved = tables.save_table(Path(options.file).stem, rows, facts, folder, shown, single)
        print(shown, *saved, sep="\n")
    for executed in (notebook.executed(asked.settings) for notebook in asked.notebooks):
        if executed.is_file():
            print(executed)
    for name, error in failed.items():
        print(f"{name}: {error}", file=sys.stderr)
    if failed:
        raise LabError(f"runs that failed: {len(failed)}; the same command tries them again and reuses the others")


def run_bench(options: argparse.Namespace) -> None:
    threads, repeats = _count_option(options, "threads"), _count_option(options, "repeats")
    import torch

    from daas_lab.studies import bench

    if threads is not None:
        torch.set_num_threads(threads)
    result = bench.run(options.sizes, options.device, repeats)
    print(json.dumps(result, indent=1) if options.json else bench.format_table(result))


def _count_option(options: argparse.Namespace, name: str) -> Any:
    value = getattr(options, name)
    limits = {spec.name: spec.metadata.get("at_least") for spec in fields(config.RetrainConfig)}
    least, most = max(1, limits.get(name) or 1), 1024 if name == "threads" else 10_000
    return None if value is None else coerce(name, int, value, {"at_least": least, "at_most": most})


def _changes(options: argparse.Namespace, config_class: type) -> dict:
    named = {"preset", "dataset", "method", "protocol", "genotype"}
    known = {spec.name for spec in fields(config_class)} - named - {"numbers", "method_digest"}
    by_option = {name: getattr(options, name) for name in known if getattr(options, name, None) is not None}
    changes = dict(by_option)
    for assignment in options.set:
        name, sign, value = assignment.partition("=")
        name = name.replace("-", "_")
        if not sign:
            raise refuse("--set", assignment, "FIELD=VALUE")
        if name in named and hasattr(options, name):
            raise refuse("--set", assignment, f"of another field: this one is given as --{name}")
        if name in by_option:
            raise refuse("--set", assignment, f"of another field: {name} is given as an option already")
        changes[name] = value
    return changes
