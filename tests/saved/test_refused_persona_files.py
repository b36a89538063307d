"""What is refused of persona files, each with its reason; and how they are written."""

import json
import os
import struct
import tracemalloc
import zlib

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from persona_prune.masks.mask import Mask, mask_digest, pack_bits
from persona_prune.saved import container
from persona_prune.saved.mask_file import load_mask, save_mask
from persona_prune.saved.persona_file import load_persona_mask, read_manifest
from tests.reference.persona_files import example, joined, one_of_each_format, small_linears, split, write_plain


@pytest.fixture(scope="module")
def linears():
    return small_linears()


@pytest.fixture(scope="module")
def files(linears, tmp_path_factory):
    return one_of_each_format(linears, tmp_path_factory.mktemp("files"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "p.safetensors"


def reason(path, linears):
    """Return why the file is refused, also where only its manifest is wanted."""
    with pytest.raises(ValueError, match="is not a readable persona file: ") as raised:
        load_persona_mask(path, linears)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)
    return str(raised.value).partition("file: ")[2]


def with_checksum(content, checksum):
    """Return a file with another checksum, or None for none."""
    header, payload = split(content)
    manifest = json.loads(header["__metadata__"]["manifest"])
    manifest.pop("checksum", None)
    header["__metadata__"]["manifest"] = json.dumps(manifest | ({"checksum": checksum} if checksum else {}))
    return joined(header, payload)


def test_damage_is_told_by_the_checksum(files, linears, path):
    for name in ("coded", "low_rank", "signature"):
        content = bytearray(files[name][0])
        content[-1] ^= 1
        path.write_bytes(content)
        assert reason(path, linears) == "its checksum is wrong: the file was damaged"
    path.write_bytes(with_checksum(files["coded"][0], None))
    assert reason(path, linears) == "it has no checksum"


def test_claims_are_checked_before_memory_is_taken(files, linears, path):
    path.write_bytes(struct.pack("<Q", 1 << 50) + b"{}")
    assert "header is longer" in reason(path, linears)
    bomb = zlib.compress(bytes(64 << 20), 9)
    stored = torch.frombuffer(bytearray(bomb), dtype=torch.uint8)
    claims = {"bits": [1 << 13, 1 << 16], "dropped": [1 << 13, 1 << 16], "kept": [1 << 40, 1 << 40]}
    for coding, shape in claims.items():
        manifest = {"format": "persona_prune.mask.v2", "model_fingerprint": "f", "shapes": {"a": shape}}
        container.save_persona_file(path, {f"{coding}/a": stored}, {**manifest, "description": {}})
        tracemalloc.start()
        assert "a code is longer" in reason(path, linears)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        tracemalloc.stop()


@pytest.mark.parametrize("claimed", ["[" * 100_000, '{"a":' * 100_000, "[]", "1", '{"format": "x", "format": "x"}', ""])
def test_manifests_that_are_none_are_refused(linears, path, claimed):
    save_file({"a": torch.zeros(1)}, path, {"manifest": claimed})
    reason(path, linears)


def test_names_that_are_none_are_refused(linears, path):
    for name in ("../../etc/passwd", "/a", "a\nb", "a" * 600, "", "a//b"):
        save_file({name: torch.zeros(1)}, path, {"manifest": "{}"})
        assert "is no name of a module or tensor" in reason(path, linears)
    with pytest.raises(ValueError, match="is no name"):
        save_mask(
            Mask({"a b": pack_bits(torch.ones(1, 8, dtype=torch.bool))}, {"a b": (1, 8)}, "f", {}), path.parent / "q"
        )
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_is_no_regular_file_is_refused(linears, path, tmp_path):
    assert reason(tmp_path, linears) == "it is not a regular file"
    os.mkfifo(path)
    assert reason(path, linears) == "it is not a regular file"
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for missing in (loop, tmp_path / "none", "~no-such-user/p"):
        with pytest.raises(FileNotFoundError, match="no persona file at"):
            load_persona_mask(missing, linears)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_are_said(linears, path):
    save_mask(example(), path)
    path.chmod(0)
    with pytest.raises(OSError, match="denied"):
        load_persona_mask(path, linears)


def test_overlapping_and_unknown_tensors_are_refused(files, linears, path):
    header, payload = split(files["coded"][0])
    first, second, *_ = (key for key in header if key != "__metadata__")
    for changed in ({first: header[second]}, {"bits/x": header[first]}, {"bits/x": {**header[first], "shape": [-1]}}):
        path.write_bytes(joined(header | changed, payload))
        reason(path, linears)
    twice = json.dumps(header)[:-1] + f', "{first}": {json.dumps(header[first])}}}'
    path.write_bytes(struct.pack("<Q", len(twice)) + twice.encode() + payload)
    assert reason(path, linears) == "a key occurs twice"


def test_bits_beyond_the_last_column_are_refused(linears, path):
    bits = {"a": torch.tensor([[0b10100001, 0b00000111]] * 2, dtype=torch.uint8)}
    write_plain(path, Mask(bits, {"a": (2, 13)}, "f", {}))
    assert reason(path, linears) == "there are bits beyond the last column"
    save_mask(Mask(bits, {"a": (2, 13)}, "f", {}), path)
    assert "beyond the last column" in reason(path, linears)


def test_files_of_the_first_version_are_read(path, linears):
    write_plain(path, example())
    assert mask_digest(load_mask(path)) == mask_digest(example())
    path.write_bytes(with_checksum(path.read_bytes(), "0"))
    assert "checksum is wrong" in reason(path, linears)


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    save_mask(example(), path)
    before = path.read_bytes()
    for broken in ("os.fsync", "pathlib.Path.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(broken, lambda *_: (_ for _ in ()).throw(OSError("disk full")))
            with pytest.raises(OSError, match="disk full"):
                save_mask(example(), path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_manifest_says_what_wrote_it(path):
    save_mask(example(), path)
    assert read_manifest(path)["written_by"].startswith("persona_prune ")
    with safe_open(path, "pt") as file:
        assert set(file.metadata()) == {"manifest"}  # several would come in any order
    assert load_file(path).keys() == {"bits/layers.0.attn.q", "dropped/layers.0.mlp.up"}


def test_the_same_persona_is_the_same_file(path):
    contents = set()
    for _ in range(5):
        save_mask(example(), path)
        contents.add(path.read_bytes())
    assert len(contents) == 1
