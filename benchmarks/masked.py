"""Forward pass and generation under a mask, against the dense model."""

import torch

from benchmarks.measure import Arm, interleaved, ratio
from benchmarks.rows import Row
from benchmarks.setting import Setting
from benchmarks.signature import bare_forward
from benchmarks.switch import two_poles
from persona_prune.masks.applying import masked
from persona_prune.models.rows import Row as BatchRow
from persona_prune.models.rows import pack

_ROWS = 8
_NOISE = 0.02  # ratios of dense to dense are rarely nearer to one than this


def measure(setting: Setting) -> list[Row]:
    """Compare masked with dense, and dense with dense again for what is noise."""
    mask, _ = two_poles(setting)
    rows = setting.rows(setting.pairs())[:_ROWS]
    prompts = [row.prompt for row in rows[: 2 if setting.quick else 8]]
    tokens = 4 if setting.quick else 32

    def answer(_: int) -> None:
        answers_of_length(setting, prompts, tokens)

    def under_mask() -> object:
        return masked(setting.loaded.model, mask, model_fingerprint=setting.loaded.fingerprint)

    found = []
    for what, run in (
        ("masked forward pass", lambda _: bare_forward(setting, rows, _ROWS)),
        (f"masked generation, {tokens} tokens", answer),
    ):
        run(0)
        arms = {"masked": Arm(run, under_mask), "dense": Arm(run), "dense again": Arm(run)}  # type: ignore[arg-type]
        seconds = interleaved(arms, max(3, setting.rounds), setting.device)
        same = ratio(seconds["dense again"], seconds["dense"])
        noise = max(_NOISE, abs(same.median - 1), same.high - same.median, same.median - same.low)
        value = ratio(seconds["masked"], seconds["dense"])
        found.append(
            Row(
                "masked",
                what,
                f"masked / dense; dense / dense varies by {noise:.2f}",
                value,
                at_least=1 - noise,
                at_most=1 + noise,
                detail={"seconds": seconds, "noise": noise},
            )
        )
    return found


@torch.inference_mode()
def answers_of_length(setting: Setting, prompts: list[tuple[int, ...]], tokens: int) -> None:
    """Generate exactly ``tokens`` tokens after every prompt: a masked model that stops sooner would seem faster."""
    loaded = setting.loaded
    batch = pack([BatchRow(prompt, ()) for prompt in prompts], loaded.pad_id, loaded.model.device)
    loaded.model.generate(
        input_ids=batch.input_ids,
        attention_mask=(batch.branch >= -1).long(),
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=loaded.pad_id,
    )
