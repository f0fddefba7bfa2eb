"""Faults: what a user sees of each, in one line and an exit code, and that nothing finished is lost or damage used.

Each test is marked with the fault that it tries, and tells `seen` what was said. README's table is made of that:
`DAAS_LAB_FAULTS=figures/faults.json pytest -m fault`.
"""

import contextlib
import ctypes
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import platform
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch

from daas_lab import commands
from daas_lab.cli import main
from daas_lab.config import SearchConfig
from daas_lab.errors import LabError
from daas_lab.lab import live
from daas_lab.runs.epoch_log import LOGS, add_entry
from daas_lab.runs.folder import CHECKPOINTS, epochs_done, is_finished, is_whole, load_checkpoint, read_config, read_run
from daas_lab.runs.lock import locked, writer
from daas_lab.train import writer as writing
from daas_lab.train.search import load_supernet, search
from tests.waiting import wait_until

EPOCHS, KILLED_AFTER = 5, 3
SETTINGS = {"layers": 3, "channels": 2, "nodes": 4, "epochs": EPOCHS, "steps": 1, "held_out_images": 16}
FILES = ("history.jsonl", "architecture.safetensors", "genotype.json")

# A server that has imported everything: its children start at once, and none inherits our threads.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["daas_lab.cli", "sklearn.datasets"])


def command(folder, *more, dataset="digits"):
    """The command line of a search of a second."""
    words = ["search", "--preset", "tiny", "--dataset", dataset, "--threads", "1", "--set", "budget=1,2"]
    return [
        *words,
        *(w for item in SETTINGS.items() for w in ("--set", "{}={}".format(*item))),
        *more,
        "--out",
        str(folder),
    ]


def in_a_process(arguments, log, before=None):
    """The exit code of a command in a process of its own, after `before()` in it; what it says goes to `log`."""
    process = CONTEXT.Process(target=_run, args=(arguments, log, before))
    process.start()
    process.join()
    return process.exitcode


def _run(arguments, log, before):
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), 2)
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    if before:
        before()
    sys.exit(main(arguments))


def signal_itself(number, epoch):
    """From now on a search of this process gets a signal when `epoch` epochs are on disk."""
    counted = iter(range(1, epoch + 1))

    def count():
        if next(counted) == epoch:
            os.kill(os.getpid(), number)

    commands.search = partial(search, on_epoch=count)


def said(log):
    """What a command has said, without its progress bar."""
    return [line for line in Path(log).read_text().replace("\r", "\n").splitlines() if line and "|" not in line]


def content(folder, names=FILES):
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A search that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main(command(folder)) == 0
    return folder


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """The same search, killed after three epochs."""
    folder = tmp_path_factory.mktemp("half") / "run"
    before = partial(signal_itself, signal.SIGKILL, KILLED_AFTER)
    assert in_a_process(command(folder), folder.parent / "log", before) == -signal.SIGKILL
    return folder


@pytest.fixture
def run(half, tmp_path):
    """A copy of that."""
    return shutil.copytree(half, tmp_path / "run")


def ends_like(whole, folder, new_epochs, **places):
    """Run the same command again: it makes `new_epochs` and ends in the same bytes."""
    made = []
    search(read_config(whole), folder, progress=False, on_epoch=lambda: made.append(epochs_done(folder)), **places)
    assert len(made) == new_epochs and is_whole(folder)
    assert content(folder) == content(whole)


