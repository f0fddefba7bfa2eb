"""Runs that are killed at random moments, the same ones on every machine: moments are counted in calls, not seconds."""

import contextlib
import itertools
import multiprocessing
import os
import random
import signal
import sys

from daas_lab.runs.folder import is_finished
from daas_lab.runs.lock import writer


class Stopped(Exception):
    """An epoch that is the last one of a process."""


def stop():
    """`on_epoch` of a run that is stopped when its next epoch is on disk."""
    raise Stopped


def stopped_in_every_epoch(train, root):
    """The folders of two runs of `train(folder, on_epoch)`, both finished: one was stopped after each of its epochs and
    begun again, the other never."""
    undisturbed, folder = root / "undisturbed", root / "run"
    train(undisturbed, lambda: None)
    while not is_finished(folder):
        with contextlib.suppress(Stopped):
            train(folder, stop)
    return folder, undisturbed


def killed_at_random(train, root, kills):
    """The folders of two runs of `train(folder, on_epoch)`, both finished: one killed `kills` times, the other never.

    At which call of a function a process dies is drawn from those of its first two epochs and of the way there.
    """
    # Forked from a server that has imported everything, so that a start takes no longer than a few epochs.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["daas_lab.train.search", "daas_lab.train.retrain", "sklearn.datasets"])
    queue = context.SimpleQueue()

    def run(folder, last_call=0):
        process = context.Process(target=_train_counting, args=(train, folder, last_call, queue))
        process.start()
        process.join()
        return process.exitcode

    undisturbed, folder, rng = root / "undisturbed", root / "run", random.Random(0)
    assert run(undisturbed) == 0 and is_finished(undisturbed)
    calls = queue.get()  # when an epoch was on disk
    for _ in range(kills):
        assert run(folder, rng.randint(calls[0] // 2, calls[1])) == -signal.SIGKILL
        assert not is_finished(folder) and writer(folder) is None
    assert run(folder) == 0 and is_finished(folder)
    return folder, undisturbed


def _train_counting(train, folder, last_call, queue):
    """Train and put the numbers of calls until the end of each epoch in `queue`, or die at call number `last_call`."""
    counter, ends = itertools.count(1), []

    def count(frame, event, argument):
        if event in ("call", "c_call") and next(counter) == last_call:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    train(folder, lambda: ends.append(next(counter)))
    sys.setprofile(None)
    if not last_call:
        queue.put(ends)
