"""Nested settings as flat text for MLflow, with secrets taken out."""

import re
from itertools import pairwise
from typing import Any

HIDDEN = "***"
_SECRET_WORDS = {"secret", "secrets", "password", "passwd", "credential", "credentials", "apikey"}
_SECRET_PAIRS = {("key", "id"), ("api", "key"), ("access", "key"), ("private", "key"), ("secret", "key")}
_USERINFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/@\s]+@", re.IGNORECASE)
_SIGNED_QUERY = re.compile(r"([?&][^=&\s]*(?:token|secret|password|signature|credential|key)[^=&\s]*=)[^&\s]+", re.I)


def is_secret(key: str, value: Any) -> bool:
    """True when a setting of that name holds a secret.

    `token` counts only as the last word of a text's name (`hf_token`), because `token_limit`, `corner_tokens`
    and `tokenizer` are no secrets.
    """
    if value in (None, ""):
        return False
    words = [word for word in re.split(r"[^a-z0-9]+", _snake(key)) if word]
    if _SECRET_WORDS & set(words) or _SECRET_PAIRS & set(pairwise(words)):
        return True
    return isinstance(value, str) and words[-1:] == ["token"]


def hide_in_text(text: str) -> str:
    """`text` without the user information and the signed query values of the URLs in it."""
    return _SIGNED_QUERY.sub(rf"\g<1>{HIDDEN}", _USERINFO.sub(rf"\g<1>{HIDDEN}@", text))


def redacted(value: Any, key: str = "") -> Any:
    """A copy of a nested value in which secrets read `***`; a secret's name hides everything below it."""
    if key and is_secret(key, value):
        return HIDDEN
    if isinstance(value, dict):
        return {name: redacted(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item, key) for item in value]
    return hide_in_text(value) if isinstance(value, str) else value


def flatten(value: Any, prefix: str = "", separator: str = ".") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`; lists and scalars are leaves, empty mappings vanish."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for name, item in value.items():
        flat.update(flatten(item, f"{prefix}{separator}{name}" if prefix else str(name), separator))
    return flat


def flat_params(values: dict[str, Any]) -> dict[str, str]:
    """Nested settings as MLflow params: dotted names, texts, no secrets."""
    flat = flatten(redacted(values))
    return {name: "null" if item is None else str(item) for name, item in flat.items()}


def flat_metrics(values: Any) -> dict[str, float]:
    """The numbers of a nested report as MLflow metrics, names joined by `/`; other leaves are left out."""
    flat = flatten(values, separator="/")
    numbers = {name: item for name, item in flat.items() if name and isinstance(item, int | float)}
    return {metric_name(name): float(item) for name, item in numbers.items()}


def metric_name(name: str) -> str:
    """`name` with what MLflow forbids in a metric's name replaced by `_`."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def _snake(key: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower()
