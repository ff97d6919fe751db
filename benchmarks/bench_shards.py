"""Reading a shard with its sha256 checked: ours against webdataset's iterator, which checks nothing.

Two shards: rendered scenes of about 1 kB, where headers count, and JPEGs of 20 to 60 kB, where bytes do.
The limit: every byte goes through SHA-256 once (`hash_s`, with `hash_gb_per_s` of this machine's CPU and OpenSSL; some
1.5 to 2 GB/s with SHA instructions, a third of that without), in place, and what is asked for is copied once.
`limit_ratio` is what a reader of no other cost than the hash would reach.
"""

import hashlib
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from sys import path
from typing import Any

import numpy as np
from PIL import Image

path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.timing import compare, save
from lotlip.data.shards import ShardReader, encode_png, write_tar
from lotlip.records import sha256_file
from lotlip.sample.scenes import make_scene, raw_caption, render

ROUNDS = 7


def scenes() -> Iterator[tuple[str, bytes, str]]:
    """2,000 pictures of the sample: extension, bytes, caption."""
    for index in range(2000):
        scene = make_scene(0, index)
        yield "png", encode_png(render(scene)), raw_caption(scene)


def photographs() -> Iterator[tuple[str, bytes, str]]:
    """1,500 JPEGs of 480 x 360 with blurred noise: 20 to 60 kB, as photographs of this size are."""
    draw = np.random.default_rng(0)
    for _ in range(1500):
        side = int(draw.integers(20, 95))
        noise = Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        noise.resize((480, 360), Image.Resampling.BICUBIC).save(buffer, format="JPEG", quality=75)
        yield "jpg", buffer.getvalue(), "A photograph with a caption of usual length, as the web has them"


def measure(tar: Path, pictures: Iterator[tuple[str, bytes, str]]) -> dict[str, Any]:
    """Seconds of both readers over one shard, whether they gave the same, and the limit."""
    import webdataset

    samples = [
        {"__key__": f"{i:020x}", extension: data, "txt": caption, "json": {"index": i}}
        for i, (extension, data, caption) in enumerate(pictures)
    ]
    num_samples, image_bytes = len(samples), sum(len(sample.get("jpg", sample.get("png"))) for sample in samples)
    write_tar(tar, samples)
    del samples
    digest, content = sha256_file(tar), tar.read_bytes()

    def ours() -> Iterator[tuple[bytes, str]]:
        with ShardReader(tar, digest) as reader:
            for key in reader.keys:
                yield reader.image(key), reader.caption(key)

    def peer() -> Iterator[tuple[bytes, str]]:
        for sample in webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False):
            yield sample.get("jpg") or sample["png"], sample["txt"].decode()

    def read(way: Callable[[], Iterator[tuple[bytes, str]]]) -> Callable[[], int]:
        return lambda: sum(len(image) + len(caption) for image, caption in way())

    ways = {"verified": read(ours), "webdataset": read(peer), "hash": lambda: hashlib.sha256(content).digest()}
    times = compare(ways, ROUNDS)
    return {
        **times,
        "limit_ratio": round(times["webdataset_s"] / times["hash_s"], 2),
        "hash_gb_per_s": round(len(content) / times["hash_s"] / 1e9, 2),
        "equal": all(a == b for a, b in zip(ours(), peer(), strict=True)),
        "samples": num_samples,
        "bytes": len(content),
        "bytes_an_image": round(image_bytes / num_samples),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, pictures in (("tiny", scenes()), ("typical", photographs())):
            save(f"shards_{name}", measure(Path(folder) / f"{name}.tar", pictures))


if __name__ == "__main__":
    main()
