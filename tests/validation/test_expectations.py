"""Every expectation fails exactly when its limit is passed: at the limit it holds, one sample on it fails."""

from collections.abc import Callable
from typing import Any

import pytest

from lotlip.errors import CeilingError, DataError
from lotlip.params import Validate
from lotlip.records import sha256_bytes
from lotlip.validation.checks import drift_checks, image_checks, join_checks, long_checks, raw_checks
from lotlip.validation.summary import check_summary
from tests.validation.builders import LONG, Dataset, long, lost, square, write_evalset

Change = Callable[[Dataset, int], None]


def set_rows(which: str, **values: Any) -> Change:
    """Give the first n rows these values."""

    def change(dataset: Dataset, number: int) -> None:
        for row in getattr(dataset, which)[:number]:
            row.update(values)

    return change


def lose(dataset: Dataset, number: int) -> None:
    dataset.images[:number] = [lost(f"k{i:02}") for i in range(number)]


def repeat_images(dataset: Dataset, number: int) -> None:
    for row in dataset.images[: number + 1]:
        row["sha256"] = "same"


def repeat_texts(dataset: Dataset, number: int) -> None:
    for row in dataset.longs[: number + 1]:
        row["text"] = LONG


def vary_captions(dataset: Dataset, number: int) -> None:
    """Captions that repeat `number` times, of 20, the rest different."""
    for i, row in enumerate(dataset.images[number + 1 :]):
        row["caption"] = f"red {'abcdefghijklmnopqrst'[i]}"


def spoil_files(dataset: Dataset, number: int) -> None:
    dataset.images[:number] = [lost(f"k{i:02}", "failed_to_decode") for i in range(number)]


def leak(dataset: Dataset, number: int) -> None:
    """The first images are those of an evaluation set, by their bytes."""
    data = [square(f"k{i:02}") for i in range(number)]
    for row, image in zip(dataset.images, data, strict=False):
        row["sha256"] = sha256_bytes(image)
    folder = write_evalset(dataset.folder / "evalsets/long", {f"{i}.png": image for i, image in enumerate(data)})
    dataset.evalsets["long"] = folder


def drop_rows(dataset: Dataset, number: int) -> None:
    del dataset.longs[:number]


def double_rows(dataset: Dataset, number: int) -> None:
    dataset.longs[:number] = [long(f"k{i:02}", text=f"{LONG} {word}.") for i in range(number) for word in "xy"]


def rename(dataset: Dataset, number: int) -> None:
    for row in dataset.images[:number]:
        row["key"] = "k05"


# (change, most that is allowed of 20, failed checks by column and measured number with one more)
CASES: list[tuple[str, Change, int, dict[tuple[str, str], float]]] = [
    ("lost images", lose, 5, {("image", "failed"): 0.3}),
    ("repeated images", repeat_images, 2, {("image", "duplicate"): 0.15}),
    ("narrow", set_rows("images", width=31), 4, {("image", "width"): 0.25, ("image", "rejected"): 0.25}),
    ("low", set_rows("images", height=31), 4, {("image", "height"): 0.25, ("image", "rejected"): 0.25}),
    ("elongated", set_rows("images", height=500), 4, {("image", "rejected"): 0.25}),
    ("no url", set_rows("images", url=None), 4, {("image", "url"): 0.25}),
    (
        "no caption",
        set_rows("images", caption=None),
        4,
        {("raw", "caption"): 0.25, ("raw", "num_tokens"): 0.25, ("raw", "rejected"): 0.25},
    ),
    (
        "long raw",
        set_rows("images", caption="red " * 6),
        4,
        {("raw", "num_tokens"): 0.25, ("raw", "rejected"): 0.25},
    ),
    ("markup", set_rows("images", caption="&lt;"), 4, {("raw", "markup"): 0.25, ("raw", "rejected"): 0.25}),
    (
        "foreign",
        set_rows("images", caption="Собака спит"),
        4,
        {("raw", "language_probability"): 0.25, ("raw", "rejected"): 0.25},
    ),
    ("other formats", set_rows("images", format="webp"), 4, {("image", "format"): 0.25, ("image", "rejected"): 0.25}),
    ("no images", spoil_files, 2, {("image", "undecodable"): 0.15}),
    ("leaks", leak, 2, {("image", "leak"): 0.15}),
    ("missing rows", drop_rows, 0, {("llava", "captioner"): 0.05}),
    ("doubled rows", double_rows, 0, {("llava", "key"): 2 / 21}),
    ("mixed captioners", set_rows("longs", captioner="other"), 0, {("llava", "captioner"): 2.0}),
    ("failures", set_rows("longs", failure="refusal"), 4, {("llava", "rejected"): 0.25}),
    ("truncated", set_rows("longs", finish_reason="length"), 2, {("llava", "truncated"): 0.15}),
    ("repeated texts", repeat_texts, 2, {("llava", "duplicate"): 0.15}),
]


@pytest.mark.parametrize(("name", "change", "most", "expected"), CASES, ids=[case[0] for case in CASES])
def test_limits(dataset: Dataset, name: str, change: Change, most: int, expected: dict[tuple[str, str], float]) -> None:
    if most:
        change(dataset, most)
        assert dataset.judge()["failed"] == []
    further = Dataset(dataset.folder / "further", dataset.rules)
    change(further, most + 1)
    assert failures(further.judge()) == pytest.approx(expected, abs=1e-6)


def test_good_samples_fail_nothing(dataset: Dataset) -> None:
    summary = dataset.judge()
    assert summary["failed"] == []
    assert summary["expectations"] == {"evaluated": 30, "passed": 30, "failed": 0}


