"""The drawings of the explorer in JupyterLab's theme.

They have the colours of a white sheet, as which they are saved. On the page a stylesheet gives JupyterLab's variable to
all that is no colour of its own, and makes the others as bright as a dark theme needs: it follows when the user
switches.
"""

from daas_lab.lab.explorer import SHADE
from daas_lab.report.drawing import CONCAT_COLOUR, DROPPED_COLOUR, FILLS
from daas_lab.report.plots import FAINT, INK, LINE_COLOURS
from daas_lab.space.operations import OPERATIONS

VIEW = "daas-view"  # the class of what the stylesheet is for
VARIABLES = {
    "white": "layout-color0",
    FILLS["node"]: "layout-color0",
    FILLS["input"]: "layout-color2",
    FILLS["output"]: "layout-color2",
    INK: "content-font-color1",
    "#555555": "content-font-color2",
    "#777777": "content-font-color2",
    CONCAT_COLOUR: "content-font-color3",
    "#999999": "content-font-color3",
    DROPPED_COLOUR: "content-font-color3",
    FAINT: "border-color0",
    "#E4E4E4": "border-color2",
    "#EEEEEE": "border-color2",
}
BRIGHT = 0.65  # lightness from 0 to 1 that a colour has at least on a dark ground


def own_colours() -> list[str]:
    """Those that mean something: operations, lines, shades."""
    return list(dict.fromkeys([*(operation.colour for operation in OPERATIONS.values()), *LINE_COLOURS, SHADE]))


def stylesheet() -> str:
    """The HTML element by which the drawings in elements of the class `VIEW` follow the theme of the page."""
    rules = [(f".{VIEW}", colour, f"var(--jp-{name}, {colour})") for colour, name in VARIABLES.items()]
    dark = f'[data-jp-theme-light="false"] .{VIEW}'
    rules += [(dark, colour, f"oklch(from {colour} max(l, {BRIGHT}) c h)") for colour in own_colours()]
    lines = [
        f'{where} svg[{kind}="{colour}"], {where} svg [{kind}="{colour}"] {{ {kind}: {value}; }}'
        for where, colour, value in rules
        for kind in ("fill", "stroke")
    ]
    return "\n".join(["<style>", *lines, "</style>"])
