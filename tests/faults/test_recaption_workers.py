"""Captioning on two workers, one of them killed in the middle of a shard: same bytes, finished batches not redone."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lotlip.captioning.backends import open_captioner
from lotlip.captioning.captioner import Captioner
from lotlip.captioning.shards import HERE, caption_shards
from lotlip.data.manifest import Manifest
from lotlip.params import Executor, TransformersCaptioner
from tests.captioning.samples import MAX_PIXELS, captioner_params, encode_png, make_pictures, write_images
from tests.captioning.tiny import build_tiny_llava
from tests.cluster import ray_cluster

ENCODED = [encode_png(image) for image in make_pictures(12)]


def open_mortal(params: TransformersCaptioner, folder: Path) -> Captioner:
    """A captioner that notes each call with its process, and kills the first process to reach its third call."""
    captioner = open_captioner(params)
    caption, calls = captioner.caption, []

    def noting(images: Any, *rest: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 3 and not (folder / "killed").exists():
            (folder / "killed").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / f"call-{os.getpid()}-{len(calls)}-{len(images)}").touch()
        return caption(images, *rest, **named)

    captioner.caption = noting  # type: ignore[method-assign]
    return captioner


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with ray_cluster():
        yield


def caption_all(images: Manifest, folder: Path, params: TransformersCaptioner, executor: Executor) -> dict[str, Any]:
    folder.mkdir()
    opened = partial(open_mortal, params, folder)
    if executor is HERE:
        opened = partial(open_captioner, params)
    return caption_shards(
        [images], folder / "captions", opened, batch_size=1, max_pixels=MAX_PIXELS, work=folder / "work",
        executor=executor,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["local", pytest.param("ray", marks=pytest.mark.server)])
def test_a_killed_worker_costs_its_last_batch_alone(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if kind == "ray":
        request.getfixturevalue("cluster")
    params = captioner_params(build_tiny_llava(tmp_path / "llava"), max_new_tokens=4)
    images = write_images(tmp_path / "images", "a", [ENCODED[:4], ENCODED[4:8], ENCODED[8:]])
    whole = caption_all(images, tmp_path / "whole", params, HERE)
    executor = Executor(kind=kind, workers=2, num_gpus=0.0, address=None, retries=1)  # type: ignore[arg-type]
    killed = caption_all(images, tmp_path / "killed", params, executor)

    assert killed == whole
    files = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "captions").iterdir()}
        for name in ("whole", "killed")
    ]
    assert files[0] == files[1]
    assert (tmp_path / "killed/killed").exists()
    # A process pool that loses a worker stops the others, too: each may lose the batch that it was at.
    calls = len(list((tmp_path / "killed").glob("call-*")))
    assert 12 <= calls <= 13
