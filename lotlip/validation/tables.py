"""The judged tables: one of all requested images, one of raw captions, one a captioner of long texts.

Each is a pandas frame with a row for every sample. Texts are measured shard by shard and then dropped
(an excerpt stays), so that memory grows by about a hundred bytes a sample.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lotlip.data.manifest import Manifest, Shard
from lotlip.data.tables import CAPTION_REASONS, FILTERED, read_table
from lotlip.errors import DataError
from lotlip.validation.raw_texts import FindLanguages, has_markup
from lotlip.validation.texts import CountTokens, raw_word_recall

if TYPE_CHECKING:
    import pandas as pd

IMAGE_COLUMNS = ("key", "url", "status", "error", "caption", "width", "height", "sha256", "phash", "format")
LONG_COLUMNS = ("key", "kind", "text", "finish_reason", "failure", "reasons", "captioner")
EXCERPT = 80  # characters


def image_table(images: Sequence[Manifest]) -> "pd.DataFrame":
    """A row for every requested sample of every source, in order of sources and shards.

    Rows that a filter of their source left out are not there: nobody wanted them. Adds `shard`, and as 0/1 numbers
    `failed`, `undecodable` (empty where nothing was fetched) and `duplicate` (an earlier image has the same bytes;
    empty where there is no image).

    Raises:
        DataError: a table does not fit its tar, or there is no image at all.
    """
    import pandas as pd

    frames = [_images_of(manifest, shard) for manifest in images for shard in manifest.shards]
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["status"])
    success = table["status"] == "success"
    if not success.any():
        folders = ", ".join(str(manifest.folder) for manifest in images)
        raise DataError(f"There is no image to validate in {folders}: reports/download says why all failed.")
    table["failed"] = (~success).astype(float)
    undecodable = table["status"] == "failed_to_decode"
    table["undecodable"] = undecodable.astype(float).where(success | undecodable)
    repeated = table[success & table["sha256"].notna()].duplicated("sha256")
    table["duplicate"] = repeated.reindex(table.index[success], fill_value=False).astype(float)
    return table


def raw_table(
    kept: "pd.DataFrame", count_tokens: CountTokens, find_languages: FindLanguages | None = None
) -> "pd.DataFrame":
    """Raw captions of the kept images: `shard, key, caption`, `raw` (excerpt) and measures.

    These are `num_tokens`, `repeats` (kept images with this caption), 0/1 columns `duplicate` and `markup`, and with
    `find_languages` the `language` and `language_probability` (of the allowed ones). Without a caption all but the
    tokens are empty.
    """
    import pandas as pd

    table = kept[["shard", "key", "caption"]].copy()
    texts = table["caption"].fillna("").tolist()
    table["num_tokens"] = _floats(count_tokens(texts))
    table["duplicate"] = _repeats(texts)
    found = [bool(text.strip()) for text in texts]
    counts = Counter(texts)
    table["repeats"] = _floats([counts[text] for text in texts], found)
    table["markup"] = _floats([has_markup(text) for text in texts], found)
    if find_languages is not None:
        languages = find_languages(texts)
        names = [name if is_text else None for (name, _), is_text in zip(languages, found, strict=True)]
        table["language"] = pd.Series(names, table.index, dtype="str")
        table["language_probability"] = _floats([share for _, share in languages], found)
    table["raw"] = [text[:EXCERPT] for text in texts]
    return table


def long_table(
    images: "pd.DataFrame", shards: dict[str, Shard], captions: Manifest, count_tokens: CountTokens
) -> "pd.DataFrame":
    """Long texts of one captioner, a row for every kept image, also where the captioner has none.

    Args:
        images: `image_table` with a boolean column `kept`.
        shards: the image shards by name.

    Returns:
        `shard, key, captioner` (identity, empty where the row is missing), `failure`, excerpts `raw, text`,
        numbers `num_tokens, raw_word_recall`, and 0/1 columns `empty, truncated` (cut at the length limit),
        `duplicate`, and `breaks_<rule>` for the rules that the captioning marked. Numbers are NaN where there is no
        text.

    Raises:
        DataError: the captions belong to other images.
    """
    import pandas as pd

    _check_belonging(shards, captions)
    sidecars = {shard.name: shard for shard in captions.shards}
    frames = []
    for name, rows in images[images["status"] == "success"].groupby("shard", sort=False):
        texts = _texts_of(captions, sidecars.get(str(name)), set(rows["key"]))
        joined = rows.loc[rows["kept"], ["shard", "key", "caption"]].merge(texts, on="key", how="left")
        frames.append(_measure(joined, count_tokens))
    table = pd.concat(frames, ignore_index=True)
    table["duplicate"] = _repeats(table.pop("digest").tolist())
    return table


def _images_of(manifest: Manifest, shard: Shard) -> "pd.DataFrame":
    import pandas as pd

    table = pd.DataFrame(read_table(manifest, shard, IMAGE_COLUMNS), columns=list(IMAGE_COLUMNS))
    found = int((table["status"] == "success").sum())
    if found != shard.num_samples:
        raise DataError(
            f"{manifest.path(shard, 'table')} has {found} successful rows, its tar {shard.num_samples} "
            "samples: run its download stage again."
        )
    table = table[~table["error"].fillna("").str.startswith(FILTERED)].reset_index(drop=True)
    if table["url"].isna().all():  # a source that knows no URLs
        table["url"] = ""
    for side in ("width", "height"):  # an image without a size counts as too small
        table[side] = table[side].astype(float).mask((table["status"] == "success") & table[side].isna(), 0.0)
    table.insert(0, "shard", shard.name)
    return table


def _check_belonging(shards: dict[str, Shard], captions: Manifest) -> None:
    for shard in captions.shards:
        if shard.name not in shards or shard.of != shards[shard.name].files["tar"].sha256:
            raise DataError(
                f"{captions.folder} captions shard {shard.name} of other images than those of data/images: "
                f"run `dvc repro recaption@{captions.folder.name}`."
            )


def _texts_of(captions: Manifest, shard: Shard | None, keys: set[str]) -> "pd.DataFrame":
    import pandas as pd

    if shard is None:
        return pd.DataFrame({name: pd.Series(dtype="str") for name in LONG_COLUMNS})
    table = pd.DataFrame(read_table(captions, shard, LONG_COLUMNS), columns=list(LONG_COLUMNS))
    unknown = sorted(set(table["key"]) - keys)
    if unknown:
        raise DataError(
            f"{captions.path(shard, 'table')} captions {len(unknown)} keys that are not in the tar "
            f"({', '.join(unknown[:3])}): run `dvc repro recaption@{captions.folder.name}`."
        )
    return table[table["kind"] == "long"]


def _measure(table: "pd.DataFrame", count_tokens: CountTokens) -> "pd.DataFrame":
    """Replace the texts of one shard by their measures."""
    is_text = table["captioner"].notna() & table["failure"].isna()
    texts = [text.strip() for text in table["text"].where(is_text).fillna("")]
    found = [bool(text) for text in texts]
    raws = table["caption"].fillna("").tolist()
    measures = table[["shard", "key", "captioner", "failure"]].copy()
    measures["raw"] = [text[:EXCERPT] for text in raws]
    measures["text"] = [text[:EXCERPT] for text in texts]
    measures["digest"] = [hashlib.sha256(text.encode()).digest()[:16] if text else None for text in texts]
    measures["num_tokens"] = _floats(count_tokens(texts), found)
    measures["empty"] = _floats([not text for text in texts])
    truncated = [reason == "length" for reason in table["finish_reason"]]
    measures["truncated"] = _floats(truncated, found)
    marked = table["reasons"].fillna("").str.split(",")
    for rule in CAPTION_REASONS:
        measures[f"breaks_{rule}"] = _floats([rule in marks for marks in marked], found)
    recalls = [raw_word_recall(raw, text) for raw, text in zip(raws, texts, strict=True)]
    measures["raw_word_recall"] = _floats(recalls, found)
    return measures


def _floats(values: Sequence[float], known: Sequence[bool] | None = None) -> list[float]:
    known = known or [True] * len(values)
    return [float(value) if is_known else float("nan") for value, is_known in zip(values, known, strict=True)]


def _repeats(values: Sequence[str | bytes | None]) -> list[float]:
    """1 where an equal value stands earlier, else 0; NaN where there is none."""
    seen: set[str | bytes] = set()
    repeats = []
    for value in values:
        repeats.append(float("nan") if not value else float(value in seen))
        seen.update([value] if value else [])
    return repeats
