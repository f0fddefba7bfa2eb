"""The command line, `daas-lab`. What cannot be done is said in one line on stderr, with exit code 2."""

import argparse
import inspect
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from daas_lab import compose, config
from daas_lab.data.sources import DATASETS
from daas_lab.errors import STOPPED, LabError, ending_well, one_of, refuse
from daas_lab.fields import coerce
from daas_lab.methods.lookup import METHODS, PAPERS
from daas_lab.own_files import load_own
from daas_lab.report import tables
from daas_lab.runs import provenance
from daas_lab.runs.folder import read_run, read_search_config
from daas_lab.runs.records import read_any
from daas_lab.space.budget import NAMED_BUDGETS, EdgeBudget, every_edge
from daas_lab.space.genotype import Genotype
from daas_lab.space.operations import load_operations
from daas_lab.space.text_forms import format_darts, load_genotype
from daas_lab.train import discretize, distributed, evolution
from daas_lab.train.search import load_supernet
from daas_lab.train.splits import search_splits


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    try:
        options = _parser().parse_args(arguments)
        for text in getattr(options, "own", ()):
            _name(text)
        with ending_well():
            options.run(options)
    except (LabError, OSError) as error:  # OSError: a folder that cannot be made, a disk that is full
        print(f"daas-lab: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"daas-lab: {STOPPED}", file=sys.stderr)
        return next(iter(stopped.args), 130)
    return 0


def _name(text: str) -> None:
    """Load code of one's own that a run uses: a method, a data set, or an operation (of three arguments)."""
    found = load_own("--own", text)
    if not isinstance(found, type) and callable(found) and len(inspect.signature(found).parameters) == 3:
        load_operations(text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise LabError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="daas-lab", description="Discretization-aware architecture search, on the command line.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    search = _command(commands, "search", _search, "search a cell; the same command goes on where it was stopped")
    search.add_argument("--method", default=PAPERS, help=f"{', '.join(METHODS)}, or FILE.py:Class (default: {PAPERS})")
    search.add_argument("--protocol", default="authors", help="paper or authors (default: authors)")
    _add_training_options(search)
    _add_fields(search, ("budget", "lambda_c", "lambda_1", "lambda_2", "gap_every", "gap_budgets", "gap_edge_weight"))

    gap = _command(commands, "gap", _gap, "accuracy of a searched super-network before and after discretization")
    _add_run(gap)
    gap.add_argument("--budget", action="append", help="may be repeated (default: the five of the paper)")
    weights, norms = ", ".join(discretize.EDGE_WEIGHTS), ", ".join(discretize.BATCH_NORMS)
    gap.add_argument("--edge-weight", action="append", help=weights)
    gap.add_argument("--batch-norm", action="append", help=norms)
    gap.add_argument("--stage", action="append", help=", ".join(discretize.STAGES))
    gap.add_argument("--data", default="data", help="folder of the data sets (default: data)")
    gap.add_argument("--json", action="store_true", help="a list of rows, accuracies in percent")

    alone = _command(commands, "attribution", _attribution, "accuracy that each decision of a cut costs alone")
    _add_run(alone)
    alone.add_argument("--budget", help="default: the run's")
    alone.add_argument("--edge-weight", default="learned", help=f"{weights} (default: learned)")
    alone.add_argument("--batch-norm", default="as-trained", help=f"{norms} (default: as-trained)")
    alone.add_argument("--out", metavar="PICTURE", help="a heat map on the cells, an .svg, .png or .dot file")
    alone.add_argument("--data", default="data", help="folder of the data sets (default: data)")
    alone.add_argument("--json", action="store_true", help="a list of rows, accuracies in percent")

    retrain = _command(commands, "retrain", _retrain, "train a cell's network from scratch and state its test error")
    retrain.add_argument("--genotype", required=True, help="a file, or a published cell (daas-lab cells)")
    _add_training_options(retrain)

    cells = _command(commands, "cells", _cells, "the published cells with their sizes, and what their sources state")
    cells.add_argument("--json", action="store_true")
    count = _command(commands, "count", _count, "parameters and multiply-adds of a cell's network")
    count.add_argument("genotype", metavar="GENOTYPE", help="a published cell (daas-lab cells) or a file")
    count.add_argument("--form", default="cifar", help="cifar or imagenet (default: cifar)")
    for name in ("channels", "layers", "classes", "side"):
        count.add_argument(f"--{name}", help="default: the paper's for the form")
    count.add_argument("--json", action="store_true")

    draw = _command(commands, "draw", _draw, "draw both cells as a picture")
    draw.add_argument("genotype", metavar="GENOTYPE", help="a published cell (daas-lab cells) or a file")
    draw.add_argument("--out", default="cells.svg", help="an .svg, .png or .dot file (default: cells.svg)")

    derive = _command(
        commands, "genotype", _genotype, "the cell that a budget keeps after any epoch of a search, as JSON"
    )
    _add_run(derive, "a run's folder, or a record")
    derive.add_argument("--epoch", help="0 is the start (default: the last one)")
    derive.add_argument("--budget", help="default: the run's")
    derive.add_argument("--darts", action="store_true", help="as DARTS prints it, where every node has two inputs")

    reproduce = _command(commands, "reproduce", _reproduce, "run the notebooks headless; finished runs are reused")
    reproduce.add_argument("--preset", default="mini", help=f"{', '.join(config.PRESETS)} (default: mini)")
    reproduce.add_argument("--dataset", help="default: fashion_mnist, and cifar10 with preset full")
    reproduce.add_argument("--seeds", default="[0, 1, 2]", help='(default: "[0, 1, 2]")')
    reproduce.add_argument("--notebook", action="append", default=[], help="only this one; may be repeated")
    reproduce.add_argument("--publish", action="store_true", help="pictures go to figures/")
    reproduce.add_argument("--workers", type=int, default=0, help="runs side by side (default: one a core)")
    reproduce.add_argument("--device", default="cpu", help="default: cpu")
    for name in ("data", "runs"):
        reproduce.add_argument(f"--{name}", default=name)

    sweep = _command(commands, "sweep", _sweep, "many runs side by side on Ray, here or on a cluster, as a file says")
    sweep.add_argument("file", metavar="SWEEP.yaml")
    sweep.add_argument("--address", help="of a running Ray cluster, or auto (default: Ray is started here)")
    sweep.add_argument("--dry-run", action="store_true", help="only say which runs there are and how far they are")

    bench = _command(commands, "bench", _bench, "step time and peak memory of the super-network on this machine")
    bench.add_argument("--sizes", nargs="+", metavar="SIZE", help="full, half, mini, tiny (default: all)")
    bench.add_argument("--device", default="cpu", help="default: cpu")
    bench.add_argument("--threads", help="CPU threads (default: torch's)")
    bench.add_argument("--repeats", default="3", help="steps of each form, of which the median counts (default: 3)")
    bench.add_argument("--json", action="store_true")
    return parser


def _command(commands, name: str, run, help_text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
    parser.set_defaults(run=run)
    return parser


def _add_run(parser: argparse.ArgumentParser, help_text: str = "a run's folder") -> None:
    parser.add_argument("run_folder", metavar="RUN", help=help_text)
    parser.add_argument(
        "--own",
        action="append",
        default=[],
        metavar="FILE.py:NAME",
        help="code of one's own that the run uses (its method, its data): executed only because it is named here",
    )


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="mini", help=f"{', '.join(config.PRESETS)} (default: mini)")
    parser.add_argument("--dataset", default="fashion_mnist", help=f"{', '.join(DATASETS)}, or folder:PATH")
    parser.add_argument("--data", default="data", help="folder of the data sets (default: data)")
    parser.add_argument("--out", help="the run's folder")
    parser.add_argument(
        "--estimate", action="store_true", help="train nothing, but measure a step and state time and memory of the run"
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="also write RUN/tensorboard: scalars, α, β and cells as they evolve"
    )
    _add_fields(parser, _COMMON_FIELDS)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change any other field of the configuration; may be repeated",
    )


# Fields of both configurations that have an option of their own; every other one is reached by --set.
_COMMON_FIELDS = ("seed", "epochs", "steps", "side", "layers", "channels", "batch_size", "device", "threads")


def _add_fields(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, help=f"default: the preset's {name}")


def _changes(options: argparse.Namespace, config_class: type) -> dict:
    named = {"preset", "dataset", "method", "protocol", "genotype"}
    known = {spec.name for spec in fields(config_class)} - named - {"numbers", "method_digest"}
    changes = {name: getattr(options, name) for name in known if getattr(options, name, None) is not None}
    for assignment in options.set:
        name, sign, value = assignment.partition("=")
        if not sign:
            raise refuse("--set", assignment, "FIELD=VALUE")
        if name in named:
            raise refuse("--set", assignment, f"of another field: this one is given as --{name}")
        changes[name.replace("-", "_")] = value
    return changes


# --- commands ---------------------------------------------------------------------------------------------------------


def _search(options: argparse.Namespace) -> None:
    from daas_lab.train.search import search

    changes = _changes(options, config.SearchConfig)
    chosen = compose.search_config(options.preset, options.dataset, options.method, options.protocol, **changes)
    _train(options, search, chosen)


def _retrain(options: argparse.Namespace) -> None:
    from daas_lab.train.retrain import retrain

    changes = _changes(options, config.RetrainConfig)
    _train(options, retrain, compose.retrain_config(options.genotype, options.preset, options.dataset, **changes))


def _train(
    options: argparse.Namespace, trainer: Callable, settings: config.SearchConfig | config.RetrainConfig
) -> None:
    """Run a trainer as the options say, or only say what that would take."""
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
    if distributed.is_main():
        print(options.out)


def _gap(options: argparse.Namespace) -> None:
    allowed = {
        "edge_weight": discretize.EDGE_WEIGHTS,
        "batch_norm": discretize.BATCH_NORMS,
        "stage": discretize.STAGES,
    }
    chosen = {name: getattr(options, name) or values for name, values in allowed.items()}
    for name, values in chosen.items():
        for value in values:
            one_of(name, value, allowed[name])
    run_config = read_search_config(options.run_folder)
    budgets = dict.fromkeys(_budget_for(budget, run_config) for budget in options.budget or NAMED_BUDGETS)
    network, _ = load_supernet(options.run_folder)
    splits = search_splits(run_config, options.data)
    lists = {f"{name}s": values for name, values in chosen.items()}
    rows = discretize.accuracy_drops(network, run_config, splits.held_out, splits.weights, budgets, **lists)
    _print_accuracies(rows, run_config, len(splits.held_out), options.json)


def _attribution(options: argparse.Namespace) -> None:
    one_of("edge_weight", options.edge_weight, discretize.EDGE_WEIGHTS)
    one_of("batch_norm", options.batch_norm, discretize.BATCH_NORMS)
    if options.out:
        _check_picture(options.out)
    run_config = read_search_config(options.run_folder)
    budget = _budget_for(options.budget or run_config.budget, run_config)
    network, _ = load_supernet(options.run_folder)
    splits = search_splits(run_config, options.data)
    choice = {"edge_weight": options.edge_weight, "batch_norm": options.batch_norm}
    rows = discretize.attribution(network, run_config, splits.held_out, splits.weights, budget, **choice)
    _print_accuracies(rows, run_config, len(splits.held_out), options.json)
    if options.out:
        cells = evolution.genotype_after(read_run(options.run_folder), -1, every_edge(run_config.nodes))
        _save_cells(cells, options.out, discretize.attribution_values(rows), "points of accuracy lost")


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
    return budget


def _count(options: argparse.Namespace) -> None:
    from daas_lab.networks.derived import count

    sizes = {name: _count_option(options, name) for name in ("channels", "layers", "classes", "side")}
    result = count(load_genotype(options.genotype), options.form, **sizes)
    text = f"{result['parameters']:,} parameters, {result['multiply_adds']:,} multiply-adds"
    print(json.dumps(result) if options.json else text)


def _cells(options: argparse.Namespace) -> None:
    from daas_lab.studies import sizes

    rows = sizes.cell_rows()
    print(json.dumps(rows, indent=1) if options.json else sizes.format_cells(rows))


def _draw(options: argparse.Namespace) -> None:
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


def _genotype(options: argparse.Namespace) -> None:
    run = read_any(options.run_folder)
    if not isinstance(run.config, config.SearchConfig) or not (run.alphas or run.genotype):
        raise refuse("run", options.run_folder, "the folder of a search that has finished an epoch")
    last = len(run.alphas["normal"]) - 1 if run.alphas else 0  # a cell that was drawn has no epochs
    epoch = last if options.epoch is None else options.epoch
    epoch = coerce("epoch", int, epoch, {"at_least": 0, "at_most": last})
    budget = _budget_for(options.budget or run.config.budget, run.config)
    cells = evolution.genotype_after(run, epoch, budget)
    print(format_darts(cells) if options.darts else json.dumps(cells.to_json()))
    if run.config.searcher.trains:
        print(evolution.close_choices_sentence(evolution.close_choices(run, epoch, budget)), file=sys.stderr)


def _reproduce(options: argparse.Namespace) -> None:
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


def _sweep(options: argparse.Namespace) -> None:
    from daas_lab.studies import sweep

    begun, asked = time.perf_counter(), sweep.read_sweep(options.file)
    if options.dry_run:
        for name, state in sweep.planned(asked):
            print(f"{state:<16} {name}")
        cells = sum(map(len, asked.searches.values()))
        print(f"{len(asked.searches)} searches, {cells} cells, {cells * len(asked.retrainings)} retrainings")
        return
    failed = sweep.make(asked, options.address)
    rows, shown = sweep.table(asked)
    if rows:
        command, settings = shlex.join(["daas-lab", "sweep", options.file]), asked.settings
        facts = provenance.provenance(settings.dataset, settings.preset, command, time.perf_counter() - begun)
        folder, single = settings.runs / "sweeps", sweep.rows_of(asked)
        saved = tables.save_table(Path(options.file).stem, rows, facts, folder, shown, single)
        print(shown, *saved, sep="\n")
    for name, error in failed.items():
        print(f"{name}: {error}", file=sys.stderr)
    if failed:
        raise LabError(f"runs that failed: {len(failed)}; the same command tries them again and reuses the others")


def _bench(options: argparse.Namespace) -> None:
    threads, repeats = _count_option(options, "threads"), _count_option(options, "repeats")
    import torch

    from daas_lab.studies import bench

    if threads is not None:
        torch.set_num_threads(threads)
    result = bench.run(options.sizes, options.device, repeats)
    print(json.dumps(result, indent=1) if options.json else bench.format_table(result))


def _count_option(options: argparse.Namespace, name: str) -> int | None:
    value = getattr(options, name)
    limits = {spec.name: spec.metadata.get("at_least") for spec in fields(config.RetrainConfig)}
    least, most = max(1, limits.get(name) or 1), 1024 if name == "threads" else 10_000
    return None if value is None else coerce(name, int, value, {"at_least": least, "at_most": most})
