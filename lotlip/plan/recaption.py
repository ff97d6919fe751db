"""Captioning: a few batches measured, and what follows from them for many images on many workers."""

import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lotlip import params as settings
from lotlip.captioning.backends import open_captioner
from lotlip.captioning.costs import Costs
from lotlip.captioning.shards import Batch, caption_batch, feed
from lotlip.captioning.tables import Row, make_row, write_captions
from lotlip.captioning.transformers_backend import TransformersCaptioner
from lotlip.data.manifest import Manifest
from lotlip.data.shards import ShardReader
from lotlip.errors import DataError

LABELS = {
    "device": "measured on",
    "measured_images": "images measured",
    "batch_size": "batch size",
    "images_per_s": "images/s, one worker",
    "tokens": "tokens a long text",
    "hours": "hours",
    "worker_hours": "worker-hours",
    "gpu_hours": "GPU-hours",
    "shards": "shards",
    "image_gb": "GB of images",
    "caption_gb": "GB of captions",
    "gflops": "GFLOPs an image",
    "vision_gflops": "  vision: 2 x weights x patches + attention",
    "prefill_gflops": "  prefill: 2 x weights x prompt + attention",
    "decode_gflops": "  decoding: 2 x weights x tokens + attention",
    "step_mb": "MB a decoding step reads: weights + batch x cache",
    "achieved_gflop_per_s": "GFLOP/s reached",
    "achieved_gb_per_s": "GB/s reached in decoding, all time counted",
}


@dataclass(frozen=True)
class Measured:
    """What a few batches of one captioner took on this machine, after one batch to warm up."""

    images: int
    seconds: float
    tokens: float | None
    caption_bytes: float
    batch_size: int
    device: str
    costs: Costs | None

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds


def measure_captioner(
    params: settings.WritingCaptioner, images: Manifest, num_batches: int, max_pixels: int
) -> Measured:
    """Caption the first images of a folder as the stage does, reading and decoding included.

    Raises:
        DataError: no shard of the folder has more images than one batch.
        ModelError: the captioner cannot be loaded, or its server is away.
    """
    captioner = open_captioner(params)
    size = params.batch_size
    shard = max(images.shards, key=lambda one: one.num_samples, default=None)
    if shard is None or shard.num_samples <= size:
        raise DataError(
            f"{images.folder}: its largest shard has {shard.num_samples if shard else 0} images, no more than one "
            f"batch of {size} to warm up with: give a folder with larger shards, or set a smaller batch_size."
        )
    with ShardReader(images.path(shard, "tar"), shard.files["tar"].sha256) as reader:
        samples = list(enumerate(reader.keys))[: size * (1 + num_batches)]

        def work(todo: list[tuple[int, str]]) -> Iterator[tuple[Batch, list[Row]]]:
            for batch in feed(reader, todo, captioner, size, max_pixels):
                written = {kind: caption_batch(captioner, batch, kind) for kind in captioner.kinds}
                yield (
                    batch,
                    [
                        make_row(key, kind, written[kind][at], captioner.identity)
                        for at, (_, key) in enumerate(batch.samples)
                        for kind in captioner.kinds
                    ],
                )

        pictures = [image for batch, _ in work(samples[:size]) for image in batch.images]
        started = time.monotonic()
        rows = [row for _, rows in work(samples[size:]) for row in rows]
        seconds = time.monotonic() - started
    longs = [row["num_tokens"] for row in rows if row["kind"] == "long" and row["num_tokens"] is not None]
    tokens = sum(longs) / len(longs) if longs else None
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "captions.parquet"
        write_captions(table, rows)
        caption_bytes = table.stat().st_size / (len(rows) / len(captioner.kinds))
    costs, device = None, "endpoint"
    if isinstance(captioner, TransformersCaptioner):
        device = captioner.device
        costs = captioner.costs(pictures[0], tokens or 0.0) if pictures else None
    return Measured(len(samples) - size, seconds, tokens, caption_bytes, size, device, costs)


def make_plan(
    measured: Measured, images: Manifest, num_images: int, workers: int, gpus_a_worker: float, shard_size: int
) -> dict[str, Any]:
    """Hours, storage and shards for `num_images` on `workers` like the one measured; plain numbers, SI units.

    Returns:
        `images_per_s` of one worker, `hours`, `worker_hours`, `gpu_hours` (0 on a CPU or an endpoint), `shards`,
        `image_gb` (at the mean size of the folder's images), `caption_gb`, `tokens` an image; with the arithmetic of a
        local model `gflops` an image and its parts, `step_mb` that a decoding step reads, and what was reached:
        `achieved_gflop_per_s` and `achieved_gb_per_s`.
    """
    hours = num_images / (measured.images_per_s * workers) / 3600
    on_gpu = measured.device.startswith("cuda")
    tar_bytes = sum(shard.files["tar"].num_bytes for shard in images.shards)
    plan = {
        "images": num_images,
        "workers": workers,
        "device": measured.device,
        "measured_images": measured.images,
        "batch_size": measured.batch_size,
        "images_per_s": measured.images_per_s,
        "tokens": measured.tokens,
        "hours": hours,
        "worker_hours": hours * workers,
        "gpu_hours": hours * workers * (gpus_a_worker or 1.0) if on_gpu else 0.0,
        "shards": math.ceil(num_images / shard_size),
        "image_gb": num_images * tar_bytes / images.num_samples / 1e9,
        "caption_gb": num_images * measured.caption_bytes / 1e9,
    }
    if measured.costs is not None and measured.tokens is not None:
        costs = measured.costs
        steps_a_s = measured.images_per_s / measured.batch_size * measured.tokens
        plan |= {
            "gflops": costs.flops / 1e9,
            "vision_gflops": costs.vision_flops / 1e9,
            "prefill_gflops": costs.prefill_flops / 1e9,
            "decode_gflops": costs.decode_flops / 1e9,
            "step_mb": costs.step_bytes(measured.batch_size) / 1e6,
            "achieved_gflop_per_s": costs.flops * measured.images_per_s / 1e9,
            "achieved_gb_per_s": costs.step_bytes(measured.batch_size) * steps_a_s / 1e9,
        }
    return plan
