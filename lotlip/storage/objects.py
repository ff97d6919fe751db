"""Objects in S3: files named by `s3://bucket/key`, whole or absent, written with conditions where it matters.

Endpoint, region, profile and keys come from the usual AWS settings (AWS_ENDPOINT_URL, AWS_PROFILE,
~/.aws/config, ...). Failed requests are tried again with growing pauses (AWS_MAX_ATTEMPTS, else 8 times).
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lotlip.errors import ObjectError, StorageError
from lotlip.records import atomic_path, sha256_file

_URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<key>.*))?")
_ATTEMPTS = 8
_MISSING = ("404", "NoSuchKey", "NotFound")
_DENIED = ("403", "AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch")
_LOST_CONDITION = ("412", "PreconditionFailed", "409", "ConditionalRequestConflict")


class S3Path(NamedTuple):
    """A bucket and a key in it."""

    bucket: str
    key: str


class Object(NamedTuple):
    """One object: where it is, its size in bytes, the tag that changes with its bytes, and when it was written."""

    url: str
    num_bytes: int
    etag: str
    written_at: datetime


def is_s3(location: str | Path) -> bool:
    """Whether a location is an object or prefix in S3."""
    return str(location).startswith("s3://")


def join(url: str, *parts: str) -> str:
    """`url` with parts put after it, one slash between each."""
    return "/".join([url.rstrip("/"), *parts])


def parse(url: str) -> S3Path:
    """Bucket and key of an `s3://` URL.

    Raises:
        StorageError: it is none.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise StorageError(f"{url!r} is no place in S3; expected s3://bucket/key.")
    return S3Path(match["bucket"], match["key"] or "")


def read_object(url: str) -> bytes:
    """All bytes of a small object."""
    bucket, key = parse(url)
    with _explained(url):
        body: bytes = _client().get_object(Bucket=bucket, Key=key)["Body"].read()
    return body


def delete_object(url: str) -> None:
    """Delete an object; none there is well."""
    bucket, key = parse(url)
    with _explained(url):
        _client().delete_object(Bucket=bucket, Key=key)


def list_objects(prefix: str) -> Iterator[Object]:
    """All objects below a prefix, in order of their keys; folders are what slashes make them."""
    bucket, key = parse(prefix)
    folder = f"{key.rstrip('/')}/" if key else ""
    with _explained(prefix):
        for page in _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder):
            for entry in page.get("Contents", []):
                if not entry["Key"].endswith("/"):
                    yield _object(f"s3://{bucket}/{entry['Key']}", entry["Size"], entry)


def find_object(url: str) -> Object | None:
    """The object at that very URL, or None."""
    bucket, key = parse(url)
    with _explained(url):
        try:
            head = _client().head_object(Bucket=bucket, Key=key)
        except _client().exceptions.ClientError as error:
            if _code(error) in _MISSING:
                return None
            raise
    return _object(url, head["ContentLength"], head)


def server_time(url: str) -> datetime:
    """The clock of the server that holds `url`, to the second."""
    with _explained(url):
        headers = _client().head_bucket(Bucket=parse(url).bucket)["ResponseMetadata"]["HTTPHeaders"]
    return parsedate_to_datetime(headers["date"])


def upload(path: Path, url: str) -> None:
    """Upload a file, in parts with a checksum each where it is large; it is visible when it is complete.

    Raises:
        StorageError: the object has another size afterwards, or the server refuses or is away.
    """
    bucket, key = parse(url)
    with _explained(url):
        _client().upload_file(str(path), bucket, key, ExtraArgs={"ChecksumAlgorithm": "SHA256"})
    found, expected = find_object(url), path.stat().st_size
    if found is None or found.num_bytes != expected:
        arrived = "nothing" if found is None else f"{found.num_bytes} bytes"
        raise StorageError(f"{url}: {expected} bytes were sent, {arrived} arrived: run again.")