# --- processes that end -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        pytest.param(signal.SIGKILL, -9, None, marks=pytest.mark.fault("SIGKILL")),
        pytest.param(signal.SIGTERM, 143, "stopped; the same command", marks=pytest.mark.fault("SIGTERM")),
        pytest.param(signal.SIGINT, 130, "stopped; the same command", marks=pytest.mark.fault("Ctrl-C")),
    ],
)
def test_a_signal_loses_no_finished_epoch(number, code, words, whole, tmp_path, seen):
    folder, log = tmp_path / "run", tmp_path / "log"
    assert in_a_process(command(folder), log, partial(signal_itself, number, 2)) == code
    lines = said(log)
    assert lines == [] if words is None else len(lines) == 1 and words in lines[0]
    assert epochs_done(folder) == 2 and writer(folder) is None
    seen(lines[0] if lines else "Killed (by the shell)", code % 256 if code > 0 else 128 - code)
    ends_like(whole, folder, EPOCHS - 2)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_an_epoch_is_saved_waits_until_it_is(number, code, whole, tmp_path):
    folder = tmp_path / "run"
    assert in_a_process(command(folder), tmp_path / "log", partial(_signal_itself_while_saving, number, 2)) == code
    assert epochs_done(folder) == load_checkpoint(folder)["epoch"] == len(read_run(folder).history) == 2
    ends_like(whole, folder, EPOCHS - 2)


def _signal_itself_while_saving(number, epoch):
    """From now on this process gets a signal when `epoch` is in its run's log and in no checkpoint yet."""

    def add(folder, entry):
        add_entry(folder, entry)
        if entry.epoch == epoch:
            os.kill(os.getpid(), number)

    writing.add_entry = add


@pytest.mark.slow
@pytest.mark.fault("a fork of a kernel that outlives it")
def test_a_fork_holds_no_lock_and_writes_nothing(whole, tmp_path, seen):
    """A kernel is killed while it trains; a process that it has forked lives on, and tries to save an epoch."""
    folder, said_by_fork = tmp_path / "run", tmp_path / "fork"
    parent = CONTEXT.Process(target=_fork_while_training, args=(read_config(whole), folder, said_by_fork))
    parent.start()
    parent.join()
    assert parent.exitcode == -signal.SIGKILL
    wait_until(said_by_fork.is_file)
    pid, line = said_by_fork.read_text().split(" ", 1)
    assert "of which this one is a fork" in line
    os.kill(int(pid), 0)  # it lives
    seen(line)
    assert writer(folder) is None
    ends_like(whole, folder, EPOCHS - 2)
    os.kill(int(pid), signal.SIGKILL)


def _fork_while_training(config, folder, said_by_fork):
    def fork():
        if epochs_done(folder) == 2:
            if os.fork():
                os.kill(os.getpid(), signal.SIGKILL)
            forked.append(os.getpid())

    forked = []
    try:
        search(config, folder, progress=False, on_epoch=fork)
    except LabError as error:
        partial_file = said_by_fork.with_suffix(".part")
        partial_file.write_text(f"{forked[0]} {error}")
        partial_file.rename(said_by_fork)
        time.sleep(600)


@pytest.mark.slow
@pytest.mark.fault("kernel death under papermill")
def test_a_notebook_whose_kernel_dies_fails_and_goes_on_when_it_is_run_again(tmp_path, seen):
    runs, notebook = tmp_path / "runs", Path(__file__).parent.parent / "notebooks" / "figure_2_entropy.ipynb"
    words = [sys.executable, "-m", "papermill", str(notebook), str(tmp_path / "out.ipynb")]
    parameters = {"preset": "tiny", "dataset": "digits", "seeds": "[0]", "epochs": 30, "runs": runs}
    parameters["figures"] = tmp_path / "figures"
    words += [str(word) for item in parameters.items() for word in ("-p", *item)]
    with open(tmp_path / "log", "wb") as log:
        first = subprocess.Popen(words, stdout=log, stderr=log)
        wait_until(lambda: list(runs.glob("*/history.jsonl")) or first.poll() is not None)
        [kernel] = [
            p for p in psutil.Process(first.pid).children(recursive=True) if "ipykernel_launcher" in p.cmdline()
        ]
        kernel.kill()
        assert first.wait() == 138  # papermill's code for it
        wait_until(lambda: all(writer(folder) is None for folder in runs.iterdir()))
    line = (tmp_path / "log").read_text().splitlines()[-1]
    assert "Kernel died" in line
    seen(line, 138)
    [folder] = {path.parent for path in runs.glob("*/history.jsonl")}
    begun = (folder / "history.jsonl").read_bytes()
    assert not is_finished(folder)  # what trained has ended with the kernel
    assert subprocess.run(words, capture_output=True).returncode == 0
    assert is_whole(folder) and (folder / "history.jsonl").read_bytes().startswith(begun)
    assert [record["epoch"] for record in read_run(folder).history] == list(range(1, 31))


