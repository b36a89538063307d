"""Putting names beside points of a plot without covering points or other names."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

_SIZE = 8.0  # points
_WIDTH = 0.58  # of a character, in sizes; browsers' fonts are narrower than that
_LONGEST = 28
_GAP = 6.0  # pixels

Box = tuple[float, float, float, float]


def place_labels(axes: Axes, points: Sequence[tuple[float, float]], names: Mapping[tuple[float, float], str]) -> None:
    """Write names beside points; a name for which there is no room is left to the point's tooltip.

    The figure's layout has to be final.

    Args:
        axes: where the points are drawn.
        points: all of them, in data coordinates.
        names: the ones to name.
    """
    drawing = axes.get_figure(root=True)
    scale = drawing.dpi / 72 if drawing else 1.0  # pixels a point
    pixels = {point: tuple(axes.transData.transform(point)) for point in dict.fromkeys(points)}
    taken: list[Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y in pixels.values()]
    frame = axes.bbox.extents
    for point, name in names.items():
        shown = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."
        x, y = pixels[point]
        width, height = len(shown) * _SIZE * _WIDTH * scale, _SIZE * 1.15 * scale
        for box, alignment in _places(x, y, width, height):
            inside = box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                left = box[0] if alignment == "left" else box[2] if alignment == "right" else (box[0] + box[2]) / 2
                where = axes.transData.inverted().transform((left, (box[1] + box[3]) / 2))
                axes.text(where[0], where[1], shown, fontsize=_SIZE, ha=alignment, va="center")
                break


def _places(x: float, y: float, width: float, height: float) -> list[tuple[Box, str]]:
    """Return where a name may stand: the corners, which bars leave free, then beside, above and below."""
    right, left = x + _GAP, x - _GAP - width
    middle, above, below = y - height / 2, y + _GAP / 2, y - _GAP / 2 - height
    corners = [
        (right, above, "left"),
        (left, above, "right"),
        (right, below, "left"),
        (left, below, "right"),
        (right, middle, "left"),
        (left, middle, "right"),
        (x - width / 2, above, "center"),
        (x - width / 2, below, "center"),
    ]
    return [((a, b, a + width, b + height), alignment) for a, b, alignment in corners]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
