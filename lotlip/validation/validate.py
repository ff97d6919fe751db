"""Validate images and captions: row rules fill the quarantine, suites over the tables judge the whole."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotlip import params
from lotlip.data.manifest import Manifest
from lotlip.errors import ParamsError
from lotlip.validation.checks import Check, image_checks, is_applicable, long_checks, raw_checks
from lotlip.validation.docs import write_docs
from lotlip.validation.quarantine import write_quarantine
from lotlip.validation.rules import image_reasons, long_reasons, raw_reasons
from lotlip.validation.suites import SuiteResult, run_suite
from lotlip.validation.summary import Frames, summarise
from lotlip.validation.tables import image_table, long_table, raw_table
from lotlip.validation.texts import open_token_counter

if TYPE_CHECKING:
    import pandas as pd


def validate(
    images: Sequence[Manifest], captions: dict[str, Manifest], rules: params.Validate, out: Path, docs: Path
) -> dict[str, Any]:
    """Judge every image, raw caption and long text; write the quarantine and the Data Docs.

    Texts of rejected images are not judged. A passed limit raises nothing here, so that the summary can be
    written first: then give it to `check_summary`.

    Args:
        images: image folders, one a source.
        captions: caption folders by captioner.
        out: quarantine folder to write, a table `key, subject, reason` an image shard.
        docs: folder of HTML pages to write, `index.html` first.

    Returns:
        The summary: counts by reason, shares and means of images, raw captions and each captioner's texts,
        numbers of passed and failed expectations, and `failed` with measured numbers, limits and worst rows.

    Raises:
        DataError: a folder does not hold what its manifest says, captions belong to other images, or there is
            no image at all.
    """
    tables, reasons = judge_rows(images, captions, rules)
    shards = {shard.name: shard for manifest in images for shard in manifest.shards}
    write_quarantine(shards, tables, reasons, out)
    results = judge_tables(tables, rules)
    summary = summarise(tables, reasons, results)
    write_docs(results, summary, docs)
    return summary


def judge_rows(
    images: Sequence[Manifest], captions: dict[str, Manifest], rules: params.Validate
) -> tuple[Frames, Frames]:
    """Build the tables and apply the row rules: both by subject ("image", "raw", then captioners)."""
    taken = {"image", "raw", "index"} & set(captions)
    if taken:
        raise ParamsError(f"A captioner may not be named {', '.join(taken)}: validation uses that name itself.")
    count_tokens = open_token_counter(rules.tokenizer, rules.tokenizer_revision)
    shards = {shard.name: shard for manifest in images for shard in manifest.shards}
    table = image_table(images)
    reasons = {"image": image_reasons(table, rules.image)}
    rejected = reasons["image"].any(axis=1)
    success = table["status"] == "success"
    table["kept"] = success & ~rejected
    table["rejected"] = rejected.astype(float).where(success)
    tables = {"image": table, "raw": raw_table(table[table["kept"]], count_tokens)}
    reasons["raw"] = raw_reasons(tables["raw"], rules.raw)
    for name, manifest in captions.items():
        tables[name] = long_table(table, shards, manifest, count_tokens)
        reasons[name] = long_reasons(tables[name], rules.long)
        tables[name]["rejected"] = reasons[name].any(axis=1).astype(float)
    for name in tables:
        print(
            f"validate {name}: {len(tables[name])} rows, {reasons[name].any(axis=1).sum()} rejected",
            flush=True,
        )
    return tables, reasons


def judge_tables(tables: Frames, rules: params.Validate) -> list[SuiteResult]:
    """Run the suite of each table; the tables are those of `judge_rows`."""
    return [run_suite(name, table, _checks(name, table, rules)) for name, table in tables.items()]


def _checks(subject: str, table: "pd.DataFrame", rules: params.Validate) -> list[Check]:
    checks = {"image": image_checks, "raw": raw_checks}.get(subject, long_checks)(rules)
    return [check for check in checks if is_applicable(check, table)]
