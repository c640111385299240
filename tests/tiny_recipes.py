"""The recipe of as few keys as there can be; it names no file that exists."""

from __future__ import annotations

from typing import Any

MINIMAL: dict[str, Any] = {
    "recipe": 2,
    "out": "runs/x",
    "model": {"size": "xs"},
    "tokenizer": {"kind": "word"},
    "data": {"train": "train.cuts.jsonl.gz", "dev": "dev.cuts.jsonl.gz"},
    "policy": {"name": "none"},
    "train": {"steps": 10},
}
