"""Runs that are killed at random moments."""

import multiprocessing
import random
import time

from daas_lab.runs.folder import epochs_done, is_finished, read_run, writer


def killed_at_random(make_run, root, kills):
    """The folders of two runs of `make_run(folder)`, both finished: one killed `kills` times, and one left in peace."""
    # Forked from a server that has imported everything, so that a start takes no longer than a few epochs.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["daas_lab.train.search", "daas_lab.train.retrain", "sklearn.datasets"])

    def begin(folder):
        process = context.Process(target=make_run, args=(folder,))
        process.start()
        return process

    def let_end(folder):
        process = begin(folder)
        process.join()
        assert process.exitcode == 0 and is_finished(folder)

    undisturbed, folder, rng = root / "undisturbed", root / "run", random.Random(0)
    let_end(undisturbed)
    epoch = read_run(undisturbed).seconds / epochs_done(undisturbed)
    for _ in range(kills):
        before = epochs_done(folder)
        process = begin(folder)
        while epochs_done(folder) == before and rng.random() > 0.01:  # at times before it has finished an epoch
            assert process.is_alive()
            time.sleep(epoch / 10)
        time.sleep(rng.uniform(0, epoch))
        process.kill()
        process.join()
        assert not is_finished(folder) and writer(folder) is None
    let_end(folder)
    return folder, undisturbed
