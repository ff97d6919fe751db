"""Statistics of a dataset's texts, as the poster's table counts them.

Source: METHOD "Long texts"; the definitions reproduce the published figures of IIW exactly.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from lotlip.data.manifest import read_manifest
from lotlip.data.tables import read_table
from lotlip.errors import DataError
from lotlip.records import read_json
from lotlip.text.subcaptions import split_sub_captions

CountTokens = Callable[[Sequence[str]], Sequence[int]]
_BATCH = 1024


def dataset_statistics(
    texts: Iterable[Sequence[str]], count_tokens: CountTokens | None = None
) -> dict[str, int | float | None]:
    """Count images, texts, sub-captions and tokens.

    Args:
        texts: the texts of each image, one sequence an image (an empty one counts as an image).
        count_tokens: tokens of each of some texts, without special tokens; None leaves tokens out.

    Returns:
        `images`, `texts`, `sub_captions_per_text` and `tokens_per_text` (means over texts, rounded to four
        digits; None without a tokenizer or without texts).
    """
    num_images = num_texts = num_pieces = num_tokens = 0
    images = iter(texts)
    while batch := list(islice(images, _BATCH)):
        flat = [text for of_image in batch for text in of_image]
        num_images += len(batch)
        num_texts += len(flat)
        num_pieces += sum(len(split_sub_captions(text)) for text in flat)
        num_tokens += sum(count_tokens(flat)) if count_tokens is not None and flat else 0
    return {
        "images": num_images,
        "texts": num_texts,
        "sub_captions_per_text": round(num_pieces / num_texts, 4) if num_texts else None,
        "tokens_per_text": round(num_tokens / num_texts, 4) if num_texts and count_tokens else None,
    }


def folder_statistics(path: Path, count_tokens: CountTokens | None = None) -> dict[str, int | float | None]:
    """Statistics of an image folder (raw captions), a captions folder (long texts), an evaluation set, or a
    JSONL file with `texts` a line.

    Raises:
        DataError: `path` is none of these.
    """
    return dataset_statistics(read_texts(path), count_tokens)


def read_texts(path: Path) -> Iterator[Sequence[str]]:
    """Yield the texts of each image that `path` knows; failed captions are left out, their images are not.

    Raises:
        DataError: `path` is neither a manifest's folder, nor an evaluation set, nor a JSONL file.
    """
    if path.is_file() and path.name == "manifest.json":
        path = path.parent
    if (path / "manifest.json").is_file():
        return _manifest_texts(path)
    lines = path / "samples.jsonl" if path.is_dir() else path
    if lines.is_file() and lines.suffix == ".jsonl":
        return _jsonl_texts(lines)
    raise DataError(
        f"{path} holds no texts that are known here: expected a folder with manifest.json (images or "
        "captions) or samples.jsonl, or a .jsonl file with `texts` a line."
    )


def token_counter(tokenizer: str, revision: str | None = None) -> CountTokens:
    """Counts WordPiece (or other) tokens without special tokens; `tokenizer` is a hub id or a folder.

    Raises:
        DataError: there is no such tokenizer, or it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(tokenizer, revision=revision or "main")
    except (OSError, ValueError) as error:
        raise DataError(f"Tokenizer {tokenizer} cannot be loaded: expected a folder or a hub id ({error}).") from error

    def count(texts: Sequence[str]) -> list[int]:
        ids = loaded(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [len(of_text) for of_text in ids]

    return count


def _manifest_texts(folder: Path) -> Iterator[Sequence[str]]:
    kind = read_json(folder / "manifest.json").get("kind")
    if kind not in ("images", "captions"):
        raise DataError(f"{folder}/manifest.json is of kind {kind!r}; expected 'images' or 'captions'.")
    manifest = read_manifest(folder, kind)
    for shard in manifest.shards:
        if kind == "images":
            for record in read_table(manifest, shard, ("status", "caption")):
                if record["status"] == "success":
                    yield [record["caption"]] if record["caption"] else []
        else:
            texts: dict[str, list[str]] = {}
            for record in read_table(manifest, shard, ("key", "kind", "text", "failure")):
                of_image = texts.setdefault(record["key"], [])
                if record["kind"] == "long" and record["failure"] is None and record["text"]:
                    of_image.append(record["text"])
            yield from texts.values()


def _jsonl_texts(path: Path) -> Iterator[Sequence[str]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                texts = json.loads(line).get("texts", [])
            except (ValueError, AttributeError):
                raise DataError(f"{path}, line {number}: expected a JSON object with `texts`.") from None
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise DataError(f"{path}, line {number}: `texts` must be a list of strings.")
            yield texts
