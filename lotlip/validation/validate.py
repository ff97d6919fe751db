"""Validate images and captions: row rules fill the quarantine, suites over the tables judge the whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotlip import params
from lotlip.data.manifest import Manifest, Shard, read_manifest
from lotlip.errors import ParamsError
from lotlip.validation.checks import (
    Check,
    drift_checks,
    image_checks,
    is_applicable,
    join_checks,
    long_checks,
    raw_checks,
)
from lotlip.validation.docs import write_docs
from lotlip.validation.drift import BASELINES, drift_table, read_baseline
from lotlip.validation.joins import joins_table
from lotlip.validation.leaks import find_leaks, mark_leaks, may_be_trained_on
from lotlip.validation.offenders import worst_offenders
from lotlip.validation.quarantine import write_quarantine
from lotlip.validation.raw_texts import open_language_finder
from lotlip.validation.rules import image_reasons, long_reasons, raw_reasons
from lotlip.validation.suites import SuiteResult, run_suite
from lotlip.validation.summary import Frames, summarise
from lotlip.validation.tables import image_table, long_table, raw_table
from lotlip.validation.texts import open_token_counter

if TYPE_CHECKING:
    import pandas as pd

CHECKS = {"image": image_checks, "raw": raw_checks, "joins": join_checks, "drift": drift_checks}


@dataclass(frozen=True)
class Inputs:
    """What is judged: image folders, one a source; caption folders by captioner; evaluation sets by name.

    `held_out` is the share of each source that is kept for evaluation, `max_pixels` what is still decoded.
    """

    images: Sequence[Manifest]
    captions: Mapping[str, Manifest]
    evalsets: Mapping[str, Path] = field(default_factory=dict)
    held_out: Mapping[str, float] = field(default_factory=dict)
    max_pixels: int = 50_000_000

    @property
    def shards(self) -> dict[str, Shard]:
        """The image shards by name."""
        return {shard.name: shard for manifest in self.images for shard in manifest.shards}


def open_inputs(settings: params.Params, data: Path = Path("data")) -> Inputs:
    """What the stages before have written for these settings.

    Raises:
        DataError: a manifest is missing or of another kind.
    """
    return Inputs(
        [read_manifest(data / "images" / name, "images") for name in settings.sources],
        {name: read_manifest(data / "captions" / name, "captions") for name in settings.captioners},
        {name: data / "evalsets" / name for name in settings.evalsets},
        {name: source.held_out_share for name, source in settings.sources.items()},
        settings.download.max_pixels,
    )


def validate(inputs: Inputs, rules: params.Validate, out: Path, docs: Path, root: str | None = None) -> dict[str, Any]:
    """Judge every image, raw caption and long text; write the quarantine and the Data Docs.

    Texts of rejected images are not judged. A passed limit raises nothing here, so that the summary can be
    written first: then give it to `check_summary`.

    Args:
        inputs: what is judged.
        rules: thresholds and ceilings.
        out: quarantine folder to write, a table `key, subject, reason` an image shard.
        docs: folder of HTML pages to write: `summary.html` for a first look, `index.html` with all expectations.
        root: place in S3 where the quarantine's tables go; None: they stay in `out`.

    Returns:
        The summary: counts by reason, shares and means of images, raw captions and each captioner's texts, the way from
        requested images to such with texts, leaks, drift, numbers of passed and failed expectations, and `failed` with
        measured numbers, limits and worst rows.

    Raises:
        DataError: a folder does not hold what its manifest says, captions belong to other images, an evaluation set
            or the baseline cannot be read, or there is no image at all.
    """
    tables, reasons = judge_rows(inputs, rules)
    write_quarantine(inputs.shards, tables, reasons, out, root)
    wholes = whole_tables(tables, reasons, rules)
    results = judge_tables(tables | wholes, rules)
    summary = summarise(tables, reasons, wholes, results)
    offences = worst_offenders(inputs.images, tables, reasons, inputs.max_pixels)
    write_docs(results, summary, offences, rules.max_drift, docs)
    return summary


def judge_rows(inputs: Inputs, rules: params.Validate) -> tuple[Frames, Frames]:
    """Build the tables and apply the row rules: both by subject ("image", "raw", then captioners)."""
    taken = params.RESERVED_NAMES & set(inputs.captions)
    if taken:
        raise ParamsError(f"A captioner may not be named {', '.join(taken)}: validation uses that name itself.")
    count_tokens = open_token_counter(rules.tokenizer, rules.tokenizer_revision)
    table, reasons = _judge_images(inputs, rules)
    find_languages = open_language_finder(rules.raw.languages) if rules.raw.languages else None
    raw = raw_table(table[table["kept"]], count_tokens, find_languages)
    tables, all_reasons = {"image": table, "raw": raw}, {"image": reasons, "raw": raw_reasons(raw, rules.raw)}
    for name, manifest in inputs.captions.items():
        tables[name] = long_table(table, inputs.shards, manifest, count_tokens)
        all_reasons[name] = long_reasons(tables[name], rules.long)
    for name, found in all_reasons.items():
        if name != "image":
            tables[name]["rejected"] = found.any(axis=1).astype(float)
        print(f"validate {name}: {len(found)} rows, {found.any(axis=1).sum()} rejected", flush=True)
    return tables, all_reasons


def whole_tables(tables: Frames, reasons: Frames, rules: params.Validate) -> Frames:
    """Tables about the data as a whole: "joins", and "drift" where there is a baseline."""
    wholes = {"joins": joins_table(tables, reasons)}
    if rules.baseline is not None:
        baseline = read_baseline(BASELINES / f"{rules.baseline}.json")
        wholes["drift"] = drift_table(tables, rules.baseline, baseline)
    return wholes


def judge_tables(tables: Frames, rules: params.Validate) -> list[SuiteResult]:
    """Run the suite of each table; the tables are those of `judge_rows` and `whole_tables`."""
    return [run_suite(name, table, _checks(name, table, rules)) for name, table in tables.items()]


def _judge_images(inputs: Inputs, rules: params.Validate) -> "tuple[pd.DataFrame, pd.DataFrame]":
    table = image_table(inputs.images)
    trained = may_be_trained_on(table, inputs.held_out)
    leaks = find_leaks(table[trained], inputs.evalsets, rules.leaks.max_distance, inputs.max_pixels)
    mark_leaks(table, trained, leaks)
    reasons = image_reasons(table, rules.image, leaks, inputs.evalsets)
    rejected = reasons.any(axis=1)
    success = table["status"] == "success"
    table["kept"] = success & ~rejected
    table["rejected"] = rejected.astype(float).where(success)
    return table, reasons


def _checks(subject: str, table: "pd.DataFrame", rules: params.Validate) -> list[Check]:
    checks = CHECKS.get(subject, long_checks)(rules)
    return [check for check in checks if is_applicable(check, table)]
