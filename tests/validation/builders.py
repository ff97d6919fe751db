"""Small datasets written by hand: image folders, caption folders, a tokenizer that splits words."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from lotlip.captioning.captioner import Caption
from lotlip.captioning.quality import find_reasons
from lotlip.data.manifest import Manifest, Shard, describe_file, write_manifest
from lotlip.data.shards import encode_png, write_tar
from lotlip.params import Validate
from lotlip.validation.summary import summarise
from lotlip.validation.validate import Inputs, judge_rows, judge_tables, validate, whole_tables

Row = dict[str, Any]

IMAGE_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("key", "url", "status", "error", "caption")]
    + [("width", pa.int32()), ("height", pa.int32())]
    + [(name, pa.string()) for name in ("sha256", "phash", "format")]
)
LONG_SCHEMA = pa.schema(
    [("key", pa.string()), ("kind", pa.string()), ("text", pa.string()), ("num_tokens", pa.int32())]
    + [(name, pa.string()) for name in ("finish_reason", "failure", "reasons", "captioner")]
)
LONG = "A red circle lies on the left of a small blue square in front of a grey wall."  # 18 words, 19 tokens


def write_tokenizer(folder: Path) -> str:
    """A WordPiece tokenizer that cuts unknown words into letters, truncates, pads and adds specials."""
    known = "a red circle lies on the left of small blue square in front grey wall . ##s dog"
    letters = [f"{mark}{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789" for mark in ("", "##")]
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys([*known.split(), *letters])]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder)


def image(key: str, **changes: Any) -> dict[str, Any]:
    """A good row of an image table, with changes."""
    good = {"url": f"http://x/{key}", "status": "success", "error": None, "caption": "a red circle"}
    return {
        "key": key,
        **good,
        "width": 96,
        "height": 96,
        "sha256": f"bytes of {key}",
        "phash": None,
        "format": "png",
        **changes,
    }


def lost(key: str, status: str = "failed_to_download") -> dict[str, Any]:
    """A row of a requested image that there is not."""
    return image(key, status=status, error="HTTP 404", width=None, height=None, sha256=None, format=None)


def long(key: str, **changes: Any) -> dict[str, Any]:
    """A good row of a captions table, with changes."""
    good = {"kind": "long", "num_tokens": 20, "finish_reason": "stop", "failure": None, "captioner": "c" * 16}
    row = {"key": key, "text": f"{LONG} {key}.", **good, **changes}
    caption = Caption(row["text"] or "", row["num_tokens"], row["finish_reason"], row["failure"])
    return {**row, "reasons": ",".join(find_reasons(caption))}


def square(key: str) -> bytes:
    """A PNG of 8 x 8 pixels in a colour that the key gives."""
    digest = hashlib.sha256(key.encode()).digest()
    return encode_png(Image.new("RGB", (8, 8), tuple(digest[:3])))


def write_evalset(folder: Path, images: dict[str, bytes]) -> Path:
    """An evaluation set as far as the leak gate reads it."""
    (folder / "images").mkdir(parents=True)
    for name, data in images.items():
        (folder / "images" / name).write_bytes(data)
    lines = [json.dumps({"image": f"images/{name}", "texts": ["a text"]}) for name in images]
    (folder / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (folder / "set.json").write_text("{}")
    return folder


def write_images(folder: Path, shards: dict[str, list[dict[str, Any]]]) -> Manifest:
    """An image folder; whatever a row says, its image is a square of one colour."""
    folder.mkdir(parents=True)
    entries = []
    for name, rows in shards.items():
        kept = {row["key"]: row for row in rows if row["status"] == "success"}
        write_tar(folder / f"{name}.tar", [{"__key__": key, "png": square(key), "txt": b""} for key in kept])
        pq.write_table(pa.Table.from_pylist(rows, IMAGE_SCHEMA), folder / f"{name}.parquet")
        files = {role: describe_file(folder, f"{name}.{end}") for role, end in (("tar", "tar"), ("table", "parquet"))}
        entries.append(Shard(name, sum(row["status"] == "success" for row in rows), files))
    return write_manifest(folder, "images", entries)


def write_captions(folder: Path, images: Manifest, shards: dict[str, list[dict[str, Any]]]) -> Manifest:
    """A captions folder for shards of `images`."""
    folder.mkdir(parents=True)
    entries = []
    for name, rows in shards.items():
        pq.write_table(pa.Table.from_pylist(rows, LONG_SCHEMA), folder / f"{name}.parquet")
        of = images.shard(name).files["tar"].sha256
        entries.append(Shard(name, len(rows), {"table": describe_file(folder, f"{name}.parquet")}, of))
    return write_manifest(folder, "captions", entries)


@dataclass
class Dataset:
    """20 good samples, `k00` to `k19`, the first ten in shard `s-00000`; change rows before `run`."""

    folder: Path
    rules: Validate
    images: list[Row] = field(default_factory=lambda: [image(f"k{i:02}") for i in range(20)])
    longs: list[Row] = field(default_factory=lambda: [long(f"k{i:02}") for i in range(20)])
    evalsets: dict[str, Path] = field(default_factory=dict)
    held_out: dict[str, float] = field(default_factory=dict)

    def write(self) -> Inputs:
        images = write_images(self.folder / "images" / "s", _by_shard(self.images))
        keys = {row["key"] for row in self.images if row["status"] == "success"}
        longs = [row for row in self.longs if row["key"] in keys]
        captions = write_captions(self.folder / "captions" / "llava", images, _by_shard(longs))
        return Inputs([images], {"llava": captions}, self.evalsets, self.held_out)

    def judge(self) -> dict[str, Any]:
        """The summary alone, without pages."""
        tables, reasons = judge_rows(self.write(), self.rules)
        wholes = whole_tables(tables, reasons, self.rules)
        return summarise(tables, reasons, wholes, judge_tables(tables | wholes, self.rules))

    def run(self) -> dict[str, Any]:
        return validate(self.write(), self.rules, self.folder / "quarantine", self.folder / "docs")


def _by_shard(rows: list[Row]) -> dict[str, list[Row]]:
    return {f"s-0000{i}": [row for row in rows if (row["key"] >= "k10") == bool(i)] for i in range(2)}