# --- disks and folders ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.fault("full disk")
@pytest.mark.parametrize("limit", [100, 3000, 20_000])
def test_a_full_disk_stops_a_search_that_goes_on_when_there_is_room(limit, whole, tmp_path, seen):
    """No file may grow past `limit`: the configuration does not fit, a line of the log, the checkpoint."""
    folder = tmp_path / "run"
    full = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
    assert in_a_process(command(folder), "/dev/null", full) == 2
    assert not is_finished(folder) and not list(folder.glob(".*.tmp"))
    ends_like(whole, folder, EPOCHS)
    shutil.rmtree(folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(LabError, match=r"cannot write .*File too large; what was there before is intact") as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        try:
            search(read_config(whole), folder, progress=False)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    seen(f"daas-lab: {error.value}", 2)


@pytest.mark.fault("full disk under a printed result")
def test_a_result_that_cannot_be_printed_is_an_error(whole, tmp_path, seen):
    log = tmp_path / "log"
    assert in_a_process(["genotype", str(whole)], log, _print_to_a_full_device) == 2
    *_, line = said(log)
    assert "No space left on device" in line
    seen(line, 2)


def _print_to_a_full_device():
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115


@pytest.mark.fault("read-only folder")
def test_a_folder_that_cannot_be_written_is_refused(run, tmp_path, seen):
    """By a user who may only read it; root, who may do all, gives that up in the process."""
    before, log = content(run, [path.name for path in run.iterdir()]), tmp_path / "log"
    for path in (run, *run.iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert in_a_process(command(run), log, _without_privileges) == 2
    [line] = said(log)
    assert str(run) in line and "Permission denied" in line
    seen(line, 2)
    assert content(run, before) == before


def _without_privileges():
    if os.getuid() == 0:
        version_3 = struct.pack("Ii", 0x20080522, 0)  # capset(2): no capabilities are left
        assert ctypes.CDLL(None).capset(version_3, bytes(24)) == 0


@pytest.mark.fault("a file where a folder should be")
@pytest.mark.parametrize("place", ["run", "run/under/it"])
def test_a_file_in_the_place_of_the_folder_is_refused(place, tmp_path, capfd, seen):
    (tmp_path / "run").write_text("mine")
    assert main(command(tmp_path / place)) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert "must be a folder that can be written" in line and (tmp_path / "run").read_text() == "mine"
    seen(line, 2)


@pytest.mark.fault("data that disappear")
def test_data_that_have_gone_are_named_and_nothing_is_touched(tmp_path, capfd, seen):
    from PIL import Image

    images, run = tmp_path / "images", tmp_path / "run"
    for number in range(240):
        path = images / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(path)
    small = [w for name in ("weight", "architecture") for w in ("--set", f"{name}_images=32")]
    arguments = command(run, *small, "--set", "classes=2", dataset=f"folder:{images}")
    assert in_a_process(arguments, tmp_path / "log", partial(signal_itself, signal.SIGKILL, 2)) == -signal.SIGKILL
    before = content(run, [path.name for path in run.iterdir()])
    images.rename(tmp_path / "elsewhere")
    assert main(arguments) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert str(images) in line
    seen(line, 2)
    assert content(run, before) == before
    (tmp_path / "elsewhere").rename(images)
    assert main(arguments) == 0 and [record["epoch"] for record in read_run(run).history] == [1, 2, 3, 4, 5]


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.fault("checkpoint cut at every sixteenth")
@pytest.mark.parametrize("sixteenth", range(16))
def test_a_checkpoint_that_was_cut_gives_way_to_the_one_before_it(sixteenth, run, whole, capfd, seen):
    path = run / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * sixteenth // 16])
    if sixteenth % 5:  # the others only as far as it takes to see what would go on
        assert load_checkpoint(run)["epoch"] == KILLED_AFTER - 1
    else:
        ends_like(whole, run, EPOCHS - KILLED_AFTER + 1)
    line, other = capfd.readouterr().err.splitlines()
    assert "checkpoint.pt is damaged" in line and "checkpoint.previous.pt" in other
    seen(line)


# Of a run that was killed, and of a finished one: file → epochs that are made again because a byte of it has changed.
HALF = dict.fromkeys(("config.json", *LOGS, "checkpoint.previous.pt", "history.jsonl", "timing.jsonl", "lock"), 0)
HALF |= {"checkpoint.pt": 1}
WHOLE = dict.fromkeys((*HALF, *FILES, "DONE"), 0)


@pytest.mark.slow
@pytest.mark.fault("flipped byte in each file of a run folder")
@pytest.mark.parametrize("name", HALF)
def test_a_flipped_byte_changes_no_result(name, run, whole, capfd, seen):
    flip(run / name)
    assert set(HALF) == {path.name for path in run.iterdir()}
    with contextlib.suppress(LabError):
        assert len(read_run(run).history) == KILLED_AFTER
    assert name == "config.json" or live.status(run).state == "stopped"
    ends_like(whole, run, EPOCHS - KILLED_AFTER + HALF[name])
    for line in capfd.readouterr().err.splitlines():
        seen(line)


@pytest.mark.fault("flipped byte in each file of a run folder")
@pytest.mark.parametrize("name", WHOLE)
def test_a_flipped_byte_of_a_finished_run_is_no_result(name, whole, tmp_path, capfd, seen):
    run = shutil.copytree(whole, tmp_path / "run")
    assert set(WHOLE) == {path.name for path in run.iterdir()}
    flip(run / name)
    if name in (*FILES, "config.json", "DONE"):
        with pytest.raises(LabError, match=r"damaged file " if name == "DONE" else f"damaged file .*{name}"):
            read_run(run)
    ends_like(whole, run, WHOLE[name])
    for line in capfd.readouterr().err.splitlines():
        seen(line)


def test_a_mark_of_the_end_that_cannot_be_read_is_written_again(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "DONE").write_text("{")
    ends_like(whole, run, 0)


def flip(path):
    """Change a digit, of which there is another, in the middle of a text, else a bit: what is least likely to show."""
    content = bytearray(path.read_bytes())
    digits = [place for place, byte in enumerate(content) if chr(byte) in "12345678"]
    place = digits[len(digits) // 2] if digits and path.suffix in (".json", ".jsonl", "") else len(content) // 2
    content[place] ^= 1 if chr(content[place]) not in "89" else 2
    path.write_bytes(content)


@pytest.mark.fault("both copies of the log damaged at once")
def test_without_a_log_the_run_begins_again(run, whole, capfd, seen):
    for name in LOGS:
        (run / name).write_bytes(b"")
    ends_like(whole, run, EPOCHS)
    [line] = capfd.readouterr().err.splitlines()
    assert "the run begins again" in line
    seen(line)


# --- two of them, clocks ----------------------------------------------------------------------------------------------


@pytest.mark.fault("two processes on one run")
def test_a_second_process_is_refused(run, whole, capfd, seen):
    with locked(run):
        assert main(command(run)) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert f'"pid": {os.getpid()}' in line
    seen(line, 2)
    ends_like(whole, run, EPOCHS - KILLED_AFTER)


@pytest.mark.fault("two host names on one run")
def test_a_second_machine_is_refused_and_its_process_not_signalled(run, whole, tmp_path, capfd, seen):
    there, go = tmp_path / "there", tmp_path / "go"
    other = CONTEXT.Process(target=_hold_as_another_machine, args=(run, there, go))
    other.start()
    wait_until(there.exists)
    assert main(command(run)) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert '"host": "another-machine"' in line
    seen(line, 2)
    with pytest.raises(LabError, match="one of another machine, another-machine: stop it there"):
        live.stop(run)
    assert other.is_alive()
    go.touch()
    other.join()
    assert other.exitcode == 0
    ends_like(whole, run, EPOCHS - KILLED_AFTER)


def _hold_as_another_machine(folder, there, go):
    platform.node = lambda: "another-machine"
    with locked(folder):
        there.touch()
        wait_until(go.exists)


@pytest.mark.fault("clock set back")
def test_files_of_the_future_are_no_matter(run, whole, seen):
    """As after a clock was set back by a day: every file of the run is of tomorrow."""
    tomorrow = time.time() + 86_400
    for path in (*run.iterdir(), run):
        os.utime(path, (tomorrow, tomorrow))
    assert live.status(run).state == "stopped" and live.current(run.parent) == "run"
    ends_like(whole, run, EPOCHS - KILLED_AFTER)
    assert live.status(run).state == "finished"
    seen("nothing: no result and no decision asks for the time")


# --- files of others --------------------------------------------------------------------------------------------------


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.slow
@pytest.mark.fault("malicious pickle as checkpoint")
@pytest.mark.parametrize("form", ["torch", "pickle", "inside"])
def test_a_checkpoint_that_is_a_program_is_not_run(form, run, whole, tmp_path, capfd, seen):
    """With a right digest: whoever writes a checkpoint can compute that."""
    marker = tmp_path / "executed"
    buffer = io.BytesIO()
    if form == "pickle":
        pickle.dump(Malicious(marker), buffer)
    else:
        saved = load_checkpoint(run) | {"state": Malicious(marker)}
        torch.save(saved if form == "inside" else Malicious(marker), buffer)
    whole_file = buffer.getvalue() + hashlib.sha256(buffer.getvalue()).digest()
    for name in CHECKPOINTS:
        (run / name).write_bytes(whole_file)
    with pytest.raises(LabError, match="must hold a checkpoint"):
        load_supernet(run)
    assert main(["gap", str(run)]) == 2
    ends_like(whole, run, EPOCHS)
    assert not marker.exists()
    seen(capfd.readouterr().err.splitlines()[-1])


@pytest.mark.fault("checkpoint of another network")
def test_a_checkpoint_that_does_not_fit_is_refused(run, tmp_path, capfd, seen):
    buffer = io.BytesIO()
    torch.save(load_checkpoint(run) | {"state": {"network": {"weight": torch.zeros(2)}}}, buffer)
    (run / "checkpoint.pt").write_bytes(buffer.getvalue() + hashlib.sha256(buffer.getvalue()).digest())
    assert main(command(run)) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert "is not one of its configuration" in line
    seen(line, 2)


PROGRAM = "open({marker!r}, 'a').close()\nfrom daas_lab import Method\nclass Mine(Method): pass\ndef mine(*a): pass\n"


@pytest.mark.fault("run folder that names a file of code")
@pytest.mark.parametrize("field", ["method", "method, old", "dataset", "operations"])
def test_what_a_run_folder_names_is_not_executed(field, run, tmp_path, capfd, seen):
    """Neither by reading the run, nor by the button that resumes it, in the form of an older version or of this one."""
    program, marker = tmp_path / "program.py", tmp_path / "executed"
    program.write_text(PROGRAM.format(marker=str(marker)))
    name = "Mine" if field.startswith("method") else "mine"
    digest = hashlib.sha256(program.read_bytes()).hexdigest()[:16]
    document = json.loads((run / "config.json").read_text())
    among = ",skip_connect" if field == "operations" else ""  # a set of one is refused for that
    changes = {field.split(",")[0]: f"{program}:{name}{among}"}
    if field == "method, old":
        del document["config"]["numbers"]
    else:
        changes |= {"method": {"method_digest": digest}, "operations": {"operations_digest": digest}}.get(field, {})
    document["config"] |= changes
    (run / "config.json").write_text(json.dumps(document))
    shown = ["genotype", str(run)], ["gap", str(run)], ["draw", str(run / "genotype.json")]
    assert [main(words) for words in shown] == [2, 2, 2] and not live.known(tmp_path)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 3
    seen(lines[0], 2)
    # One who takes care that the hash agrees as well; with what an older version wrote there is none.
    if field == "method, old":
        with pytest.raises(LabError, match="executed only where it is named"):
            _hash_of(document["config"])
    else:
        document["hash"] = _hash_of(document["config"])
        (run / "config.json").write_text(json.dumps(document))
        assert main(shown[1]) == 2
        with pytest.raises(LabError, match="executed only where it is named"):
            live.start(read_config(run), run)
        seen(capfd.readouterr().err.splitlines()[-1], 2)
    assert not marker.exists()


def _hash_of(document):
    from daas_lab.identity import config_hash, from_document

    return config_hash(from_document("search", document))


@pytest.mark.slow
@pytest.mark.fault("links that lead out of the run folder")
@pytest.mark.parametrize("name", [*WHOLE, "log.txt"])
def test_nothing_is_written_through_a_link(name, whole, tmp_path, capfd, seen):
    """A folder, as an archive may bring it, in which a name leads to a file of the user's elsewhere."""
    outside, run = tmp_path / "outside", tmp_path / "run"
    outside.write_text("mine")
    run.mkdir()
    (run / name).symlink_to(outside)
    (run / f".checkpoint.pt.{os.getpid()}.tmp").symlink_to(outside)
    if name == "log.txt":
        live.start(read_config(whole), run)
        assert live._started.pop(run).wait() == 0
    elif main(command(run)) == 2:
        seen(capfd.readouterr().err.splitlines()[-1], 2)
    assert outside.read_text() == "mine"


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault("learning rates of 1e30 and the like")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rate": 1e30}, "architecture_loss = nan in epoch 1, step 2"),
        ({"learning_rate": 1e30, "steps": 1}, "held_out_loss = nan in epoch 1, step 1"),
        ({"arch_learning_rate": 1e30}, "train_loss = nan in epoch 1, step 2"),
        ({"weight_decay": 1e30}, " = nan in epoch 1, step 2"),
        ({"arch_weight_decay": 1e38, "arch_learning_rate": 1e30}, "train_loss = nan in epoch 1, step 1"),
    ],
)
def test_numbers_that_overflow_stop_a_search_with_epoch_step_and_term(changes, words, tmp_path, capfd, seen):
    settings = {"steps": 2, "alpha_delay": 0} | changes
    assert (
        main(command(tmp_path / "run", *(w for item in settings.items() for w in ("--set", "{}={}".format(*item)))))
        == 2
    )
    line = capfd.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert words in line and not is_finished(tmp_path / "run") and epochs_done(tmp_path / "run") == 0
    seen(line, 2)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["darts", "da2s", "da2s_exact"])
