"""What the tests of lm-eval's tasks share: a task of four questions written to files, and the evaluator."""

import json
from pathlib import Path

import yaml

from persona_prune.evaluators.lm_eval_tasks import LMEval

DOCUMENTS = [
    {"ask": "The sky is", "choices": ["blue today", "made of old cheese", "loud"], "right": 0},
    {"ask": "Bread is made from", "choices": ["gravel", "flour and water"], "right": 1},
    {"ask": "At night we", "choices": ["sleep", "photosynthesise in the cellar"], "right": 0},
    {"ask": "A triangle has", "choices": ["nine sides or so", "three sides"], "right": 1},
]
TASK = {
    "task": "local_choice",
    "dataset_path": "json",
    "test_split": "train",
    "output_type": "multiple_choice",
    "doc_to_text": "ask",
    "doc_to_choice": "choices",
    "doc_to_target": "right",
    "metric_list": [
        {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
    ],
}


def write(where: Path, *tasks, documents=DOCUMENTS) -> None:
    data = where / "documents.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    source = {"dataset_kwargs": {"data_files": str(data), "cache_dir": str(where / "cache")}}
    for task in tasks:
        (where / f"{task.get('task', 'group')}.yaml").write_text(yaml.safe_dump({**source, **task}))


def evaluator(*tasks: str, **settings) -> LMEval:
    defaults = {
        "tasks": list(tasks) or None,
        "include_path": None,
        "metadata": None,
        "num_fewshot": None,
        "apply_chat_template": True,
        "limit": None,
        "batch_size": 3,
    }
    return LMEval(**{**defaults, **{k: str(v) if isinstance(v, Path) else v for k, v in settings.items()}})
