"""Persona files are other people's files: whatever is in them, a line that says what is wrong, or a sound mask."""

import json
import random
import struct

import pytest
import safetensors.torch
import torch

from persona_prune.masks.mask import mask_digest, pack_bits
from persona_prune.saved import container
from persona_prune.saved.persona_file import load_persona_mask
from tests.reference.persona_files import joined, one_of_each_format, small_linears, split


@pytest.fixture(scope="module")
def linears():
    return small_linears()


@pytest.fixture(scope="module")
def files(linears, tmp_path_factory):
    return one_of_each_format(linears, tmp_path_factory.mktemp("files"))


HOSTILE = [
    0,
    -1,
    7,
    1.5,
    1e308,
    1 << 62,
    10**40,
    float("nan"),
    float("inf"),
    True,
    None,
    "",
    "x\ny",
    "../../x",
    "a" * 999,
]
HOSTILE += [[], {}, [[1]], {"a": {}}, [1 << 62] * 9, "[" * 9, b"\xff".decode("latin1")]


def edit(node, rng):
    """Replace, remove or add something anywhere in a JSON value."""
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    if not keys:
        return
    key = rng.choice(keys)
    if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.8:
        edit(node[key], rng)
    elif isinstance(node, dict) and rng.random() < 0.3:
        value = node.pop(key)
        if rng.random() < 0.5:
            node[rng.choice(["../x", "bits/y", "", "gate", "q" * 600, "a\nb"])] = value
    elif isinstance(node, list) and rng.random() < 0.3:
        node.append(rng.choice(HOSTILE))
    else:
        node[key] = rng.choice(HOSTILE)


def flip(content, rng):
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 20])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(content, rng):
    return content[: rng.randrange(len(content))]


def insert(content, rng):
    at = rng.randrange(len(content))
    return content[:at] + rng.randbytes(rng.choice([1, 8, 100])) + content[at:]


def header_length(content, rng):
    return struct.pack("<Q", rng.choice([0, 1, 100, len(content), 1 << 20, 1 << 40, (1 << 64) - 1])) + content[8:]


def header_text(content, rng):
    (length,) = struct.unpack("<Q", content[:8])
    text = bytearray(content[8 : 8 + length])
    text[rng.randrange(length)] = rng.choice(b'0123456789"{}[],:-eN\\')
    return content[:8] + bytes(text) + content[8 + length :]


def header_node(content, rng):
    header, payload = split(content)
    edit(header, rng)
    return joined(header, payload)


def manifest_node(content, rng):
    header, payload = split(content)
    manifest = json.loads(header["__metadata__"]["manifest"])
    edit(manifest, rng)
    header["__metadata__"]["manifest"] = json.dumps(manifest)
    return joined(header, payload)


def forged(content, rng):
    """Harm with a checksum that is right."""
    header, payload = split(manifest_node(content, rng) if rng.random() < 0.7 else content)
    tensors = safetensors.torch.load(joined({k: v for k, v in header.items() if k != "__metadata__"}, payload))
    if rng.random() < 0.5:
        name = rng.choice(list(tensors))
        raw = bytearray(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
        raw = flip(raw, rng) if rng.random() < 0.7 else cut(raw, rng)[: len(raw) // 2 * 2]
        changed = torch.frombuffer(bytearray(raw or b"\0\0"), dtype=torch.uint8)
        if tensors[name].dtype == torch.bfloat16:
            changed = changed[: len(changed) // 2 * 2].view(torch.bfloat16)
        tensors[name] = changed.view(tensors[name].shape) if changed.numel() == tensors[name].numel() else changed
    manifest = json.loads(header["__metadata__"]["manifest"])
    manifest["checksum"] = container._checksum(manifest, tensors)
    return safetensors.torch.save(tensors, {"manifest": json.dumps(manifest)})


MUTATIONS = [flip, flip, cut, insert, header_length, header_text, header_node, manifest_node, manifest_node, forged]


def outcome(path, linears):
    """Return the mask of a file, or the line that refuses it."""
    try:
        return load_persona_mask(path, linears)
    except ValueError as error:
        return str(error)


def test_a_thousand_damaged_files_are_refused_or_sound(files, linears, tmp_path):
    rng = random.Random(0)
    path = tmp_path / "p.safetensors"
    refused = dict.fromkeys(files, 0)
    for number in range(1000):
        name = list(files)[number % len(files)]
        content, digest = files[name]
        mutate = MUTATIONS[number // len(files) % len(MUTATIONS)]
        path.write_bytes(mutate(content, rng))
        found = outcome(path, linears)
        if isinstance(found, str):
            assert "\n" not in found
            assert len(found) < 600
            refused[name] += 1
            continue
        for linear, (rows, columns) in found.shapes.items():
            assert found.bits[linear].dtype == torch.uint8
            assert found.bits[linear].shape == (rows, -(-columns // 8))
            assert torch.equal(pack_bits(found.keep(linear)), found.bits[linear])
        if name != "plain" and mutate is not forged:
            assert mask_digest(found) == digest, (number, mutate)
    # Without a checksum a flipped bit is a mask like any other.
    assert min(refused[name] for name in ("coded", "low_rank", "signature")) > 200
    assert refused["plain"] > 100
