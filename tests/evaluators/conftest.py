from pathlib import Path

import pytest

from tests.evaluators.lm_eval_support import TASK, write


@pytest.fixture
def without_stock_tasks(monkeypatch):
    """Indexing lm-eval's own tasks takes a quarter of a minute."""
    from persona_prune.evaluators import lm_eval_bridge

    index = lm_eval_bridge.task_index
    monkeypatch.setattr(
        lm_eval_bridge, "task_index", lambda where, stock, metadata: index(where, stock=False, metadata=metadata)
    )


@pytest.fixture
def directory(tmp_path) -> Path:
    """One that holds a task of lm-eval with its four questions."""
    write(tmp_path, TASK)
    return tmp_path