def test_repeated_keys(dataset: Dataset) -> None:
    rename(dataset, 1)  # k00 becomes a second k05
    dataset.longs = dataset.longs[1:]
    assert failures(dataset.judge()) == {("image", "key"): 0.1, ("raw", "key"): 0.1, ("llava", "key"): 0.1}


def test_short_texts_fail_tokens_and_rejections(changed: Callable[..., Dataset]) -> None:
    summary = changed("longs", 5, text="a red circle").judge()
    assert failures(summary)[("llava", "num_tokens")] == 0.25
    assert summary["long"]["llava"]["rejected_by"]["min_tokens"] == 5


def test_raw_repeats(dataset: Dataset) -> None:
    dataset.rules = dataset.rules.model_copy(
        update={"raw": dataset.rules.raw.model_copy(update={"max_duplicate_share": 0.5})}
    )
    vary_captions(dataset, 10)
    assert dataset.judge()["failed"] == []
    further = Dataset(dataset.folder / "further", dataset.rules)
    vary_captions(further, 11)
    assert failures(further.judge()) == {("raw", "duplicate"): 0.55}


def test_boilerplate(dataset: Dataset) -> None:
    dataset.rules = dataset.rules.model_copy(update={"raw": dataset.rules.raw.model_copy(update={"max_repeats": 3})})
    vary_captions(dataset, 2)  # one caption of 3 images
    assert dataset.judge()["failed"] == []
    further = Dataset(dataset.folder / "further", dataset.rules)
    vary_captions(further, 4)  # of 5
    assert failures(further.judge()) == {("raw", "repeats"): 0.25, ("raw", "rejected"): 0.25}


@pytest.mark.parametrize(
    ("rejected", "expected"), [(6, {}), (7, {"without_long": 0.35}), (11, {"without_long": 0.55, "incomplete": 0.55})]
)
def test_joins(dataset: Dataset, rejected: int, expected: dict[str, float]) -> None:
    """With one captioner, an image whose text is rejected has none at all and not every one."""
    set_rows("longs", failure="refusal")(dataset, rejected)
    summary = dataset.judge()
    assert summary["joins"]["incomplete"] == rejected / 20
    assert {column: value for (suite, column), value in failures(summary).items() if suite == "joins"} == expected


def test_unknown_status_is_found(dataset: Dataset) -> None:
    dataset.images[3]["status"] = "fine"
    assert failures(dataset.judge()) == {("image", "status"): 0.05}


def test_photos_captioned_by_a_model_that_knows_only_scenes_fail_the_recall(
    changed: Callable[..., Dataset],
) -> None:
    dataset = changed("images", 20, caption="two dogs")
    summary = dataset.judge()
    assert summary["long"]["llava"]["raw_word_recall"] == 0.0
    assert failures(summary) == {("llava", "raw_word_recall"): 0.0}
    with pytest.raises(CeilingError) as error:
        check_summary(summary, "fail")
    lines = str(error.value).splitlines()
    assert lines[1] == "- llava: mean raw-word recall is 0, at least 0.5 is allowed"
    assert "change validate.long.min_raw_word_recall in params.yaml" in lines[2]
    assert lines[3].startswith("    'k00' of s-00000: raw_word_recall 0, raw 'two dogs', text 'A red circle lies")
    assert len([line for line in lines if line.startswith("    ")]) == 3


def test_a_passed_limit_can_be_reported_without_stopping(
    changed: Callable[..., Dataset], capsys: pytest.CaptureFixture[str]
) -> None:
    check_summary(changed("images", 20, caption="two dogs").judge(), "report")
    assert "warning: validation failed 1 of" in capsys.readouterr().out


def test_recall_at_the_floor_holds(changed: Callable[..., Dataset]) -> None:
    assert changed("images", 10, caption="two dogs").judge()["failed"] == []  # (10 x 0 + 10 x 1) / 20


def test_damage_is_no_matter_of_settings(dataset: Dataset) -> None:
    drop_rows(dataset, 1)
    with pytest.raises(DataError, match=r"share of kept images without a row is 0.05, at most 0 is allowed"):
        check_summary(dataset.judge(), "report")


def test_a_limit_that_allows_everything_needs_nothing_to_measure(dataset: Dataset) -> None:
    for row in dataset.images:
        row["caption"] = ""
    raw = dataset.rules.raw.model_copy(update={"min_tokens": 0, "max_duplicate_share": 1.0})
    long_rules = dataset.rules.long.model_copy(update={"min_raw_word_recall": 0.0})
    dataset.rules = dataset.rules.model_copy(update={"raw": raw, "long": long_rules})
    assert dataset.judge()["failed"] == []


def test_nothing_kept_fails(changed: Callable[..., Dataset]) -> None:
    summary = changed("images", 20, width=1).judge()
    assert summary["images"]["kept"] == 0
    with pytest.raises(CeilingError, match=r"share of rejected images is 1, at most 0.2 is allowed"):
        check_summary(summary, "fail")


def test_every_setting_named_by_a_check_exists(rules: Validate) -> None:
    rules = rules.model_copy(update={"raw": rules.raw.model_copy(update={"max_repeats": 3})})
    checks = [*image_checks(rules), *raw_checks(rules), *long_checks(rules), *join_checks(rules), *drift_checks(rules)]
    for check in checks:
        value: Any = {"validate": rules}
        for part in (check.params or "").split(".") if check.params else []:
            value = value[part] if isinstance(value, dict) else getattr(value, part)
        if check.params:
            assert value == pytest.approx(check.limit)


def failures(summary: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Measured numbers of the failed expectations by suite and column."""
    return {(one["suite"], one["column"]): one["measured"] for one in summary["failed"]}
