"""Reading back what W&B wrote offline: a LevelDB log (7-byte file header, 32 KiB blocks) of protobuf records."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_BLOCK, _HEADER = 32768, 7
_FULL, _FIRST, _LAST = 1, 2, 4


def records(path: Path) -> Iterator[Any]:
    data, at, parts = path.read_bytes(), _HEADER, b""
    assert data[:4] == b":W&B"
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


def read_run(directory: Path) -> dict[str, Any]:
    """Return name, group, job type, tags, config and summary of the one offline run in ``directory/wandb``."""
    (file,) = directory.glob("wandb/offline-run-*/*.wandb")
    found: dict[str, Any] = {"summary": {}, "config": {}}
    for record in records(file):
        if record.HasField("run"):
            found["name"], found["group"] = record.run.display_name, record.run.run_group
            found["job_type"], found["tags"] = record.run.job_type, list(record.run.tags)
            found["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.HasField("summary"):
            for item in record.summary.update:
                found["summary"][item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return found
