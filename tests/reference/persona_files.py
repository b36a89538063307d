"""Small persona files of every format, to be damaged."""

import json
import struct

import torch
from safetensors.torch import save_file

from persona_prune.calibration.damage import Damage
from persona_prune.calibration.gradients import LowRank
from persona_prune.calibration.signatures import Signature, Statistics
from persona_prune.masks.mask import Mask, mask_digest, pack_bits
from persona_prune.methods.base import build_masks
from persona_prune.methods.low_rank_recipe import Recipe, Round, as_stored
from persona_prune.methods.signature_recipe import recipe_of
from persona_prune.methods.wanda import Wanda
from persona_prune.saved import low_rank_file, signature_file
from persona_prune.saved.mask_file import save_mask
from persona_prune.saved.persona_file import load_persona_mask

SHAPES = {"layers.0.attn.q": (6, 13), "layers.0.mlp.up": (8, 16)}


def small_linears():
    """Two Linears of random weights."""
    generator = torch.Generator().manual_seed(0)
    made = {name: torch.nn.Linear(columns, rows, bias=False) for name, (rows, columns) in SHAPES.items()}
    for module in made.values():
        module.weight.data = torch.randn(module.weight.shape, generator=generator)
    return made


def example() -> Mask:
    """One Linear that is coded as bits, and one as gaps."""
    keep = {name: torch.arange(rows * columns).view(rows, columns) % 3 > 0 for name, (rows, columns) in SHAPES.items()}
    keep["layers.0.mlp.up"] = torch.arange(8 * 16).view(8, 16) % 50 > 0
    return Mask({name: pack_bits(k) for name, k in keep.items()}, SHAPES, "f", {"method": "m"})


def write_plain(path, mask):
    """A file as the first version wrote it: bits as they are, and no checksum."""
    manifest = {
        "format": "persona_prune.mask.v1",
        "model_fingerprint": mask.model_fingerprint,
        "shapes": {name: list(shape) for name, shape in mask.shapes.items()},
        "description": dict(mask.description),
    }
    save_file(dict(mask.bits), path, {"manifest": json.dumps(manifest)})


def one_of_each_format(linears, directory):
    """Return format -> content of a file and its mask's digest; all but ``plain`` have a checksum."""
    path = directory / "p.safetensors"
    generator = torch.Generator().manual_seed(1)

    def vectors(*shape):
        return torch.rand(*shape, generator=generator).bfloat16().float()

    damage = {n: Damage(vectors(m.in_features), vectors(m.out_features)) for n, m in linears.items()}
    gradients = {
        n: as_stored(LowRank(vectors(m.out_features, 2), vectors(2, m.in_features))) for n, m in linears.items()
    }
    low_rank = Recipe(damage, [Round(gradients, 3.0), Round(gradients, float("inf"))], "f", {})
    statistics = {n: Statistics(*(vectors(m.in_features) for _ in range(5))) for n, m in linears.items()}
    signature = Signature(statistics, {n: n for n in linears}, "f", "d", "all", 1, 1)
    wanda = Wanda(name="w", sparsity=0.4, gamma=0.0, overrides=["mlp:0.5"], statistic="l2")
    masks = {
        "plain": example(),
        "coded": example(),
        "low_rank": low_rank.mask(linears),
        "signature": build_masks(linears, wanda, signature, signature, {})[0],
    }
    writers = {
        "plain": lambda: write_plain(path, masks["plain"]),
        "coded": lambda: save_mask(masks["coded"], path),
        "low_rank": lambda: low_rank_file.save_recipe(low_rank, path, masks["low_rank"]),
        "signature": lambda: signature_file.save_recipe(
            recipe_of(wanda, signature, signature, {}), path, masks["signature"]
        ),
    }
    found = {}
    for name, write in writers.items():
        write()
        assert mask_digest(load_persona_mask(path, linears)) == mask_digest(masks[name])
        found[name] = (path.read_bytes(), mask_digest(masks[name]))
    return found


def split(content):
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header, payload):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload
