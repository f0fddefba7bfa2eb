"""What a GPU computes. Without one: shapes, devices and types of the CUDA path, on tensors that hold nothing; the rest
is for whoever has one, `make test-cuda`."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from daas_lab.compose import retrain_config, search_config
from daas_lab.networks.fast_supernet import FastSuperNetwork
from daas_lab.networks.supernet import SuperNetwork
from daas_lab.runs.folder import read_run
from daas_lab.space.cell_space import CELL_TYPES
from daas_lab.studies import estimate
from daas_lab.train.cut import cut
from daas_lab.train.loop import forward, fuses_sgd, place, prepare
from daas_lab.train.retrain import retrain
from daas_lab.train.search import build_supernet, search
from tests.killing import stopped_in_every_epoch
from tests.test_field_sampled import BUDGETS, SHORT, TRAINED

PRECISIONS = ("float32", "bfloat16", "float16")
SIZES = {"threads": 1, "layers": 3, "channels": 8, "side": 16, "batch_size": 8}
needs_gpu = pytest.mark.cuda


def config_of(method="da2s", **changes):
    return search_config("tiny", "digits", method, **SIZES | changes)


def images(config, device, dtype=torch.float32):
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(config.batch_size, config.image_channels, config.side, config.side, generator=draws, dtype=dtype)
    return x.to(device).contiguous(memory_format=torch.channels_last), torch.arange(len(x), device=device) % 10


# --- without a GPU ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize(("precision", "training"), [*((name, True) for name in PRECISIONS), ("float32", False)])
def test_the_forward_pass_stays_on_its_device(precision, training):
    config = config_of()
    with FakeTensorMode(), torch.device("cuda"), torch.no_grad():
        network = build_supernet(config, FastSuperNetwork).train(training)
        logits = forward(network, precision, torch.randn(8, 1, 16, 16))
        assert (logits.device.type, logits.dtype, logits.shape) == ("cuda", torch.float32, (8, 10))


def test_candidates_can_leave_a_network_that_is_elsewhere():
    here, elsewhere = (build_supernet(config_of(), FastSuperNetwork).to(device) for device in ("cpu", "meta"))
    draws = torch.Generator().manual_seed(0)
    candidates = {name: torch.rand(14, 7, generator=draws) < 0.7 for name in CELL_TYPES}  # as `remaining` gives them
    for network in (here, elsewhere):
        network.keep(candidates)
    assert elsewhere.state_dict().keys() == here.state_dict().keys()
    assert all(weight.is_meta for weight in elsewhere.weight_parameters())


@pytest.mark.parametrize(("precision", "fused"), [("float32", True), ("bfloat16", True), ("float16", False)])
def test_sgd_is_fused_where_no_scaler_skips_the_step_that_makes_its_momentum(precision, fused):
    assert fuses_sgd(config_of(precision=precision), SimpleNamespace(is_cuda=True)) == fused
    assert not fuses_sgd(config_of(precision=precision), SimpleNamespace(is_cuda=False))
    groups = [{"params": [torch.zeros(1, requires_grad=True)]}]
    rules = {"lr": 1.0, "weight_decay": 0.0, "fused": True}
    assert not config_of("gold_nas").searcher.optimizer(groups, **rules).param_groups[0]["fused"]


class Counted(TorchDispatchMode):
    """How many operations reach the device: on a GPU a kernel each, or more."""

    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        self.operations += not function.is_view
        return function(*arguments, **named or {})


def test_a_step_of_the_fast_form_asks_for_half_the_operations():
    config, counts = config_of(layers=4), {}
    for form in (SuperNetwork, FastSuperNetwork):
        network = build_supernet(config, form)
        x, _ = images(config, "cpu")
        with Counted() as counted:
            forward(network, "float32", x).sum().backward()
        counts[form] = counted.operations
    assert counts[FastSuperNetwork] < 0.6 * counts[SuperNetwork], counts


# --- with one ---------------------------------------------------------------------------------------------------------


def gradients(network, x, y, precision="float32"):
    logits = forward(network, precision, x)
    torch.nn.functional.cross_entropy(logits, y).backward()
    return logits.detach().double().cpu(), torch.cat([p.grad.double().cpu().flatten() for p in network.parameters()])


@needs_gpu
@pytest.mark.parametrize(("precision", "within"), [("float32", 1e-3), ("bfloat16", 0.2), ("float16", 0.05)])
def test_logits_and_gradients_are_those_of_the_cpu(precision, within):
    config = config_of()
    expected = gradients(build_supernet(config, SuperNetwork).double(), *images(config, "cpu", torch.float64))
    with prepare(config_of(device="cuda", tf32=False, precision=precision)) as device:
        network = build_supernet(config, FastSuperNetwork).to(device, memory_format=torch.channels_last)
        found = gradients(network, *images(config, device), precision)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= within * other.norm()


def parts_and_whole(config, root):
    """The same search twice: stopped after every epoch and begun again, and undisturbed."""

    def train(folder, on_epoch):
        search(config, folder, progress=False, on_epoch=on_epoch)

    return map(read_run, stopped_in_every_epoch(train, root))


@needs_gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_search_goes_on_from_its_checkpoint(precision, tmp_path):
    config = config_of(device="cuda", precision=precision, deterministic=True, epochs=3)
    parts, whole = parts_and_whole(config, tmp_path)
    assert whole.history == parts.history and whole.genotype == parts.genotype


SEARCHES = [(name, {}) for name in TRAINED] + [
    ("da2s_exact", {"retire": 0.05, "steps": 8, "arch_learning_rate": 1.0}),
    ("da2s", {"checkpointed": True}),
    ("da2s", {"precision": "bfloat16", "partial_channels": 4}),
]


@needs_gpu
@pytest.mark.parametrize(("method", "changes"), SEARCHES)
def test_every_method_goes_on_from_its_checkpoint(method, changes, tmp_path):
    gap = {"gap_every": 1, "gap_budgets": " ".join(BUDGETS)}
    given = SHORT | {"budget": BUDGETS[0]} | gap | changes
    parts, whole = parts_and_whole(config_of(method, device="cuda", deterministic=True, **given), tmp_path)
    assert whole.history == parts.history and whole.genotype == parts.genotype
    for name in ("architecture.safetensors", "genotype.json"):
        assert (parts.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name


@needs_gpu
@pytest.mark.filterwarnings("ignore")  # what torch says of its own parts while it compiles
@pytest.mark.parametrize("method", ["da2s", "gdas"])
def test_a_compiled_network_is_the_same_network(method):
    found = {}
    for compiled in (False, True):
        config = config_of(method, device="cuda", tf32=False, compile=compiled, **SHORT, budget=BUDGETS[0])
        with prepare(config) as device:
            network = place(build_supernet(config, FastSuperNetwork), config, device)
            network.at = config.moment(1)
            found[compiled] = gradients(network, *images(config, device))
    for one, other in zip(found[True], found[False], strict=True):
        assert (one - other).norm() <= 1e-3 * other.norm()


@needs_gpu
def test_a_network_that_was_cut_is_trained_on(tmp_path):
    sizes = {"layers": 3, "channels": 4, "epochs": 2, "steps": 2, "threads": 1, "device": "cuda"}
    search(config_of(device="cuda", budget=BUDGETS[0], **SHORT), tmp_path / "run", progress=False)
    cut(tmp_path / "run", BUDGETS[1], tmp_path / "net")
    for name, start in (("kept", {"weights": str(tmp_path / "net")}), ("new", {})):
        genotype = None if start else read_run(tmp_path / "run").genotype
        retrain(retrain_config(genotype, "tiny", "digits", **sizes, **start), tmp_path / name, progress=False)
        assert 0 <= read_run(tmp_path / name).result["test_error"] <= 100


@needs_gpu
def test_no_step_waits_for_the_gpu():
    config = config_of(device="cuda")
    with prepare(config) as device:
        step, batch = estimate.make_search_step(config, device), images(config, device)
        step(*batch)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(*batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_a_pass_of_the_weights_can_be_captured():
    config = config_of("darts", device="cuda")
    with prepare(config) as device:
        network = build_supernet(config, FastSuperNetwork).to(device, memory_format=torch.channels_last)
        x, y = images(config, device)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                torch.nn.functional.cross_entropy(network(x), y).backward()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = torch.nn.functional.cross_entropy(network(x), y)
            loss.backward()
        graph.replay()
        assert loss.isfinite()


@needs_gpu
def test_two_processes_share_a_retraining(tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "daas_lab", "retrain"]
    command += ["--preset", "tiny", "--dataset", "digits", "--genotype", "DARTS_V2", "--device", "cuda"]
    subprocess.run([*command, "--out", str(tmp_path / "run")], check=True, env=os.environ, timeout=300)
    assert read_run(tmp_path / "run").result


@needs_gpu
def test_the_bench_measures_a_gpu():
    command = [sys.executable, "-m", "daas_lab", "bench", "--sizes", "tiny", "--device", "cuda", "--json"]
    assert '"gpu"' in subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
