"""What the figures hold: lines, colours, labels, limits. No pixels."""

import json
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb

from daas_lab import paper
from daas_lab.methods import losses, schedules
from daas_lab.methods.lookup import method_class
from daas_lab.own_files import load_own
from daas_lab.report import plots, plots_losses
from daas_lab.space.cell_space import PRIMITIVES, cell_edges
from daas_lab.space.operations import OPERATIONS, OWN_COLOURS, operation_colour

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
# Linear RGB as seen with each dichromacy (Machado, Oliveira and Fernandes 2009, severity 1).
VISION = {
    "full": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.fixture
def weights():
    """Operation weights [4, 14, 7] and edge weights [4, 14] of a made-up search."""
    rng = np.random.default_rng(0)
    return rng.dirichlet(np.ones(7), size=(4, 14)), rng.uniform(size=(4, 14))


def lab(colour, vision):
    rgb = np.array(to_rgb(colour))
    linear = np.clip(np.asarray(vision) @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4), 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    x, y, z = np.cbrt(xyz / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
def test_operation_colours_can_be_told_apart(vision):
    colours = [operation.colour for operation in OPERATIONS.values()] + list(OWN_COLOURS)
    seen = [lab(colour, VISION[vision]) for colour in dict.fromkeys(colours)]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 12  # about 2 is just noticeable


def test_alpha_evolution(weights):
    figure = plots.alpha_evolution(weights[0])
    panels = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title() for ax in panels] == [f"{source} → {node}" for source, node in cell_edges()]
    for e, ax in enumerate(panels):
        assert [to_hex(line.get_color()).upper() for line in ax.lines] == [
            operation_colour(operation) for operation in PRIMITIVES
        ]
        np.testing.assert_array_equal(ax.lines[2].get_ydata(), weights[0][:, e, 2])
        np.testing.assert_array_equal(ax.lines[2].get_xdata(), range(4))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(PRIMITIVES)


@pytest.mark.parametrize("nodes", [3, 4, 7])
def test_evolutions_of_other_cells(nodes, tmp_path):
    edges = len(cell_edges(nodes))
    panels = [ax for ax in plots.alpha_evolution(np.full((2, edges, 7), 1 / 7)).axes if ax.get_visible()]
    assert len(panels) == edges
    figure = plots.beta_evolution(np.ones((2, edges)), first_node=2)
    assert [len(ax.lines) for ax in figure.axes] == list(range(2, nodes))
    plots.save_figure(figure, "beta", tmp_path)


def test_beta_evolution(weights):
    figure = plots.beta_evolution(weights[1])
    assert [ax.get_title() for ax in figure.axes] == ["node 3", "node 4", "node 5"]
    assert [len(ax.lines) for ax in figure.axes] == [3, 4, 5]
    np.testing.assert_array_equal(figure.axes[0].lines[1].get_ydata(), weights[1][:, 3])
    assert figure.axes[2].lines[4].get_label() == "4 → 5"


def test_notebooks_draw_every_node_that_has_beta():
    """Under the protocol `paper` that is node 2 too."""
    for name in ("figure_4_beta_evolution", "00_quickstart"):
        cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
        calls = [line for cell in cells for line in cell["source"] if "beta_evolution(" in line]
        assert calls and all("first_node=first_node" in call for call in calls)


@pytest.mark.parametrize("delayed", [False, True])
def test_control_functions(delayed):
    ax = plots_losses.control_functions(50, delayed=delayed)
    assert [line.get_label() for line in ax.lines] == list(schedules.FUNCTIONS)
    text = "log:delayed" if delayed else "log"
    assert ax.lines[2].get_ydata()[19] == schedules.coefficient(text, 20, 50)
    assert ("8 epochs" in ax.get_title()) == delayed


def test_accuracy_drop_shows_the_papers_numbers():
    ax = plots.accuracy_drop(paper.TABLE_4, chance=10)
    after = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
    assert after["da2s"] == [64.23, 85.42, 71.85, 64.24]
    assert after["chance"] == [10, 10]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["3/14", "4/14", "5/14", "6/14"]
    own = {"budget": "1,1,1,2", "before_mean": 90.0, "after_mean": 80.0, "after_std": 2.0}
    means = plots.accuracy_drop([own | {"method": "da2s", "reported_after": 85.42}, own | {"method": "mine"}])
    after = {line.get_label(): list(line.get_ydata()) for line in means.lines}
    assert after["da2s"] == after["mine"] == [80.0] and after["da2s, paper"] == [85.42] and "mine, paper" not in after


def test_the_papers_number_stands_beside_the_cut_that_is_the_papers():
    own = {"budget": "4/14", "before_mean": 90.0, "after_mean": 80.0, "reported_after": 85.42}
    weights = [own | {"method": f"DA²S, {weight}", "edge_weight": weight} for weight in ("one", "learned")]
    labels = [line.get_label() for line in plots.accuracy_drop(weights).lines]
    assert "DA²S, one, paper" in labels and "DA²S, learned, paper" not in labels
    # One weight for each method: then it is the method's number.
    each = [own | {"method": "darts", "edge_weight": "one"}, own | {"method": "da2s", "edge_weight": "learned"}]
    labels = [line.get_label() for line in plots.accuracy_drop(each).lines]
    assert {"darts, paper", "da2s, paper"} <= set(labels)


@pytest.mark.parametrize(
    ("label", "method"),
    [
        ("da2s", "da2s"),
        ("da2s, learned", "da2s"),
        ("DA²S, the code", "da2s"),
        ("DARTS", "darts"),
        ("DARTS, second order", "darts2"),
        ("exact budgets", "da2s_exact"),
    ],
)
def test_a_method_has_its_colour_by_name_and_by_title(label, method):
    assert plots.method_colour(label, 3) == method_class(method).colour
    assert plots.method_colour("by hand", 3) == plots.LINE_COLOURS[3]


def test_an_operation_of_ones_own_does_not_stand_for_a_method_of_that_name(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("def theirs(*a): pass\n")
    load_own("operations", f"{program}:theirs")
    assert plots.method_colour("theirs", 3) == plots.LINE_COLOURS[3]
    program.write_text('from daas_lab import Method\nclass theirs(Method):\n    colour = "#123456"\n')
    load_own("method", f"{program}:theirs")
    program.write_text("def theirs(*a): ...\n")
    load_own("operations", f"{program}:theirs")
    assert plots.method_colour("theirs", 3) == "#123456"


def test_error_bars_leave_out_what_has_no_result_and_say_what_they_are():
    rows = [
        {"lambda_c": name, "error_mean": mean, "error_std": 0.5, "seeds": [0, 1, 2]}
        for name, mean in (("log", 3.0), ("exp", 2.0), ("step", None))
    ]
    ax = plots.error_bars(rows, "lambda_c")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["log", "exp"]
    assert list(ax.lines[0].get_ydata()) == [3, 2]
    assert ax.get_ylabel() == "test error (%), mean ± std of 3 seeds"
    single = plots.error_bars([{"lambda_c": "log", "error_mean": 3.0, "error_std": None, "seeds": [0]}], "lambda_c")
    assert single.get_ylabel() == "test error (%)"


def test_gap_over_epochs():
    records = [
        {"epoch": epoch, "budget": budget, "before": 80.0 + epoch, "after": 10.0 + epoch}
        for epoch in (1, 3)
        for budget in ("8/14", "3/14")
    ]
    ax = plots.gap_over_epochs(records, chance=10)
    assert [line.get_label() for line in ax.lines] == ["continuous", "3/14", "8/14", "chance"]
    assert list(ax.lines[0].get_ydata()) == [81, 83]
    assert list(ax.lines[1].get_xdata()) == [1, 3]


def test_node_inputs(weights):
    a, b = weights[0][0, 2:5], np.array([0.5, 0.3, 0.2])
    ax = plots.node_inputs(a, b, {"8/14": [0, 1], "6/14": [0]})
    heights = [bar.get_height() for bar in ax.patches]
    np.testing.assert_allclose(heights[::8], b)
    np.testing.assert_allclose(heights[1:8], a[0])
    assert [bar.get_alpha() for bar in ax.patches[::8]] == [1, 1, 0.3]
    assert ax.get_xticklabels()[1].get_text() == "1 → 3\n8/14: kept\n6/14: discarded"


def test_surfaces_draw_trajectories():
    ax = plots_losses.entropy_surface(trajectory=np.array([[1, 1, 1], [0.0, 2, 0]]))
    run = next(line for line in ax.lines if "run" in line.get_label())
    np.testing.assert_allclose(run.get_xydata(), [[0.5, np.sqrt(3) / 6], [1, 0]])
    assert {text.get_text() for text in ax.texts} == {"max_pool_3x3", "skip_connect", "sep_conv_3x3"}
    ax = plots_losses.edge_loss_surface(trajectory=np.array([[0.6, 0.6], [1, -1]]))
    assert "k = 2" in ax.get_title()


def test_an_edges_gradient_stands_beside_the_finite_differences():
    figure = plots_losses.edge_gradient([0.7, 0.3], [-0.2, 0.2], [-0.1, 0.1], PRIMITIVES[:2], title="edge")
    mixture, slope = figure.axes
    assert [bar.get_height() for bar in mixture.patches] == [0.7, 0.3]
    assert [bar.get_height() for bar in slope.patches] == [-0.2, 0.2]
    assert list(slope.lines[0].get_ydata()) == [-0.1, 0.1]
    assert [label.get_text() for label in slope.get_xticklabels()] == list(PRIMITIVES[:2])


def test_eq_2_and_4_agree_with_the_losses():
    generator = torch.Generator().manual_seed(0)
    alphas = torch.randn(5, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    a = alphas.softmax(-1)
    entropy = losses.entropy(alphas)
    np.testing.assert_allclose(plots_losses.simplex_entropy(a.detach()), entropy.detach())
    (gradient,) = torch.autograd.grad(entropy.sum(), alphas)
    _, flow = torch.autograd.functional.jvp(lambda logits: logits.softmax(-1), alphas, -gradient)
    np.testing.assert_allclose(plots_losses.entropy_flow(a.detach()), flow, atol=1e-12)
    betas = 2 * torch.randn(20, 3, dtype=torch.float64, generator=generator)
    expected = [losses.node_edge_loss(row, 2, 0.2) for row in betas]
    np.testing.assert_allclose(plots_losses.node_loss(betas, 2, 0.2), expected)
    # One-hot weights: no entropy, no flow, no warning.
    assert plots_losses.simplex_entropy([1.0, 0, 0]) == 0
    assert (plots_losses.entropy_flow([1.0, 0, 0]) == 0).all()


@pytest.mark.slow
def test_save_figure_is_deterministic_and_small(weights, tmp_path):
    first = plots.save_figure(plots.alpha_evolution(weights[0]), "alpha", tmp_path / "a")
    again = plots.save_figure(plots.alpha_evolution(weights[0]), "alpha", tmp_path / "b")
    assert [path.name for path in first] == ["alpha.svg", "alpha.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert first[1].stat().st_size < plots.PNG_BYTES_BELOW
    assert "<dc:date>" not in first[0].read_text()


def test_given_axes_are_used_and_settings_are_left_alone():
    ax, size = plots.new_axes((3, 2)), matplotlib.rcParams["font.size"]
    assert plots_losses.control_functions(10, ax=ax) is ax
    assert matplotlib.rcParams["font.size"] == size


def test_error_by_accuracy():
    rows = [
        {"method": method, "before": 80.0 + n, "after": 10.0 * n, "error": 12.0 + n}
        for method, count in (("darts", 1), ("da2s", 3))
        for n in range(count)
    ]
    figure = plots.error_by_accuracy_panels(rows, title="All")
    before, after = figure.axes
    assert figure.get_suptitle() == "All" and "before the cut" in before.get_xlabel()
    np.testing.assert_array_equal(before.lines[1].get_xdata(), [80, 81, 82])
    np.testing.assert_array_equal(after.lines[1].get_xdata(), [0, 10, 20])
    np.testing.assert_array_equal(after.lines[1].get_ydata(), [12, 13, 14])
    assert after.lines[1].get_color() == method_class("da2s").colour
    assert [text.get_text() for text in before.get_legend().get_texts()] == ["darts (1)", "da2s (3)"]
    assert plots.error_by_accuracy(rows, accuracy="after", ax=before) is before
