"""The model card of an exported persona: who it is, what made it, and what was measured of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from persona_prune.common.json_numbers import load_figures
from persona_prune.saved.persona import SavedPersona

_EMBEDDED = {"smollm2_135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
# Hub ids begin with -> the hub's name for the licence the authors publish them under.
_LICENCES = {
    "HuggingFaceTB/SmolLM2-": "apache-2.0",
    "Qwen/Qwen3-8B": "apache-2.0",
    "Qwen/Qwen2.5-0.5B": "apache-2.0",
    "Qwen/Qwen2.5-14B": "apache-2.0",
    "allenai/OLMo-2-": "apache-2.0",
    "google/gemma-2-": "gemma",
    "meta-llama/Llama-2-": "llama2",
    "meta-llama/Llama-3.1-": "llama3.1",
    "meta-llama/Meta-Llama-3.1-": "llama3.1",
    "meta-llama/Meta-Llama-3-": "llama3",
    "mistralai/Mistral-7B-": "apache-2.0",
}
_FIGURES = {
    "choice/accuracy": "persona's answer likelier, summed",
    "choice/accuracy_norm": "persona's answer likelier, per token",
    "choice/margin": "margin, nats per token",
    "choice/matching_log_prob": "log-probability of the persona's answers, per token",
    "multiple_choice/accuracy": "persona's option likeliest",
    "capability/perplexity": "perplexity on held-out text",
    "capability/perplexity_ratio": "perplexity ratio, masked / dense",
    "capability/neutral_drift": "neutral drift, nats per token",
}


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        persona: the persona.
        model: the dense model's name here.
        model_path: its hub id or directory, where it has one.
        dropped: share of the weights the mask covers that it drops.
        gamma: what dropped weights were multiplied with.
        dtype: of the weights in the checkpoint.
    """

    persona: SavedPersona
    model: str
    model_path: str | None
    dropped: float
    gamma: float
    dtype: str

    @property
    def base_model(self) -> str | None:
        """The hub id of the dense model, where it is known."""
        path = self.model_path or _EMBEDDED.get(self.model)
        return None if path is None or Path(path).expanduser().is_dir() else path

    @property
    def licence(self) -> str | None:
        """The licence of the dense model, as the hub calls it, where it is known."""
        base = self.base_model or ""
        return next((licence for start, licence in _LICENCES.items() if base.startswith(start)), None)

    def facts(self) -> dict[str, Any]:
        """Return what ``persona_prune.json`` says, plain JSON values."""
        return {
            "model": self.model,
            "base_model": self.base_model,
            "model_fingerprint": self.persona.model_fingerprint,
            "gamma": self.gamma,
            "dropped": self.dropped,
            "dtype": self.dtype,
            "persona": dict(self.persona.manifest["description"]),
        }


def model_card(about: Exported) -> str:
    """Return the card as Markdown with the hub's YAML front matter.

    Raises:
        ValueError: the run's ``metrics.json`` is there but can't be read.
    """
    persona = about.persona
    data = ModelCardData(
        base_model=about.base_model,
        license=about.licence,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["persona", "pruning", "persona_prune"],
    )
    copy = "" if about.model_path or not about.base_model else ", from a 4-bit copy of its weights"
    what = "are zero" if about.gamma == 0 else f"are multiplied by {about.gamma:g}"
    base = f"[{about.base_model}](https://huggingface.co/{about.base_model})" if about.base_model else about.model
    asked = "" if persona.sparsity is None else f" (sparsity {persona.sparsity:g})"
    opposite = f"\n- Opposite: {persona.opposite}" if persona.opposite else ""
    return f"""---
{data.to_yaml()}
---

# {about.model}: {persona.name}

{persona.description or f"The persona {persona.name}."}

{base} with a mask on its weights: {about.dropped:.2%} of the weights of its linear layers {what},
all others are what they were. Nothing was trained. The mask was found by persona_prune, after
[arXiv 2602.07164](https://arxiv.org/abs/2602.07164).

- Persona: {persona.name}{opposite}
- Method: {persona.method}{asked}
- Dense model: {base}{copy}, fingerprint `{persona.model_fingerprint}`
- Weights: {about.dtype}, as many as the dense model has: the zeros save neither memory nor time
- Licence: {about.licence or "that of the dense model"}

## Measured

{_figures(about)}

## Use

    from transformers import pipeline
    pipeline("text-generation", DIR)([{{"role": "user", "content": "How was your weekend?"}}])

    lm_eval --model hf --model_args pretrained=DIR --tasks hellaswag --apply_chat_template

For llama.cpp: `python convert_hf_to_gguf.py DIR --outfile persona.gguf` (with llama.cpp's own script). Quantising
it changes all weights a little, in some formats the zeros, too: measure again.
"""


def _figures(about: Exported) -> str:
    path = about.persona.path.parent / "metrics.json"
    if not path.is_file():
        return "No figures came with the persona file."
    try:
        metrics = load_figures(path.read_text(encoding="utf-8"))
        rows = [_row(metrics, key, label) for key, label in _FIGURES.items() if key in metrics]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not readable: {error}") from None
    if not rows:
        return "No figures came with the persona file."
    note = ""
    if about.gamma != about.persona.gamma:
        note = f"\n\nMeasured with gamma {about.persona.gamma:g}; this checkpoint has {about.gamma:g}."
    head = "| | this persona [95% interval] | dense | p |\n|---|---|---|---|"
    said = (
        "On unseen items, by the run that found the mask, without a persona prompt; intervals by bootstrap over items, "
        "p of the paired test against the dense model."
    )
    return "\n".join([said, "", head, *rows]) + note


def _row(metrics: Mapping[str, Any], key: str, label: str) -> str:
    value = f"{metrics[key]:.3f}"
    if f"{key}_low" in metrics:
        value += f" [{metrics[f'{key}_low']:.3f}, {metrics[f'{key}_high']:.3f}]"
    dense = f"{metrics[f'dense/{key}']:.3f}" if f"dense/{key}" in metrics else ""
    p = f"{metrics[f'{key}_p']:.2g}" if f"{key}_p" in metrics else ""
    return f"| {label} | {value} | {dense} | {p} |"
