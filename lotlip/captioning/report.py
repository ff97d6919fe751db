"""What a captioner wrote, in numbers that are the same on every machine."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

from lotlip.captioning.tables import Row
from lotlip.errors import DataError
from lotlip.text.subcaptions import split_sub_captions


def caption_report(rows: Iterable[Row], requested: int) -> dict[str, Any]:
    """Counts and means over caption rows; all but `short_captions` and `short_failed` are about the long ones.

    Returns:
        `requested`, `captioned`, `failed` (they add up), `failures` (count by kind of reason: its text up to
        the first colon), `truncated` (cut at max_new_tokens), `reasons` (count by rule that captions break),
        `retried` and `mended` (of these, now without a reason), and over the captioned: `mean_tokens`
        (generated), `mean_sub_captions`, `mean_characters`, and `distinct_share` (different texts / texts).
        Means are null where nothing was captioned.

    Raises:
        DataError: the rows are not as many as requested.
    """
    failures: Counter[str] = Counter()
    texts: set[bytes] = set()
    reasons: Counter[str] = Counter()
    sub_captions = characters = truncated = retried = mended = shorts = failed_shorts = 0
    captioned = counted = tokens = 0
    for row in rows:
        if row["kind"] == "short":
            shorts += row["failure"] is None
            failed_shorts += row["failure"] is not None
            continue
        if row["failure"] is not None:
            failures[row["failure"].split(":")[0]] += 1
            continue
        captioned += 1
        texts.add(hashlib.sha256(row["text"].encode()).digest()[:16])
        counted += row["num_tokens"] is not None
        tokens += row["num_tokens"] or 0
        sub_captions += len(split_sub_captions(row["text"]))
        characters += len(row["text"])
        truncated += row["finish_reason"] == "length"
        found = row["reasons"].split(",") if row["reasons"] else []
        reasons.update(found)
        retried += row["attempts"] > 1
        mended += row["attempts"] > 1 and not found
    failed = failures.total()
    if captioned + failed != requested:
        raise DataError(
            f"{captioned} captioned and {failed} failed images do not add up to the {requested} requested: "
            "remove the captioner's folder under .work/recaption and run the stage again."
        )
    return {
        "requested": requested,
        "captioned": captioned,
        "failed": failed,
        "failures": dict(sorted(failures.items())),
        "truncated": truncated,
        "reasons": dict(sorted(reasons.items())),
        "retried": retried,
        "mended": mended,
        "short_captions": shorts,
        "short_failed": failed_shorts,
        "mean_tokens": _mean(tokens, counted),
        "mean_sub_captions": _mean(sub_captions, captioned),
        "mean_characters": _mean(characters, captioned),
        "distinct_share": _mean(len(texts), captioned),
    }


def _mean(total: int, count: int) -> float | None:
    return round(total / count, 4) if count else None
