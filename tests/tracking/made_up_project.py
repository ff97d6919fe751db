"""A project folder as a finished pipeline leaves it: dvc.lock, params.yaml, manifests, reports, models."""

import csv
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import yaml

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
METHODS = ("lit", "lit_long", "lotlip")
VALIDATION = {
    "funnel": {
        "requested": 2000,
        "fetched": 1995,
        "decoded": 1990,
        "kept": 1986,
        "with_raw": 1980,
        "with_long": 1974,
        "with_every_long": 1974,
    },
    "images": {"rejected_by": {"min_side": 1, "leak:long": 3}, "leaks": {"long": 3, "short": 0}, "leak_share": 0.0015},
    "raw": {"rejected_by": {"html": 4, "language": 2}, "markup_share": 0.002, "languages": {"en": 1980, "de": 6}},
    "drift": {
        "distances": {"width": 0.0, "long_tokens_llava": 0.25},
        "unmatched": {"long_tokens_mine": "not in the baseline"},
    },
    "expectations": {"evaluated": 30, "passed": 29, "failed": 1},
    "failed": [
        {
            "suite": "drift",
            "column": "distance",
            "says": "largest drift from the baseline",
            "measured": 0.25,
            "limit": "at most 0.2 is allowed",
            "params": "validate.max_drift",
            "worst": ["'long_tokens_llava' of baseline sample: distance 0.25"],
        }
    ],
}
SCORES = {"lit": 21.0, "lit_long": 43.5, "lotlip": 47.0}


def make_project(
    root: Path, methods: tuple[str, ...] = METHODS, steps: int = 20, checkpoints: dict[str, Any] | None = None
) -> Path:
    """Write everything that `lotlip track` reads; models hold one small file."""
    root.mkdir(parents=True, exist_ok=True)
    params = yaml.safe_load(PARAMS.read_text())
    params["checkpoints"] = checkpoints or {}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    write(root, "data/images/scenes/manifest.json", {"kind": "images", "shards": []})
    write(root, "data/captions/llava/manifest.json", {"kind": "captions", "shards": []})
    write(root, "data/quarantine/manifest.json", {"kind": "quarantine", "shards": []})
    write(root, "reports/download/scenes.json", {"images": 2000, "statuses": {"success": 1990}})
    write(root, "reports/recaption/llava.json", {"texts": 1990, "failed": 3, "tokens_per_text": 71.5})
    write(root, "reports/validate/summary.json", VALIDATION)
    (root / "reports/validate/docs").mkdir()
    (root / "reports/validate/docs/index.html").write_text("<h1>Data Docs</h1>")
    (root / "reports/validate/docs/summary.html").write_text("<h1>Validation in short</h1>")
    write(root, "reports/evalset/long.json", {"num_images": 300, "num_texts": 300})
    for method in methods:
        write_method(root, method, steps)
    for name in params["checkpoints"]:
        write(root, f"reports/evaluate/{name}.json", evaluation(name))
    write_comparison(root, methods)
    write_lock(root, params, methods)
    return root


def write(root: Path, path: str, value: Any) -> None:
    """A JSON file."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(json.dumps(value, indent=2) + "\n")


def curve_row(method: str, step: int) -> dict[str, float]:
    """A made-up point of a training curve."""
    loss = 5.3 * math.exp(-step / 40) + 0.02 * SCORES.get(method, 0.0) / 10
    return {"epoch": step / 10, "loss": loss, "loss_raw": loss * 1.1, "logit_scale": 14.3 + step / 10}


def write_method(root: Path, method: str, steps: int) -> None:
    """Curve, reports and model folder of a method."""
    write(root, f"reports/train/{method}.json", {"loss": curve_row(method, steps)["loss"], "num_steps": steps})
    rows = [{"step": step, **curve_row(method, step)} for step in range(1, steps + 1)]
    with (root / f"reports/train/{method}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    write(root, f"reports/evaluate/{method}.json", evaluation(method))
    (root / "models" / method).mkdir(parents=True)
    (root / "models" / method / "config.json").write_text("{}")


def evaluation(method: str) -> dict[str, Any]:
    """A made-up evaluation report."""
    score = SCORES.get(method, 55.0)
    return {
        "long": {"i2t_r1": score, "t2i_r1": score - 1, "i2t_r5": score + 20, "t2i_r5": score + 19},
        "short": {"i2t_r1": score / 2, "t2i_r1": score / 3},
        "classes": {"top1": 61.0 - score / 10, "top5": 90.0},
    }


def write_comparison(root: Path, methods: tuple[str, ...]) -> None:
    """The report's table."""
    lines = ["| method | long I2T R@1 |", "|---|---|"] + [f"| {name} | {SCORES[name]} |" for name in methods]
    folder = root / "reports" / "report"
    folder.mkdir(parents=True)
    (folder / "comparison.md").write_text("\n".join(lines) + "\n")
    (folder / "comparison.csv").write_text("method,long I2T R@1\n" + "".join(f"{m},{SCORES[m]}\n" for m in methods))


