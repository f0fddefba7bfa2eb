"""Figures of a search's epochs: what they hold."""

from matplotlib.colors import to_hex

from daas_lab.report import plots_evolution
from daas_lab.report.plots import INK
from daas_lab.space.operations import operation_colour


def test_epoch_summary_has_a_line_for_each_cell_type():
    rows = [
        {
            "epoch": epoch,
            "cell": name,
            "skip_connections": epoch + shift,
            "largest_operation_weight": 0.1 * epoch,
            "operation_entropy": 2.0 - epoch,
            "edge_entropy": 1.0,
        }
        for epoch in range(3)
        for shift, name in ((0, "normal"), (4, "reduce"))
    ]
    figure = plots_evolution.epoch_summary(rows)
    assert len(figure.axes) == 4
    skips, _, entropy, _ = figure.axes
    assert [list(line.get_ydata()) for line in skips.lines] == [[0, 1, 2], [4, 5, 6]]
    assert [line.get_label() for line in skips.lines] == ["normal cell", "reduction cell"]
    assert list(entropy.lines[0].get_xdata()) == [0, 1, 2]
    assert list(entropy.lines[1].get_ydata()) == [2, 1, 0]


def test_settling_draws_a_bar_and_a_mark_for_each_edge():
    row = {"source": 0, "node": 2, "operation": "skip_connect", "operation_epoch": 4, "kept": True, "kept_epoch": 0}
    other = row | {"source": 1, "operation": "sep_conv_3x3", "operation_epoch": 10, "kept": False, "kept_epoch": 7}
    rows = [{"cell": name} | edge for name in ("normal", "reduce") for edge in (row, other)]
    figure = plots_evolution.settling(rows, 10)
    ax = figure.axes[0]
    assert [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches] == [(4, 10), (9.5, 10)]
    assert [to_hex(bar.get_facecolor()).upper() for bar in ax.patches] == [
        operation_colour("skip_connect"),
        operation_colour("sep_conv_3x3"),
    ]
    assert [bar.get_alpha() for bar in ax.patches] == [1.0, 0.35]
    assert [(line.get_xdata()[0], line.get_markerfacecolor()) for line in ax.lines] == [(0, INK), (7, "white")]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["0 → 2", "1 → 2"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["skip_connect", "sep_conv_3x3", "kept since", "left out since"]
