"""Run by test_recaption_kill.py: captioning in child processes that SIGKILL themselves at a write.

Torch and the model are loaded once, before the first fork. Usage: CHECKPOINT IMAGES FOLDER; prints JSON, one
record a killed child: {"write": which rename, "when": "before" | "after", "signal", "images": images
captioned by the run that goes on afterwards}.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas  # noqa: F401 - pyarrow loads it at first use: once here, not in every child
import pyarrow.parquet  # noqa: F401
import torch
from PIL import Image

import lotlip.data.images  # noqa: F401
from lotlip.captioning.backends import open_captioner
from lotlip.captioning.captioner import Caption
from lotlip.captioning.shards import caption_shards
from lotlip.data.manifest import read_manifest
from lotlip.records import write_json
from tests.captioning.samples import MAX_PIXELS, captioner_params, make_pictures

BATCH_SIZE = 3
real_replace = os.replace


def main(checkpoint: Path, images: Path, folder: Path) -> None:
    torch.set_num_threads(1)  # no thread pool yet: the children may fork
    captioner = open_captioner(captioner_params(checkpoint, max_new_tokens=4))
    captioner.caption(make_pictures(1))  # what is loaded at first use is loaded here
    manifest = read_manifest(images, "images")
    caption, counted = captioner.caption, []

    def counting(batch: list[Image.Image], *rest: Any, **named: Any) -> list[Caption]:
        counted.append(len(batch))
        return caption(batch, *rest, **named)

    captioner.caption = counting

    def work(name: str) -> None:
        caption_shards(
            [manifest],
            folder / name / "captions",
            lambda: captioner,
            batch_size=BATCH_SIZE,
            max_pixels=MAX_PIXELS,
            work=folder / name / "work",
        )

    def finish(name: str) -> None:
        work(name)
        write_json(folder / name / "captioned.json", sum(counted))

    in_child(partial(work, "whole"))
    writes = count_writes(partial(work, "counted"))
    records = []
    for write in range(writes):
        for when in ("before", "after"):
            name = f"{write}-{when}"
            status = in_child(partial(kill_at, write, when, partial(work, name)))
            assert in_child(partial(finish, name)) == 0
            images_again = json.loads((folder / name / "captioned.json").read_text())
            records.append({"write": write, "when": when, "signal": status, "images": images_again})
    print(json.dumps(records))


def in_child(job: Callable[[], None]) -> int:
    """Run `job` in a forked process; returns the signal that ended it, 0 if none."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 1
        try:
            job()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def count_writes(job: Callable[[], None]) -> int:
    """How many renames `job` makes."""
    reader, writer = os.pipe()

    def counting() -> None:
        calls = []
        os.replace = lambda *paths: (calls.append(1), real_replace(*paths))[1]
        job()
        os.write(writer, str(len(calls)).encode())

    in_child(counting)
    return int(os.read(reader, 100))


def kill_at(write: int, when: str, job: Callable[[], None]) -> None:
    """Run `job` and end this process with SIGKILL before or after its rename number `write`."""
    calls = []

    def replace(*paths: Path) -> None:
        calls.append(1)
        is_last = len(calls) == write + 1
        if is_last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        real_replace(*paths)
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace
    job()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
