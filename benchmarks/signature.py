"""Signatures of both answers to 64 prompts: 128 sentences."""

from dataclasses import replace

import torch

from benchmarks import reference
from benchmarks.measure import Arm, interleaved, ratio
from benchmarks.rows import Row
from benchmarks.setting import BATCH, Setting
from persona_prune.models import packing, passes, rows

_REFERENCE_SHARE = 2  # every second prompt: what it costs is proportional to their number


def measure(setting: Setting) -> list[Row]:
    """Compare with one sentence at a time, and with a bare forward pass over the same batches."""
    rows = setting.rows(setting.pairs())
    parts = [[rows[i] for i in part] for part in setting.slices(len(rows))]
    sampled = [part[::_REFERENCE_SHARE] for part in parts]

    def plainly(number: int) -> None:
        for branch in (0, 1):
            reference.signature(setting.loaded.model, setting.linears, sampled[number], branch)

    bare_forward(setting, parts[0][:2], BATCH)
    seconds = interleaved(
        {
            "product": Arm(lambda number: setting.signature(parts[number])),
            "reference": Arm(plainly),
            "floor": Arm(lambda number: bare_forward(setting, parts[number], BATCH)),
        },
        setting.rounds,
        setting.device,
    )
    scales = [len(part) / len(fewer) for part, fewer in zip(parts, sampled, strict=True)]
    faster = ratio(seconds["reference"], seconds["product"], scales)
    slower = ratio(seconds["product"], seconds["floor"])
    what = f"signature of {2 * len(rows)} sentences"
    detail = {"seconds": seconds, "reference_scales": scales}
    bound = 1.05 if setting.device.type == "cuda" else 1.2
    return [
        Row("signature", what, "one at a time, a hook per Linear / product", faster, at_least=4.0, detail=detail),
        Row("signature", what, "product / bare forward, same batches", slower, at_most=bound, detail=detail),
    ]


@torch.inference_mode()
def bare_forward(setting: Setting, rows: list[rows.Row], batch_size: int) -> int:
    """Run the model over packed rows, reading nothing; return how many tokens that took, padding included."""
    model = setting.loaded.model
    shared, rest = packing.split_prefix(model, rows)
    prefix = passes.Prefix(model, shared) if shared else None
    tokens = len(shared)
    for _, batch in packing.laid_out(model, rest, pad_id=setting.pad, batch_size=batch_size):
        passes.forward(model, replace(batch, sources=batch.sources[:1]), prefix)
        tokens += batch.input_ids.numel()
    return tokens
