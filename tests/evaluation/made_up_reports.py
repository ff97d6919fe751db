"""Reports of all stages as they would lie under reports/, with made-up numbers to check by hand."""

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lotlip.params import Params, parse_params

METHODS = {"lit": (30.0, 60.0, 25.0), "lit_long": (62.0, 58.0, 24.0), "lotlip": (66.0, 61.5, 25.0)}


def write_reports(folder: Path, failed: bool = False, checkpoints: Mapping[str, float] | None = None) -> Params:
    """Write a complete set for the project's own params.yaml and return those.

    `checkpoints` adds some that were only evaluated: their names, and what they reach on long texts.
    """
    values = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    values["checkpoints"] = {name: {"model": f"weights/{name}"} for name in checkpoints or {}}
    params = parse_params(values, "params.yaml")
    for source in params.sources:
        put(folder / "download" / f"{source}.json", download_report(source))
    for captioner in params.captioners:
        put(folder / "recaption" / f"{captioner}.json", caption_report())
    put(folder / "validate" / "summary.json", validation_summary(list(params.captioners), failed))
    put(folder / "quality" / "summary.json", quality_summary(list(params.captioners)))
    for name, report in evalset_reports().items():
        put(folder / "evalset" / f"{name}.json", report)
    for name, (long, short, top1) in METHODS.items():
        put(folder / "train" / f"{name}.json", train_report(name))
        (folder / "train" / f"{name}.csv").write_text(curve(name))
        put(folder / "evaluate" / f"{name}.json", evaluate_report(long, short, top1))
    for name, long in (checkpoints or {}).items():
        put(folder / "evaluate" / f"{name}.json", evaluate_report(long, 40.0, 20.0))
    return params


