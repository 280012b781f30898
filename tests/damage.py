"""Damage to files: at random anywhere, and where the format is known, in what the file says."""

import copy
import io
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

_ODD: tuple[object, ...] = (
    *(None, True, -1, 0, 1, 7, 2**31, 2**63, 10**23, 0.5, -0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "\0", "é" * 300, "../../etc/passwd", "os:system", "nan", [], {}, [[]], {"": {}}, ["x"] * 50),
)


def damaged(content: bytes, suffix: str, rng: random.Random) -> bytes:
    """``content`` of a file that ends in ``suffix``, changed in one to three places."""
    by_format = {
        ".json": _json,
        ".csv": _table,
        ".txt": _table,
        ".npz": _arrays,
        ".safetensors": _header,
        ".pt": _pickled,
    }
    change: Callable[[bytes, random.Random], bytes] = _bytes
    if suffix in by_format and rng.random() < 0.6:
        change = by_format[suffix]
    for _ in range(rng.randint(1, 3)):
        try:
            content = change(content, rng)
        except Exception:  # it is too damaged already for what the format knows
            content = _bytes(content, rng)
    return content


def _bytes(content: bytes, rng: random.Random) -> bytes:
    at, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    end = min(end, at + rng.choice([1, 4, 50, 10**9]))
    noise = rng.randbytes(rng.choice([1, 4, 50]))
    return rng.choice(
        [
            content[:at],
            content[:at] + content[end:],
            content[:at] + noise + content[at:],
            content[:at] + noise + content[at + len(noise) :],
            content[:at] + bytes(end - at) + content[end:],
            content[:end] + content[at:end] + content[end:],
            b"",
        ]
    )


def _json(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.1:
        return b"[" * 100_000 + b"]" * 100_000
    return json.dumps(_changed(json.loads(content), rng)).encode()


def _changed(value: object, rng: random.Random) -> object:
    """``value`` with one of its parts missing, twice there, or of another kind."""
    places: list[tuple[dict | list, object]] = []

    def walk(inside: object) -> None:
        items = inside.items() if isinstance(inside, dict) else enumerate(inside) if isinstance(inside, list) else ()
        for key, part in items:
            places.append((inside, key))
            walk(part)

    value = copy.deepcopy(value)
    walk(value)
    if not places:
        return rng.choice(_ODD)
    holder, key = rng.choice(places)
    if rng.random() < 0.25:
        del holder[key]
    elif rng.random() < 0.2:
        holder[key] = [holder[key], holder[key]]
    else:
        holder[key] = copy.deepcopy(rng.choice(_ODD))
    return value


def _table(content: bytes, rng: random.Random) -> bytes:
    rows = [line.split(",") for line in content.decode().splitlines()]
    row = rng.choice(rows)
    row[rng.randrange(len(row))] = rng.choice(
        ["", "x", "-1", "nan", "inf", "1e999", "0", "99999999999", '"', "é", "\0"]
    )
    rng.choice([lambda: None, lambda: rows.append(row), lambda: rows.remove(row), lambda: row.append("1")])()
    return "\n".join(",".join(row) for row in rows).encode()


def _arrays(content: bytes, rng: random.Random) -> bytes:
    with np.load(io.BytesIO(content)) as file:
        arrays = dict(file)
    name = rng.choice(list(arrays))
    value = arrays[name]
    changes: list[Callable[[], np.ndarray]] = [
        lambda: value.astype(rng.choice(["f2", "f8", "i1", "U3", "?", "c8"])),
        lambda: value[..., :1],
        lambda: value[:0],
        lambda: value[None],
        lambda: np.full_like(value, rng.choice([0, 1, 100])),
        lambda: np.full(value.shape, np.nan),
        lambda: np.array([object()]),
    ]
    arrays[name] = rng.choice(changes)()
    if rng.random() < 0.1:
        del arrays[name]
    out = io.BytesIO()
    rng.choice([np.savez, np.savez_compressed])(out, **arrays)
    return out.getvalue()


def _header(content: bytes, rng: random.Random) -> bytes:
    """safetensors: the table of tensors, or the recipe in it."""
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    recipe = header.get("__metadata__", {}).get("recipe")
    if recipe is not None and rng.random() < 0.8:
        header["__metadata__"]["recipe"] = _json(recipe.encode(), rng).decode()
    else:
        header = _changed(header, rng)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def _pickled(content: bytes, rng: random.Random) -> bytes:
    state = torch.load(io.BytesIO(content), weights_only=True)
    name = rng.choice(list(state))
    value = state[name]
    changes: list[Callable[[], object]] = [
        lambda: value.to(rng.choice([torch.int8, torch.float64, torch.complex64, torch.bool])),
        lambda: value.to("meta"),
        lambda: value.to_sparse(),
        lambda: value.flatten(),
        lambda: value * torch.nan,
        lambda: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8),
        lambda: state,
        lambda: Path("x"),
        lambda: rng.choice([None, 3, "x", [value], {"state_dict": value}]),
    ]
    state[name] = rng.choice(changes)()
    if rng.random() < 0.2:
        state = {rng.choice(["state_dict", "model", "state_dict_ema", "x"]): state}
    out = io.BytesIO()
    torch.save(state, out)
    return out.getvalue()
