"""Secrets never reach a tracking server; settings that only sound like secrets do."""

import pytest

from lotlip.params import load_params
from lotlip.tracking.redact import flat_metrics, flat_params, redacted


@pytest.mark.parametrize(
    "name", ["hf_token", "token", "aws_secret_access_key", "AWS_ACCESS_KEY_ID", "apiKey", "password", "keyId"]
)
def test_secrets_are_hidden(name: str) -> None:
    assert flat_params({"store": {name: "hunter2"}}) == {f"store.{name}": "***"}


def test_everything_under_a_secret_name_is_hidden() -> None:
    assert redacted({"credentials": {"user": "me", "pin": 1}}) == {"credentials": "***"}


def test_a_missing_secret_is_shown_as_missing() -> None:
    assert flat_params({"hf_token": None}) == {"hf_token": "null"}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://me:hunter2@host/bucket", "s3://***@host/bucket"),
        ("https://host/a?X-Amz-Signature=hunter2&b=1", "https://host/a?X-Amz-Signature=***&b=1"),
        ("see https://hunter2@host/x and user@host", "see https://***@host/x and user@host"),
    ],
)
def test_urls_lose_their_secrets(url: str, shown: str) -> None:
    assert flat_params({"path": url}) == {"path": shown}


def test_no_setting_of_the_project_is_taken_for_a_secret() -> None:
    flat = flat_params(load_params().model_dump(mode="json", by_alias=True))
    assert "***" not in flat.values()
    assert flat["train.token_limit"] == "128"
    assert flat["methods.lotlip.corner_tokens"] == "2"
    assert flat["train.tokenizer"].endswith("tokenizer")


def test_metrics_are_the_numbers_of_a_report() -> None:
    report = {"long": {"i2t_r1": 47, "ks": [1, 5]}, "ok": True, "title": "x", "share@16": 0.5, "none": None}
    assert flat_metrics(report) == {"long/i2t_r1": 47.0, "ok": 1.0, "share_16": 0.5}