def put(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def download_report(source: str) -> dict[str, Any]:
    return {
        "source": source,
        "kind": "url_table",
        "requested": 2000,
        "success": 1890,
        "failed_to_download": 100,
        "failed_to_decode": 8,
        "rejected": 2,
        "filtered": 0,
        "failed_share": 0.055,
        "shards": 4,
        "bytes": 12_345_678,
        "errors": {"HTTP 404": 90, "timeout": 10, "truncated image": 8, "too large": 2},
    }


def caption_report() -> dict[str, Any]:
    return {
        "requested": 1890,
        "captioned": 1880,
        "failed": 10,
        "failures": {"image cannot be decoded": 10},
        "truncated": 40,
        "reasons": {"truncated": 30},
        "retried": 40,
        "mended": 10,
        "short_captions": 1885,
        "short_failed": 5,
        "mean_tokens": 71.25,
        "mean_sub_captions": 5.5321,
        "mean_characters": 301.7,
        "distinct_share": 0.998,
    }


def validation_summary(captioners: list[str], failed: bool) -> dict[str, Any]:
    one = {
        "suite": "llava",
        "says": "mean raw-word recall",
        "measured": 0.0712,
        "limit": "at least 0.3 is allowed",
        "params": "validate.long.min_raw_word_recall",
        "worst": ["0a1b (scenes-00000): raw_word_recall 0, 'The <b>image</b> shows'"],
    }
    long = {
        "kept": 1840,
        "rejected": 40,
        "rejected_share": 0.021277,
        "rejected_by": {"broken off": 40, "too short": 0},
        "duplicate_share": 0.002,
        "mean_tokens": 63.4,
        "truncated_share": 0.0213,
        "raw_word_recall": 0.0712 if failed else 0.64,
    }
    raw = {"kept": 1880, "rejected": 0, "rejected_share": 0.0, "rejected_by": {}, "duplicate_share": 0.31}
    return {
        "images": {
            "requested": 2000,
            "failed": 110,
            "failed_share": 0.055,
            "kept": 1880,
            "rejected": 10,
            "rejected_share": 0.00529,
            "rejected_by": {"too small": 7, "too long": 3},
            "duplicate_share": 0.0,
        },
        "raw": raw | {"mean_tokens": 5.6},
        "long": dict.fromkeys(captioners, long),
        "expectations": {"evaluated": 22, "passed": 22 - failed, "failed": int(failed)},
        "failed": [one] if failed else [],
    }


def quality_summary(captioners: list[str]) -> dict[str, Any]:
    one = {
        "texts": 500,
        "tokens": 71.25,
        "sub_captions": 5.5,
        "truncated": 0.02,
        "reasons": {"repetition": 0.004},
        "duplicates": 0.01,
        "objects": 3.75,
        "unsupported": 0.125,
        "coverage": 0.9,
        "similarity": 0.42,
        "similarity_of_next": 0.17,
    }
    texts = {"images": 1890, "texts": 1880, "sub_captions_per_text": 5.5321, "tokens_per_text": 63.4}
    return {
        "images": 500,
        "captioners": dict.fromkeys(captioners, one),
        "agreement": {f"{first}-{second}": 0.61 for first, second in itertools.combinations(captioners, 2)},
        "common_objects": 3.5,
        "statistics": {"raw": texts | {"sub_captions_per_text": 1.0}, **dict.fromkeys(captioners, texts)},
    }


def evalset_reports() -> dict[str, dict[str, Any]]:
    texts = {
        "num_skipped_without_text": 0,
        "tokens_per_text": 70.5,
        "num_duplicate_texts": 12,
        "characters_per_text": 240.5,
    }
    return {
        "long": {"num_images": 300, "num_texts": 300, "sub_captions_per_text": 5.5, **texts},
        "short": {"num_images": 300, "num_texts": 1500, "sub_captions_per_text": 1.0, **texts},
        "classes": {"num_images": 300, "num_texts": 0, "num_classes": 64, "num_classes_present": 63},
    }


def train_report(name: str) -> dict[str, Any]:
    parts = {"loss": 1.9, "loss_raw": 2.1} | ({} if name == "lit" else {"loss_long": 1.4})
    return parts | {
        "logit_scale": 31.5,
        "num_samples": 1880,
        "without_long": 30,
        "epochs": 20,
        "steps": 180,
        "skipped_steps": 0,
        "pairs_seen": 36000,
        "dropped_pairs": 1600,
        "texts_seen": 36000 if name == "lit" else 72000,
        "truncated_text_share": 0.0,
        "truncated_token_share": 0.0,
        "trained_parameters": 512_384,
    }


def curve(name: str) -> str:
    has_long = name != "lit"
    lines = ["step,epoch,loss,loss_raw," + ("loss_long," if has_long else "") + "logit_scale,learning_rate,grad_norm"]
    for step in range(2, 181, 2):
        raw = 1.9 + 3.4 * math.exp(-step / 40)
        long = f"{1.1 + 4.2 * math.exp(-step / 25):.5f}," if has_long else ""
        scale = 14.3 + step / 10 * (1 + has_long)
        lines.append(f"{step},{step // 9 + 1},{raw:.5f},{raw:.5f},{long}{scale:.4f},0.001,0.5")
    return "\n".join(lines) + "\n"


def evaluate_report(long: float, short: float, top1: float) -> dict[str, Any]:
    def retrieval(first: float, texts: int) -> dict[str, float | int]:
        ranks = {"i2t_r1": first, "i2t_r5": first + 20, "i2t_r10": first + 28}
        ranks |= {"t2i_r1": first - 4, "t2i_r5": first + 17, "t2i_r10": first + 26}
        medians = {"i2t_median_rank": 1.0, "t2i_median_rank": 1.5}
        return ranks | medians | {"tied_queries": 3, "images": 300, "texts": texts, "truncated_text_share": 0.0}

    classes = {"top1": top1, "top5": 60.0, "tied_queries": 0, "images": 300, "classes": 64}
    return {
        "long": retrieval(long, 300),
        "short": retrieval(short, 1500),
        "classes": classes | {"truncated_text_share": 0.0},
    }
