"""Reading back what W&B wrote offline: a LevelDB log (7-byte file header, 32 KiB blocks) of protobuf records."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_BLOCK, _HEADER = 32768, 7
_FULL, _FIRST, _LAST = 1, 2, 4


def records(path: Path) -> Iterator[Any]:
    data, at, parts = path.read_bytes(), _HEADER, b""
    assert data[:4] in (b":W&B", b"")
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        _checksum, length, kind = struct.unpack_from("<IHB", data, at)
        chunk = data[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        parts = chunk if kind in (_FULL, _FIRST) else parts + chunk
        if kind in (_FULL, _LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record


def read_finished(directory: Path, seconds: float = 120) -> dict[str, Any]:
    """Return what a run says that this process has just finished: W&B writes the end in another process."""
    until = time.monotonic() + seconds
    while (found := read_run(directory))["exit_code"] is None and time.monotonic() < until:
        time.sleep(0.05)
    return found


def read_run(directory: Path) -> dict[str, Any]:
    """Return what the one offline run in ``directory/wandb`` says.

    name, group, job_type, tags, config, summary; ``logged``, the one row of its history; ``best``, metric -> "max" or
    "min"; ``hidden``, metrics without a chart; ``tables``, name -> columns and data; ``artifacts``, by name; exit_code.
    """
    (file,) = directory.glob("wandb/offline-run-*/*.wandb")
    found: dict[str, Any] = {"summary": {}, "config": {}, "logged": {}, "best": {}, "hidden": set(), "artifacts": {}}
    found["exit_code"] = None
    for record in records(file):
        if record.HasField("run"):
            found["name"], found["group"] = record.run.display_name, record.run.run_group
            found["job_type"], found["tags"] = record.run.job_type, list(record.run.tags)
            found["project"], found["entity"], found["id"] = record.run.project, record.run.entity, record.run.run_id
            found["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.HasField("summary"):
            found["summary"] |= _values(record.summary.update)
        if record.HasField("history"):
            assert not found["logged"], "more than one row of history"
            found["logged"] = _values(record.history.item)
        if record.HasField("metric"):
            _define(found, record.metric)
        if record.HasField("artifact"):
            artifact = _artifact(record.artifact)
            found["artifacts"][artifact["name"]] = artifact
        if record.HasField("exit"):
            found["exit_code"] = record.exit.exit_code
    found["tables"] = {
        key.removesuffix("/path"): json.loads((file.parent / "files" / value).read_text(encoding="utf-8"))
        for key, value in found["logged"].items()
        if key.endswith("/path") and str(value).endswith(".table.json")
    }
    return found


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _define(found: dict[str, Any], metric: Any) -> None:
    if metric.summary.max or metric.summary.min:
        found["best"][metric.name] = "max" if metric.summary.max else "min"
    if metric.options.hidden:
        found["hidden"].add(metric.name)


def _artifact(record: Any) -> dict[str, Any]:
    """``used`` tells an input of the run from an output; ``files`` is name -> (MD5 in base64, size, where it lies)."""
    return {
        "name": record.name,
        "type": record.type,
        "digest": record.digest,
        "aliases": list(record.aliases),
        "metadata": json.loads(record.metadata or "{}"),
        "used": record.use_after_commit,
        "files": {file.path: (file.digest, file.size, Path(file.local_path)) for file in record.manifest.contents},
    }
