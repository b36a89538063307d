"""Where a Linear stands in a model: its layer, its own name, attention or MLP."""

from dataclasses import dataclass

OUTSIDE = "outside layers"
"""Label of the Linears that belong to no numbered layer."""


@dataclass(frozen=True)
class Place:
    """Where a Linear stands: its layer (None outside layers), its own name, and attention, MLP or other."""

    layer: int | None
    module: str
    block: str


def place(name: str) -> Place:
    """Read the place of a Linear off its name: the layer is the first number, the module the last word."""
    components = name.split(".")
    numbers = [int(component) for component in components if component.isdigit()]
    words = [component for component in components if not component.isdigit()]
    if any("attn" in word or "attention" in word for word in words):
        block = "attention"
    elif any(part in word for word in words for part in ("mlp", "ffn", "feed_forward")):
        block = "MLP"
    else:
        block = "other"
    return Place(numbers[0] if numbers else None, words[-1], block)