def download(url: str, target: Path, sha256: str | None = None) -> None:
    """Download an object to a file, which appears whole.

    Raises:
        ObjectError: it is missing or its bytes have another hash.
        StorageError: the server refuses or is away.
    """
    bucket, key = parse(url)
    with atomic_path(target) as temporary:
        with _explained(url):
            _client().download_file(bucket, key, str(temporary))
        if sha256 is not None and (found := sha256_file(temporary)) != sha256:
            raise ObjectError(
                f"{url} has sha256 {found[:12]}, its manifest says {sha256[:12]}: the object is damaged. "
                "Delete it and run the stage that made it again."
            )


def store(path: Path, root: str, sha256: str) -> str:
    """Upload a file under the name of its SHA-256 below `root`, unless it is there, and return its URL."""
    url = join(root, "objects", sha256[:2], f"{sha256}{path.suffix}")
    found = find_object(url)
    if found is not None and found.num_bytes != path.stat().st_size:
        set_aside(url)
        found = None
    if found is None:
        upload(path, url)
    return url


def set_aside(url: str) -> str:
    """Rename an object whose bytes are not those of its name to `<url>.damaged`, so that it can be stored again."""
    bucket, key = parse(url)
    with _explained(url):
        _client().copy({"Bucket": bucket, "Key": key}, bucket, f"{key}.damaged")
        _client().delete_object(Bucket=bucket, Key=key)
    return f"{url}.damaged"


def write_if_new(url: str, data: bytes) -> str | None:
    """Write an object where there is none; its tag, or None where one is there already."""
    return _write_if(url, data, IfNoneMatch="*")


def write_if_same(url: str, data: bytes, etag: str) -> str | None:
    """Replace an object that still has that tag; its new tag, or None where it changed or is gone."""
    return _write_if(url, data, IfMatch=etag)


def _write_if(url: str, data: bytes, **condition: str) -> str | None:
    bucket, key = parse(url)
    with _explained(url):
        try:
            answer = _client().put_object(Bucket=bucket, Key=key, Body=data, **condition)
        except _client().exceptions.ClientError as error:
            if _code(error) in (*_LOST_CONDITION, *_MISSING):
                return None
            raise
    return str(answer["ETag"]).strip('"')


def _object(url: str, num_bytes: int, record: dict[str, Any]) -> Object:
    return Object(url, num_bytes, record["ETag"].strip('"'), record["LastModified"])


def _client() -> Any:
    return _client_of(os.getpid())  # a forked process must not share connections


@cache
def _client_of(_process: int) -> Any:
    import boto3
    from botocore.config import Config

    settings: dict[str, Any] = {"connect_timeout": 10, "read_timeout": 60}
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        settings["retries"] = {"mode": "standard", "total_max_attempts": _ATTEMPTS}
    return boto3.session.Session().client("s3", config=Config(**settings))


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn what boto3 raises into an error that says what to do."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (ClientError, BotoCoreError, Boto3Error) as error:
        answer = error if isinstance(error, ClientError) else error.__context__  # uploads wrap it
        if isinstance(answer, ClientError) and _code(answer) in _MISSING:
            raise ObjectError(f"{url}: there is no such object.") from error
        if isinstance(answer, ClientError):
            raise StorageError(f"{url}: {_reason(answer)}") from error
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "Amazon S3"
        raise StorageError(
            f"{url}: {endpoint} cannot be used ({error}). Check AWS_ENDPOINT_URL, AWS_PROFILE and the network, "
            "and run again: what is finished is kept."
        ) from error


def _reason(error: Any) -> str:
    code, said = _code(error), error.response.get("Error", {}).get("Message", "")
    if code == "NoSuchBucket":
        return "there is no such bucket: make it, or name another one."
    if code in _DENIED:
        return f"access refused ({said or code}): check AWS_ACCESS_KEY_ID or AWS_PROFILE, and the bucket's policy."
    return f"the server says {code} ({said}) after all attempts: run again later; what is finished is kept."
