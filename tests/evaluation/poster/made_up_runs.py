"""Runs and a plan of tables with made-up numbers to check by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PLAN = """\
seeds: [0, 1, 2]
overlays: [conf/sample_all.yaml]
tables:
  main_results: {title: All systems, rows: {LiT: lit, LiT + long: lit_long, LoTLIP: lotlip}}
  corner_tokens:
    title: Corner tokens
    rows: {"0": lit_long, 1 mask: corners_1, 2 mask: lotlip, 1 no mask: corners_1_no_mask, 2 no mask: corners_2_no_mask}
  token_limit: {title: Token limit, rows: {16: tokens_16, 32: tokens_32, 128: lotlip}}
  texts: {title: Kinds of texts, rows: {raw: lit, raw + long: lit_long}}
"""
SETTINGS: dict[str, dict[str, Any]] = {
    "lit": {"num_long": 0},
    "lit_long": {},
    "lotlip": {"corner_tokens": 2},
    "corners_1": {"corner_tokens": 1},
    "corners_1_no_mask": {"corner_tokens": 1, "corner_mask": False},
    "corners_2_no_mask": {"corner_tokens": 2, "corner_mask": False},
    "tokens_16": {"corner_tokens": 2},
    "tokens_32": {"corner_tokens": 2},
}
TOKEN_LIMITS = {"tokens_16": 16, "tokens_32": 32}


def run(method: str, seed: int | None, long: float, short: float = 20.0, top1: float = 15.0) -> dict[str, Any]:
    """A run whose mean of I2T and T2I is `long` and `short`: I2T is 5 above, T2I 5 below."""
    limit = TOKEN_LIMITS.get(method, 128)
    settings = {
        "method": {"num_long": 1, "corner_tokens": 0, "corner_mask": True, "train": {}, **SETTINGS.get(method, {})},
        "train": {"seed": seed, "epochs": 20, "run_length": 3, "token_limit": limit, "num_workers": 0},
    }
    flops = min(limit, 60) * 1_000_000
    evaluate = {
        "long": retrieval(long, 300) | {"text_flops_per_text": flops},
        "short": retrieval(short, 1500) | {"text_flops_per_text": 8_000_000},
        "classes": {"top1": top1, "top5": 60.0, "images": 300, "classes": 64},
    }
    if seed is None:
        return {"method": method, "seed": None, "data": {"data/evalsets/long": "e1"}, "evaluate": evaluate}
    found = {"method": method, "seed": seed, "experiment": f"texts-seed{seed}", "commit": "0123456789abcdef"}
    data = {"data/images": "a1", "data/evalsets/long": "e1"}
    return found | {"settings": settings, "data": data, "train": {"loss": 2.0}, "evaluate": evaluate}


def retrieval(mean: float, texts: int) -> dict[str, float | int]:
    return {"i2t_r1": mean + 5, "t2i_r1": mean - 5, "images": 300, "texts": texts, "tied_queries": 0}


def seeds(method: str, long: Sequence[float], short: Sequence[float] = (20.0, 20.0, 20.0)) -> list[dict[str, Any]]:
    """Runs of seeds 0, 1, ... with these means."""
    return [run(method, seed, *values) for seed, values in enumerate(zip(long, short, strict=False))]


def write_runs(folder: Path, runs: Sequence[dict[str, Any]]) -> Path:
    """Write runs.jsonl and ablations.yaml, and return the file of runs."""
    path = folder / "runs.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in runs))
    (folder / "ablations.yaml").write_text(PLAN)
    return path


def usual_runs() -> list[dict[str, Any]]:
    """All rows of PLAN but `2 no mask`, and a public checkpoint."""
    return [
        *seeds("lit", [40.0, 41.0, 42.0], [20.0, 21.0, 22.0]),
        *seeds("lit_long", [80.0, 82.0, 81.0], [15.0, 17.0, 16.0]),
        *seeds("lotlip", [84.0, 86.5, 84.5], [20.0, 21.0, 22.0]),
        *seeds("corners_1", [83.0, 85.0, 84.0], [18.0, 19.0, 20.0]),
        *seeds("corners_1_no_mask", [81.0, 83.5, 82.0], [16.0, 18.0, 17.0]),
        *seeds("tokens_16", [50.0, 52.0, 51.0]),
        *seeds("tokens_32", [76.0, 78.0, 77.0]),
        run("openai/clip", None, 30.0),
    ]
