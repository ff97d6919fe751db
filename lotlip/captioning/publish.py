"""From finished tables of captions to a dataset folder, unless too many images have none."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lotlip.captioning.tables import count_rows
from lotlip.data.manifest import Shard, describe_file, write_manifest
from lotlip.errors import CeilingError
from lotlip.records import publish_folder


def check_failed_share(report: dict[str, Any], max_failed_share: float, remedy: str) -> None:
    """Stop where a report (see `caption_report`) tells of too many images without a caption.

    Raises:
        CeilingError: more failed than `max_failed_share` allows; the message ends with `remedy`.
    """
    share = report["failed"] / max(report["requested"], 1)
    if share > max_failed_share:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in report["failures"].items())
        raise CeilingError(
            f"{report['failed']} of {report['requested']} images have no caption ({share:.1%}); max_failed_share of "
            f"the captioner allows {max_failed_share:.1%}. Reasons: {reasons}. {remedy}"
        )


def publish_captions(tables: Iterable[tuple[str, str, Path]], out: Path, root: str | None) -> None:
    """Make the dataset folder `out` from (shard name, SHA-256 of the image tar, captions table), by rename; with a
    `root` in S3, the tables lie there."""
    with publish_folder(out) as staging:
        shards = []
        for name, tar_sha256, table in tables:
            shutil.copyfile(table, staging / f"{name}.parquet")
            file = describe_file(staging, f"{name}.parquet")
            shards.append(Shard(name, count_rows(table), {"table": file}, of=tar_sha256))
        write_manifest(staging, "captions", shards, root)
