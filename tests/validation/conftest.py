"""A good dataset that each test changes, and the rules it is judged by."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lotlip.params import ImageRules, JoinRules, LeakRules, LongRules, RawRules, Validate
from tests.validation.builders import Dataset, write_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tokenizer(tmp_path_factory.mktemp("validation") / "tokenizer")


@pytest.fixture
def rules(tokenizer: str) -> Validate:
    return Validate(
        tokenizer=tokenizer,
        tokenizer_revision=None,
        image=ImageRules(
            min_side=32,
            max_aspect=4.0,
            formats=["jpg", "png"],
            max_failed_share=0.25,
            max_undecodable_share=0.1,
            max_duplicate_share=0.1,
        ),
        raw=RawRules(
            min_tokens=1,
            max_tokens=5,
            allow_markup=False,
            languages=["en"],
            min_language_probability=0.001,
            max_repeats=None,
            max_duplicate_share=0.95,
        ),
        long=LongRules(
            min_tokens=5,
            max_tokens=40,
            max_truncated_share=0.1,
            max_duplicate_share=0.1,
            min_raw_word_recall=0.5,
        ),
        joins=JoinRules(max_without_long_share=0.3, max_incomplete_share=0.5),
        leaks=LeakRules(max_distance=2, max_share=0.1),
        max_rejected_share=0.2,
        baseline=None,
        max_drift=0.2,
        on_breach="fail",
    )


@pytest.fixture
def dataset(tmp_path: Path, rules: Validate) -> Dataset:
    return Dataset(tmp_path, rules)


@pytest.fixture
def changed(dataset: Dataset) -> Callable[..., Dataset]:
    """`changed("images" | "longs", number, key=value, ...)`: the first `number` rows get these values."""

    def change(which: str, number: int, **values: Any) -> Dataset:
        for row in getattr(dataset, which)[:number]:
            row.update(values)
        return dataset

    return change
