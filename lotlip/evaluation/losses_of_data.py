"""Every loss of data on the way from sources to metrics, in one list."""

from collections.abc import Iterator
from dataclasses import dataclass

from lotlip.data.tables import FILTERED
from lotlip.evaluation.results import Results


@dataclass(frozen=True)
class DataLoss:
    """`count` of `total` things were lost or cut in the stage `where`; `why` lists reasons with counts."""

    where: str
    what: str
    count: int
    total: int
    why: str = ""

    @property
    def share(self) -> float:
        return self.count / self.total if self.total else 0.0


def data_losses(results: Results) -> list[DataLoss]:
    """All losses in the order of the stages, those that did not happen included: zero is a finding too."""
    return [
        *_download(results),
        *_captions(results),
        *_validation(results),
        *_training(results),
        *_sets(results),
    ]


def _download(results: Results) -> Iterator[DataLoss]:
    for name, report in results.download.items():
        stage, wanted = f"download@{name}", report["requested"] - report["filtered"]
        filtered = {error: count for error, count in report["errors"].items() if error.startswith(FILTERED)}
        failed = {error: count for error, count in report["errors"].items() if error not in filtered}
        if filtered:
            why = _why(filtered)
            yield DataLoss(stage, "rows left out by filters", report["filtered"], report["requested"], why)
        yield DataLoss(stage, "images not fetched", wanted - report["success"], wanted, _why(failed))


def _captions(results: Results) -> Iterator[DataLoss]:
    for name, report in results.recaption.items():
        stage = f"recaption@{name}"
        why = _why(report["failures"])
        yield DataLoss(stage, "images without a long text", report["failed"], report["requested"], why)
        yield DataLoss(stage, "long texts cut at the length limit", report["truncated"], report["captioned"])
        if asked := report["short_captions"] + report["short_failed"]:
            yield DataLoss(stage, "images without a short caption", report["short_failed"], asked)
        if table := report.get("table"):
            unused = {name: table[name] for name in ("without_image", "repeated", "unreadable")}
            yield DataLoss(stage, "rows of the table not used", sum(unused.values()), table["rows"], _why(unused))


def _validation(results: Results) -> Iterator[DataLoss]:
    groups = {"images": results.validate["images"], "raw captions": results.validate["raw"]}
    groups |= {f"long texts by {name}": verdict for name, verdict in results.validate["long"].items()}
    for what, verdict in groups.items():
        total = verdict["kept"] + verdict["rejected"]
        yield DataLoss("validate", f"{what} rejected", verdict["rejected"], total, _why(verdict["rejected_by"]))


def _training(results: Results) -> Iterator[DataLoss]:
    for name, report in results.train.items():
        stage = f"train@{name}"
        seen = int(report["texts_seen"])
        truncated = round(report["truncated_text_share"] * seen)
        yield DataLoss(stage, "texts cut at the token limit", truncated, seen)
        pairs = int(report["pairs_seen"] + report["dropped_pairs"])
        yield DataLoss(stage, "pairs that fill no batch", int(report["dropped_pairs"]), pairs)
        yield DataLoss(stage, "steps skipped (not finite)", int(report["skipped_steps"]), int(report["steps"]))
        if results.params.methods[name].num_long:
            samples = int(report["num_samples"])
            yield DataLoss(stage, "samples without a long text", int(report["without_long"]), samples)


def _sets(results: Results) -> Iterator[DataLoss]:
    for name, report in results.evalset.items():
        stage, missing = f"evalset@{name}", report.get("num_missing_images")
        named = report["num_images"] + report.get("num_skipped_without_text", 0) + (missing or 0)
        if "num_skipped_without_text" in report:
            yield DataLoss(stage, "images without a text", report["num_skipped_without_text"], named)
        if missing is not None:
            yield DataLoss(stage, "images that its folder lacks", missing, named)
            empty = report["num_empty_texts"]
            yield DataLoss(stage, "empty texts", empty, report["num_texts"] + empty)


def _why(reasons: dict[str, int]) -> str:
    return ", ".join(f"{reason}: {count:,}" for reason, count in reasons.items() if count)
