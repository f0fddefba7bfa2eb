"""What kept weights are worth: the error after so many epochs of retraining, from scratch and on from the cut."""

from collections.abc import Mapping, Sequence

from daas_lab.errors import LabError, refuse
from daas_lab.networks.kept import load_network
from daas_lab.report.tables import Row, summarise
from daas_lab.runs.folder import Run
from daas_lab.space.budget import EdgeBudget
from daas_lab.space.kept_file import read_cut
from daas_lab.studies import make
from daas_lab.studies.settings import Settings
from daas_lab.train.cut import cut
from daas_lab.train.loop import evaluate
from daas_lab.train.splits import retrain_splits

SCRATCH, KEPT = "scratch", "kept"


def kept_weight_rows(searches: Sequence[Run], settings: Settings, budget: str, epochs: Sequence[int]) -> list[Row]:
    """A row for every search, `start` (scratch or kept) and number of `epochs`: the test `error` in percent after a
    retraining of that many, with a learning rate that falls to 0 in them.

    Both starts train the search's cell at `budget` in the super-network's width and depth. Kept weights have a row for
    0 epochs too: what the cut leaves, with the method's own edge weight and statistics as trained.
    """
    if not epochs:
        raise refuse("epochs", epochs, "one number of epochs or more")
    jobs, rows = [], []
    for run in searches:
        if run.folder is None:
            raise LabError(
                f"{make.run_name(run.config)} is a record, without weights; without it, the run is made again"
            )
        net = run.folder / f"{str(EdgeBudget.parse(budget)).replace('/', '-')}.net"
        cut(run.folder, budget, net, settings.data)
        kept, *_ = read_cut(net)
        shape = {"channels": kept.channels, "layers": kept.layers, "side": kept.side}
        named = make.names_of(run) | {"budget": budget}
        for count in epochs:
            given = {"seed": run.config.seed, "epochs": count}
            scratch = settings.retraining(kept.genotype, **given, **shape)
            jobs.append((scratch, named | {"start": SCRATCH, "epochs": count}))
            last = settings.retraining(None, **given, weights=net)
            jobs.append((last, named | {"start": KEPT, "epochs": count}))
        _, accuracy = evaluate(load_network(net), retrain_splits(last, settings.data)[1])
        rows.append(named | {"start": KEPT, "epochs": 0, "error": 100 - accuracy})
    made = make.make_runs([config for config, _ in jobs], settings)  # two searches may have found one cell
    return rows + [named | {"error": run.result["test_error"]} for (_, named), run in zip(jobs, made, strict=True)]


def epochs_saved(rows: Sequence[Row]) -> list[Row]:
    """Means of `kept_weight_rows` over the seeds, a row for every method and number of epochs from kept weights:
    `scratch_epochs`, the fewest of those tried after which from scratch the mean error is as small, and how many that
    `saved`; both None where none was enough."""
    means = summarise(rows, ("method", "budget", "start", "epochs"), ("error",))
    found, methods = [], list(dict.fromkeys(row["method"] for row in means))
    kept = [row for row in means if row["start"] == KEPT]
    for row in sorted(kept, key=lambda row: (methods.index(row["method"]), row["epochs"])):
        enough = [other["epochs"] for other in means if _matches(other, row)]
        least = min(enough, default=None)
        found.append(row | {"scratch_epochs": least, "saved": None if least is None else least - row["epochs"]})
    return found


def sentence(rows: Sequence[Row]) -> str:
    """Method by method the error that the cut leaves, and how long it takes to come as far from scratch."""
    tried, parts = sorted({row["epochs"] for row in rows if row["start"] == SCRATCH}), []
    for row in epochs_saved(rows):
        if row["epochs"] == 0:
            least = "none" if row["scratch_epochs"] is None else row["scratch_epochs"]
            parts.append(f"{row['method']} {row['error_mean']:.2f} % ({least})")
    return (
        "Mean test error with no epoch of retraining at all, and the fewest epochs from scratch after which it is as "
        f"small, of {', '.join(map(str, tried))} that were tried: {'; '.join(parts)}."
    )


def _matches(scratch: Mapping, kept: Mapping) -> bool:
    same = all(scratch[name] == kept[name] for name in ("method", "budget"))
    return same and scratch["start"] == SCRATCH and scratch["error_mean"] <= kept["error_mean"]
