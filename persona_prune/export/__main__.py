"""Write a persona as an ordinary checkpoint: ``python -m persona_prune.export persona_file=FILE output_dir=DIR``.

The masked model with zeros in place of what the persona drops, as transformers, vLLM, lm-eval or a GGUF conversion
(``docs/export.md``) read it.

    persona_file=FILE    a persona file, or a run directory
    output_dir=DIR       where to; an earlier export there is replaced, anything else is refused
    model=NAME           a model's name, directory or hub id; default: the model of the persona's run
    dtype=float32        float32, bfloat16 or float16; default: what the model is loaded in
    gamma=0.0            what dropped weights are multiplied with, in [0, 1); default: what the run used
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass

from persona_prune.common.cli import FROM_TEXT, run_command
from persona_prune.common.text_files import write_text
from persona_prune.common.validation import Fraction
from persona_prune.export.model_card import Exported, model_card
from persona_prune.masks.applying import check_fits, check_gamma, dropped_positions, gated, weights_at, write_weights
from persona_prune.models.sources import ModelSpec
from persona_prune.saved.persona import SavedPersona
from persona_prune.saved.rebuilt_run import model_of

_MARK = "persona_prune.json"  # tells an export from a directory of somebody's work


@dataclass(frozen=True, kw_only=True, config=FROM_TEXT)
class ExportSettings:
    """The command line; see the module."""

    persona_file: str
    output_dir: str
    model: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    gamma: Fraction | None = None


def export_checkpoint(
    persona: SavedPersona, spec: ModelSpec, output_dir: Path, *, dtype: torch.dtype | None, gamma: float | None
) -> Exported:
    """Load the model, drop what the persona drops and write it, with tokenizer and model card; all or nothing.

    Args:
        persona: who the model is to be.
        spec: loads the dense model, which this function keeps to itself.
        output_dir: where to.
        dtype: of the weights in the checkpoint; None for what the model is loaded in. The mask is applied before.
        gamma: what dropped weights are multiplied with, in [0, 1); None for what the persona's run used.

    Raises:
        OSError: the model or the persona file is gone, or ``output_dir`` can't be written.
        ValueError: the persona is of another model, ``gamma`` is out of range, or ``output_dir`` is in use.
    """
    factor = persona.gamma if gamma is None else gamma
    check_gamma(factor)
    _check_free(output_dir)
    loaded = spec.load()
    mask = persona.mask(loaded.linears)
    for name, module in check_fits(loaded.model, mask, loaded.fingerprint).items():
        positions = dropped_positions(mask, name, module.weight.device)
        write_weights(module, positions, gated(weights_at(module, positions), factor))
    if dtype is not None:
        loaded.model.to(dtype)
    about = Exported(
        persona=persona,
        model=loaded.name,
        model_path=getattr(spec, "path", None),
        dropped=mask.sparsity,
        gamma=factor,
        dtype=str(loaded.model.dtype).removeprefix("torch."),
    )
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}.partial-", dir=output_dir.parent))
    try:
        _write(loaded.model, loaded.tokenizer, about, partial)
        _put_in_place(partial, output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return about


def _write(model: Any, tokenizer: Any, about: Exported, directory: Path) -> None:
    # The card needs what the run measured: unreadable figures are known before gigabytes are written.
    write_text(directory / "README.md", model_card(about))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    write_text(directory / _MARK, json.dumps(about.facts(), indent=2) + "\n")
    # Made for its owner alone, as temporary files are: whoever may read other files may read these.
    mask = os.umask(0)
    os.umask(mask)
    for path in (directory, *directory.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _check_free(output_dir: Path) -> None:
    """Raise ValueError if ``output_dir`` holds anything but an earlier export."""
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"output_dir={output_dir} is a file")
    if output_dir.is_dir() and any(output_dir.iterdir()) and not (output_dir / _MARK).is_file():
        raise ValueError(f"output_dir={output_dir} holds files that are no export: choose another directory")


def _put_in_place(partial: Path, output_dir: Path) -> None:
    """Rename the finished directory; an earlier export is there until the new one is."""
    _check_free(output_dir)
    if not output_dir.exists():
        partial.rename(output_dir)
        return
    earlier = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}.earlier-", dir=output_dir.parent))
    output_dir.rename(earlier / "export")
    try:
        partial.rename(output_dir)
    except OSError:
        (earlier / "export").rename(output_dir)
        raise
    finally:
        shutil.rmtree(earlier, ignore_errors=True)


def _export(settings: ExportSettings) -> None:
    persona = SavedPersona.load(settings.persona_file)
    output_dir = Path(settings.output_dir).expanduser().absolute()
    dtype = None if settings.dtype is None else getattr(torch, settings.dtype)
    spec = model_of(persona, settings.model)
    about = export_checkpoint(persona, spec, output_dir, dtype=dtype, gamma=settings.gamma)
    size = sum(file.stat().st_size for file in output_dir.iterdir()) / 2**20
    print(f"{about.model} as {persona.name}, {about.dropped:.2%} of its weights dropped, {about.dtype}, {size:.0f} MB")
    print(f"checkpoint: {output_dir}")


def main(arguments: list[str]) -> int:
    """Export; return 0 done, 2 bad input, 130 interrupted."""
    return run_command(ExportSettings, arguments, __doc__ or "", _export)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
