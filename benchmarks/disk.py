"""What a persona takes on disk."""

from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import reference
from benchmarks.measure import exactly
from benchmarks.rows import Row
from benchmarks.setting import Setting, plan
from persona_prune.runs.builder import Builder
from persona_prune.runs.directory import RunDirectory
from persona_prune.saved.mask_file import save_mask

_METHODS = {
    "wanda": ["method=wanda"],
    "sparse": ["method=sparse"],
    "contrastive_wanda": ["method=contrastive_wanda"],
    "contrastive_sparse": ["method=contrastive_sparse"],
    "contrastive_taylor, rank 4": ["method=contrastive_taylor", "method.rank=4"],
    "contrastive_taylor": ["method=contrastive_taylor"],
}
_EXPLICIT = {"contrastive_taylor"}  # its mask itself is stored
# What is stored does not depend on how much was read: a few pairs, and no search for what a budget allows.
_LESS = ["calibration.limit=8"]
_LESS_BY_GRADIENT = [
    "method.neutral_prompts=4",
    "method.neutral_per_round=4",
    "method.neutral_tokens=4",
    "method.generic_tokens=512",
    "method.max_perplexity_ratio=null",
    "method.max_neutral_drift=null",
    "method.max_first_word_shift=null",
    "method.max_own_loss=null",
]


def measure(setting: Setting) -> list[Row]:
    """Compare with one bool file per Linear and pole, and an explicit mask with its entropy."""
    rows = []
    files: int | None = None
    for label, overrides in _METHODS.items():
        less = [*_LESS, *(_LESS_BY_GRADIENT if "taylor" in label else [])]
        chosen = plan(f"model={setting.model}", f"model.dtype={setting.dtype}", *overrides, *less)
        with TemporaryDirectory() as name:
            directory = Path(name)
            built = Builder(chosen, setting.loaded, RunDirectory(directory)).build()
            if built is None or built.mask is None:
                raise ValueError(f"{label}: no mask was built")
            size = built.save(directory / "persona.safetensors")
            if files is None:
                bools = {linear: built.mask.keep(linear) for linear in setting.linears}
                files = 2 * reference.save_bool_files(directory, bools)
            explicit = directory / "explicit.safetensors"
            stored = save_mask(built.mask, explicit) if label not in _EXPLICIT else size
        detail = {"bytes": size, "bool_files_bytes": files, "sparsity": built.mask.sparsity, "explicit_bytes": stored}
        # As many persona files: what one pole's holds is not always enough for the other.
        against = f"{2 * len(setting.linears)} bool files of two poles / 2 files of {size / 1e6:.2f} MB"
        bound = None if label in _EXPLICIT else 100.0
        rows.append(
            Row(
                "disk", f"persona on disk, {label}", against, exactly(files / (2 * size)), at_least=bound, detail=detail
            )
        )
        of_entropy = exactly(stored / built.mask.entropy)
        what = f"its {built.mask.sparsity:.1%} mask stored explicitly"
        rows.append(Row("disk", what, "bytes / entropy", of_entropy, at_most=1.3, detail=detail))
    return rows