def write_lock(root: Path, params: dict[str, Any], methods: tuple[str, ...]) -> None:
    """dvc.lock, with the true hashes of the reports."""
    stages = {
        "download@scenes": entry(root, ["reports/download/scenes.json"], section(params, "sources.scenes", "download")),
        "recaption@llava": entry(root, ["reports/recaption/llava.json"], section(params, "captioners.llava")),
        "validate": entry(root, ["reports/validate/summary.json"], section(params, "validate")),
        "evalset@long": entry(root, ["reports/evalset/long.json"], section(params, "evalsets.long")),
    }
    for method in methods:
        reports = [f"reports/train/{method}.json", f"reports/train/{method}.csv"]
        stages[f"train@{method}"] = entry(root, reports, section(params, "train", f"methods.{method}"))
        reports = [f"reports/evaluate/{method}.json"]
        stages[f"evaluate@{method}"] = entry(root, reports, section(params, "evaluate"))
    for name in params["checkpoints"]:
        reports = [f"reports/evaluate/{name}.json"]
        stages[f"evaluate_checkpoint@{name}"] = entry(root, reports, section(params, f"checkpoints.{name}", "evaluate"))
    stages["report"] = entry(root, ["reports/report/comparison.md"], section(params, "report"))
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False))


def section(params: dict[str, Any], *paths: str) -> dict[str, Any]:
    """Values of params.yaml as dvc.lock writes them, by dotted path."""
    values = {}
    for path in paths:
        value: Any = params
        for name in path.split("."):
            value = value[name]
        values[path] = value
    return values


def entry(root: Path, outs: list[str], params: dict[str, Any]) -> dict[str, Any]:
    """A stage of dvc.lock."""
    hashes = {out: hashlib.md5((root / out).read_bytes()).hexdigest() for out in outs}
    return {
        "cmd": "python -m stages.something",
        "deps": [{"path": "lotlip/errors.py", "hash": "md5", "md5": "0" * 32, "size": 1}],
        "params": {"params.yaml": params},
        "outs": [{"path": out, "hash": "md5", "md5": digest} for out, digest in hashes.items()],
    }


def save_tiny_model(folder: Path) -> None:
    """A real model folder with random weights, 16 wide."""
    import torch
    from tokenizers.implementations import BertWordPieceTokenizer
    from transformers import BertConfig, ViTConfig

    from lotlip import LotlipConfig, LotlipModel, LotlipProcessor
    from lotlip.model.image_tower import ImageSettings
    from lotlip.text.tokenizer import LotlipTokenizer

    backend = BertWordPieceTokenizer(lowercase=True)
    backend.train_from_iterator(["a red boat on blue water", "a dog", "two cats"], show_progress=False)
    tokenizer = LotlipTokenizer(backend._tokenizer, num_corner_tokens=2, token_limit=24)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = LotlipConfig(
        text_config=BertConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=24, **shape),
        vision_config=ViTConfig(image_size=32, patch_size=16, **shape),
        embed_dim=16,
        num_corner_tokens=2,
        token_limit=24,
    )
    LotlipModel(config).save_pretrained(folder)
    LotlipProcessor(tokenizer, ImageSettings(32)).save_pretrained(folder)
