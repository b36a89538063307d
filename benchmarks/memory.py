"""Peak memory of signature, mask and switch, each in a process of its own, beside the weights."""

from benchmarks.measure import exactly, in_child
from benchmarks.rows import Row
from benchmarks.setting import Setting


def measure(setting: Setting) -> list[Row]:
    """Return the peak of each, without what Python and its libraries take, over the size of the model's weights."""
    found = []
    for name in ("signature", "mask", "switch"):
        child = in_child("benchmarks.peaks", name, setting.model, setting.dtype, *(["quick"] * setting.quick))
        value = exactly(child["used_mb"] / child["weights_mb"])
        against = f"{child['used_mb']:.0f} MB / weights of the whole model"
        found.append(Row("memory", f"peak memory, {name}", against, value, detail=child))
    return found
