"""Run directories written by hand, for the tables of the experiments."""

import json

import yaml

from experiments.figures import Difference

ABOVE = Difference(0.2, 0.1, 0.3, 0.01)
FEW = Difference(0.2, 0.1, 0.3, 0.125)  # an interval above zero from four items, of which no test can make anything


def write_run(
    directory,
    method,
    margins,
    *,
    sparsity=None,
    settings=None,
    persona="pirate",
    pairs=None,
    dense=0.0,
    always_yes=None,
    **metrics,
):
    """Write what a run leaves behind, with the given margin of every item, and that of the dense model."""
    (directory / ".hydra").mkdir(parents=True)
    (directory / "samples").mkdir()
    config = {"method": {"name": method}, "persona": {"name": persona, "flip": False}, "seed": 42}
    config |= {"model": {"name": "tiny"}, "calibration": {"limit": pairs}, "evaluator": {"choice": {}}}
    settings = {"sparsity": sparsity, **(settings or {})}
    config["method"] |= {key: value for key, value in settings.items() if value is not None}
    (directory / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    figures = {f"choice/{name}": 0.5 for name in ("accuracy", "accuracy_norm", "margin")}
    figures |= {f"{name}_{end}": 0.5 for name in list(figures) for end in ("low", "high")}
    figures |= {f"dense/{name}": value for name, value in figures.items()} | {"mask/bytes": 1e6} | metrics
    (directory / "metrics.json").write_text(json.dumps(figures))
    (directory / "status.json").write_text('{"status": "done"}')
    rows = [
        {
            "id": place,
            "prompt": f"question {place}",
            "values": {"margin": margin, "always_yes": always_yes},
            "dense_values": {"margin": dense},
            "random_values": {"margin": 1.0},
        }
        for place, margin in enumerate(margins)
    ]
    (directory / "samples" / "choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
