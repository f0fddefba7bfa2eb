"""The command line, `daas-lab`. What cannot be done is said in one line on stderr, with exit code 2."""

import argparse
import inspect
import sys
from collections.abc import Sequence

from daas_lab import commands, config
from daas_lab.data.sources import DATASETS
from daas_lab.errors import STOPPED, LabError, ending_well, suggestion
from daas_lab.methods import rules
from daas_lab.methods.lookup import METHODS, PAPERS
from daas_lab.own_files import load_own
from daas_lab.space.operations import load_operations
from daas_lab.train import discretize

# The commands whose work is kept as it is done.
_GO_ON = (
    commands.run_search,
    commands.run_retrain,
    commands.run_quickstart,
    commands.run_reproduce,
    commands.run_sweep,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    options = argparse.Namespace(run=None)
    try:
        _parser().parse_args(arguments, options)
        for text in getattr(options, "own", ()):
            _name(text)
        with ending_well():
            options.run(options)
    except (LabError, OSError) as error:  # OSError: a folder that cannot be made, a disk that is full
        print(f"daas-lab: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"daas-lab: {STOPPED if options.run in _GO_ON else 'stopped'}", file=sys.stderr)
        return next(iter(stopped.args), 130)
    return 0


def _name(text: str) -> None:
    """Load code of one's own that a run uses: a method, a data set, or an operation (of three arguments)."""
    found = load_own("--own", text)
    if not isinstance(found, type) and callable(found) and len(inspect.signature(found).parameters) == 3:
        load_operations(text)


class _Parser(argparse.ArgumentParser):
    def parse_known_args(self, args=None, namespace=None):
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:  # said here and not by the parser of all commands, which knows no command's options
            closest = suggestion(unknown[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{closest}")
        return found, unknown

    def error(self, message: str):
        raise LabError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="daas-lab", description="Discretization-aware architecture search, on the command line.")
    parsers = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    search = _command(
        parsers, "search", commands.run_search, "search a cell; the same command goes on where it was stopped"
    )
    search.add_argument("--method", default=PAPERS, help=f"{', '.join(METHODS)}, or FILE.py:Class (default: {PAPERS})")
    search.add_argument("--protocol", default="authors", help="paper or authors (default: authors)")
    _add_training_options(search)
    _add_select(search)
    search.add_argument("--budget", help=f"{_BUDGET}; a limit is for the search's own cell (default: two edges a node)")
    _add_fields(search, ("lambda_c", "lambda_1", "lambda_2", "gap_every", "gap_budgets", "gap_edge_weight"))

    gap = _command(
        parsers, "gap", commands.run_gap, "accuracy of a searched super-network before and after discretization"
    )
    _add_run(gap)
    gap.add_argument("--budget", action="append", help=f"{_BUDGET}; may be repeated (default: the five of the paper)")
    weights, norms = ", ".join(discretize.EDGE_WEIGHTS), ", ".join(discretize.BATCH_NORMS)
    gap.add_argument("--edge-weight", action="append", help=weights)
    gap.add_argument("--batch-norm", action="append", help=norms)
    gap.add_argument("--stage", action="append", help=", ".join(discretize.STAGES))
    _add_select(gap)
    _add_data(gap)
    gap.add_argument("--json", action="store_true", help="a list of rows, accuracies in percent")

    alone = _command(
        parsers, "attribution", commands.run_attribution, "accuracy that each decision of a cut costs alone"
    )
    _add_run(alone)
    alone.add_argument("--budget", help=f"{_BUDGET} (default: the run's)")
    alone.add_argument("--edge-weight", default="learned", help=f"{weights} (default: learned)")
    alone.add_argument("--batch-norm", default="as-trained", help=f"{norms} (default: as-trained)")
    alone.add_argument("--out", metavar="PICTURE", help="a heat map on the cells, an .svg, .png or .dot file")
    _add_data(alone)
    alone.add_argument("--json", action="store_true", help="a list of rows, accuracies in percent")

    kept = _command(
        parsers, "cut", commands.run_cut, "write a search's network as it is after the cut, with its weights, to a file"
    )
    _add_run(kept)
    kept.add_argument("--budget", help="default: the run's")
    kept.add_argument("--edge-weight", help=f"{weights} (default: the method's)")
    kept.add_argument("--batch-norm", default="as-trained", help=f"{norms} (default: as-trained)")
    _add_select(kept)
    kept.add_argument("--out", metavar="NET", help="the file, for retrain --from and load_network")
    kept.add_argument("--export", metavar="NET.pt2", help="also as a program of torch.export")
    _add_data(kept)
    kept.add_argument("--json", action="store_true", help="its accuracy in percent before and after, and its size")

    retrain = _command(parsers, "retrain", commands.run_retrain, "train a cell's network and state its test error")
    start = retrain.add_mutually_exclusive_group(required=True)
    start.add_argument("--genotype", help="from scratch: a file, or a published cell (daas-lab cells)")
    start.add_argument(
        "--from", dest="weights", metavar="NET", help="on from the weights of a file of daas-lab cut, in its own shape"
    )
    _add_training_options(retrain)

    cells = _command(
        parsers, "cells", commands.run_cells, "the published cells with their sizes, and what their sources state"
    )
    cells.add_argument("--json", action="store_true")
    count = _command(parsers, "count", commands.run_count, "parameters and multiply-adds of a cell's network")
    count.add_argument("genotype", metavar="GENOTYPE", help="a published cell (daas-lab cells) or a file")
    count.add_argument("--form", default="cifar", help="cifar or imagenet (default: cifar)")
    for name in ("channels", "layers", "classes", "side"):
        count.add_argument(f"--{name}", help="default: the paper's for the form")
    count.add_argument("--json", action="store_true")
    _add_own(count)

    draw = _command(parsers, "draw", commands.run_draw, "draw both cells as a picture")
    draw.add_argument("genotype", metavar="GENOTYPE", help="a published cell (daas-lab cells) or a file")
    draw.add_argument("--out", default="cells.svg", help="an .svg, .png or .dot file (default: cells.svg)")
    _add_own(draw)

    derive = _command(
        parsers, "genotype", commands.run_genotype, "the cell that a budget keeps after any epoch of a search, as JSON"
    )
    _add_run(derive, "a run's folder, or a record")
    derive.add_argument("--epoch", help="0 is the start (default: the last one)")
    derive.add_argument("--budget", help=f"{_BUDGET} (default: the run's)")
    _add_select(derive)
    _add_data(derive)
    derive.add_argument("--darts", action="store_true", help="as DARTS prints it, where every node has two inputs")

    report = _command(
        parsers, "report", commands.run_report, "one page of a run or several, which a browser opens without a network"
    )
    report.add_argument("runs", metavar="RUN", nargs="+", help="a run's folder, or a record")
    report.add_argument("--out", default="report.html", help="an .html file (default: report.html)")
    _add_own(report)

    quickstart = _command(
        parsers, "quickstart", commands.run_quickstart, "copy the notebooks to notebooks/ and run the first, on digits"
    )
    quickstart.add_argument("--preset", default="quick", help="default: quick, in half its epochs")

    reproduce = _command(
        parsers, "reproduce", commands.run_reproduce, "run the notebooks headless; finished runs are reused"
    )
    reproduce.add_argument("--preset", default="mini", help=f"{', '.join(config.PRESETS)} (default: mini)")
    reproduce.add_argument("--dataset", help="default: fashion_mnist, and cifar10 with preset full")
    reproduce.add_argument("--seeds", default="[0, 1, 2]", help='(default: "[0, 1, 2]")')
    reproduce.add_argument("--notebook", action="append", default=[], help="only this one; may be repeated")
    reproduce.add_argument("--publish", action="store_true", help="pictures go to figures/")
    reproduce.add_argument("--workers", default=0, help="runs side by side (default: one a core)")
    reproduce.add_argument("--device", default="cpu", help="default: cpu")
    for name, holds in (("data", "the data sets"), ("runs", "the runs")):
        reproduce.add_argument(f"--{name}", default=name, help=f"folder of {holds} (default: {name})")

    sweep = _command(
        parsers, "sweep", commands.run_sweep, "many runs side by side on Ray, here or on a cluster, as a file says"
    )
    sweep.add_argument("file", metavar="SWEEP.yaml")
    sweep.add_argument("--address", help="of a running Ray cluster, or auto (default: Ray is started here)")
    sweep.add_argument("--dry-run", action="store_true", help="only say which runs there are and how far they are")

    bench = _command(
        parsers, "bench", commands.run_bench, "step time and peak memory of the super-network on this machine"
    )
    bench.add_argument("--sizes", nargs="+", metavar="SIZE", help="full, half, mini, tiny (default: all)")
    bench.add_argument("--device", default="cpu", help="default: cpu")
    bench.add_argument("--threads", help="CPU threads (default: torch's)")
    bench.add_argument("--repeats", default="3", help="steps of each form, of which the median counts (default: 3)")
    bench.add_argument("--json", action="store_true")
    return parser


def _command(parsers, name: str, run, help_text: str) -> argparse.ArgumentParser:
    parser = parsers.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
    parser.set_defaults(run=run)
    return parser


def _add_run(parser: argparse.ArgumentParser, help_text: str = "a run's folder") -> None:
    parser.add_argument("run_folder", metavar="RUN", help=help_text)
    _add_own(parser)


def _add_own(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--own",
        action="append",
        default=[],
        metavar="FILE.py:NAME",
        help="code of one's own that is used (a method, data, an operation): executed only because it is named here",
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", default="data", help="folder of the data sets (default: data)")


def _add_select(parser: argparse.ArgumentParser) -> None:
    texts = {rules.THRESHOLD: f"{rules.THRESHOLD}:0.85", rules.SKIPS: f"{rules.SKIPS}:2"}
    known = ", ".join(texts.get(name, name) for name in rules.RULES)
    parser.add_argument("--select", default=rules.OWN, help=f"rule of selection: {known} (default: the method's own)")


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="mini", help=f"{', '.join(config.PRESETS)} (default: mini)")
    parser.add_argument("--dataset", default="fashion_mnist", help=_DATASETS)
    _add_data(parser)
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


_DATASETS = f"{', '.join(DATASETS)}, folder:PATH, or FILE.py:function (default: fashion_mnist)"
_BUDGET = 'edges to keep, such as 8/14 or 2,2,1, and what the network may cost: "8/14; multiply_adds<=300M"'

# Fields of both configurations that have an option of their own; every other one is reached by --set.
_COMMON_FIELDS = ("seed", "epochs", "steps", "side", "layers", "channels", "batch_size", "device", "threads")


# What no preset sets.
_DEFAULTS = {
    "seed": "0",
    "device": "cpu",
    "threads": "0, as many as torch takes",
    **dict.fromkeys(("lambda_c", "lambda_1", "lambda_2"), "the method's"),
    "gap_every": "0, never",
    "gap_budgets": "the search's own",
    "gap_edge_weight": "learned",
}


def _add_fields(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    for name in names:
        default = _DEFAULTS.get(name, f"the preset's {name}")
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, help=f"default: {default}")
