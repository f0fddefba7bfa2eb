"""Waiting for what other processes do: patiently, for no test measures time."""

import time

PATIENCE = 600  # seconds after which what is waited for counts as never coming


def wait_until(true):
    """Return as soon as `true()` is."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
