"""What the pictures of `explorer.py` are made of: documents, texts, curves. Plain SVG text."""

import textwrap
from collections.abc import Sequence
from html import escape

from daas_lab.report.plots import INK

FONT = 'font-family="Helvetica, Arial, sans-serif" text-anchor="middle"'
WIDTH, MARGIN = 490, 12  # of a picture, in pixels
LETTERS = 84  # of a line that is as long as a picture is wide


def side_by_side(pictures: Sequence[str], gap: int = 12) -> str:
    """SVG documents made by this module next to each other, as one."""
    sizes = [_size(picture) for picture in pictures]
    x = [sum(width + gap for width, _ in sizes[:n]) for n in range(len(sizes))]
    parts = [picture.replace("<svg ", f'<svg x="{left}" ', 1) for left, picture in zip(x, pictures, strict=True)]
    return document(sum(width for width, _ in sizes) + gap * (len(sizes) - 1), max(h for _, h in sizes), parts)


def note(words: str) -> str:
    """Lines of text in place of a picture."""
    lines = textwrap.wrap(words, LETTERS, break_on_hyphens=False)
    parts = [text(part, MARGIN, 19 + 16 * n, 'text-anchor="start"') for n, part in enumerate(lines)]
    return document(WIDTH, 14 + 16 * len(lines), parts)


def _size(picture: str) -> tuple[float, float]:
    width, height = picture.split('viewBox="0 0 ', 1)[1].split('"', 1)[0].split()
    return float(width), float(height)


def document(width: float, height: float, parts: Sequence[str]) -> str:
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {FONT} fill="{INK}" font-size="10">'
    return "\n".join((start, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"))


def text(words: str, x: float, y: float, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def curves(series, box, limits, epochs: int, cursor: int | None = None) -> list[str]:
    """Lines over the epochs 0 … `epochs` in `box` (left, top, width, height), as parts of an SVG document.

    `series`: (values [T], None where nothing was recorded; colour; dashes). `cursor` marks an epoch.
    """
    left, top, width, height = box
    low, high = limits

    def at(epoch: int, value: float) -> tuple[float, float]:
        return left + width * epoch / max(epochs, 1), top + height * (high - value) / (high - low)

    parts = []
    for tick in (low, (low + high) / 2, high):
        y = at(0, tick)[1]
        parts.append(f'<path d="M{left:.1f},{y:.1f}h{width:.1f}" stroke="#E4E4E4"/>')
        parts.append(text(f"{tick:.3g}", left - 5, y + 3, 'text-anchor="end" font-size="9"'))
    for tick in sorted({0, epochs // 2, epochs}):
        parts.append(text(str(tick), at(tick, low)[0], top + height + 12, 'font-size="9"'))
    if cursor is not None:
        parts.append(f'<path d="M{at(cursor, low)[0]:.1f},{top:.1f}v{height:.1f}" stroke="#999999"/>')
    for values, colour, dashes in series:
        points = [(epoch, at(epoch, value)) for epoch, value in enumerate(values) if value is not None]
        if points:
            parts.append(line("M" + "L".join(f"{x:.1f},{y:.1f}" for _, (x, y) in points), colour, dashes))
        marked = [point for epoch, point in points if epoch == cursor or len(points) == 1]
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in marked]
    return parts


def line(path: str, colour: str, dashes) -> str:
    pattern = "" if dashes == "-" else f' stroke-dasharray="{" ".join(map(str, dashes[1]))}"'
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{pattern}/>'