def test_alphas_and_betas_of_1e4_are_searched_with(method, tmp_path):
    noise = ["--set", "initial_noise=1e4", "--set", "arch_learning_rate=1e4", "--method", method]
    assert main(command(tmp_path / "run", *noise)) == 0
    run = read_run(tmp_path / "run")
    assert abs(run.alphas["normal"]).max() > 1e4
    losses = [value for record in run.history for value in record.values()]
    assert torch.tensor(losses).isfinite().all()


@pytest.mark.fault("a batch larger than the set")
def test_a_batch_larger_than_the_set_is_refused(tmp_path, capfd, seen):
    assert main(command(tmp_path / "run", "--set", "batch_size=97")) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert "batch_size = 97: must be at most weight_images = 96" in line and not (tmp_path / "run").exists()
    seen(line, 2)


# --- while it is written ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_can_be_read_at_any_moment_while_it_is_written(whole, tmp_path):
    """A reader that never stops meets whole epochs only, those of the run that it then becomes."""
    folder = tmp_path / "run"
    process = CONTEXT.Process(target=_run, args=(command(folder), tmp_path / "log", None))
    process.start()
    wait_until((folder / "config.json").is_file)
    found = []
    while process.is_alive():
        run = read_run(folder)
        assert run.config == read_config(whole) and isinstance(run.config, SearchConfig)
        found.append(len(run.history))
        assert found[-1] == 0 or len(run.alphas["normal"]) == found[-1] + 1
    process.join()
    assert process.exitcode == 0 and found == sorted(found) and content(folder) == content(whole)
    assert len({epochs for epochs in found if epochs < len(read_run(whole).history)}) > 1  # or nothing was seen of it
