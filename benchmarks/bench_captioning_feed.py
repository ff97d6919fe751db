"""How long the model waits for images: decoding and preparing ahead, against a loop that does one after the other.

Two cores stand for the two sides: torch works on one (as a GPU would), threads decode on the other. Photographs of
1024 x 768, of which a third or so of the time goes into each of decoding, preparing and generating. The limit is the
slower side; where both take as long, a loop takes twice that.
"""

import io
import statistics
import tempfile
import time
from pathlib import Path
from sys import path

path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from PIL import Image

from benchmarks.timing import compare, save
from lotlip.captioning.backends import open_captioner
from lotlip.captioning.shards import caption_batch, feed
from lotlip.data.images import open_rgb
from lotlip.data.shards import ShardReader, write_tar
from lotlip.params import load_params

NUM, SIZE, BATCH, MAX_PIXELS = 384, (1024, 768), 16, 10**7
GRAIN = 4  # deviation of a pixel's noise, of 255: files of about 300 kB, as photographs of this size and quality have


def photograph(seed: int) -> bytes:
    """A JPEG with the detail of a photograph: smooth noise of several scales, and grain."""
    rng = np.random.default_rng(seed)
    layers = [rng.integers(0, 256, (3 * 2**k, 4 * 2**k, 3), dtype=np.uint8) for k in (1, 3, 5, 7)]
    images = [np.asarray(Image.fromarray(layer).resize(SIZE, Image.Resampling.BICUBIC), np.float32) for layer in layers]
    buffer = io.BytesIO()
    pixels = np.mean(images, axis=0) + rng.normal(0, GRAIN, images[0].shape)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def main() -> None:
    torch.set_num_threads(1)
    settings = load_params().captioners["llava"].model_copy(update={"max_new_tokens": 70, "retry_temperature": None})
    captioner = open_captioner(settings)
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder) / "a.tar"
        write_tar(tar, [{"__key__": f"{i:04d}", "jpg": photograph(i)} for i in range(NUM)])
        with ShardReader(tar) as reader:
            todo = list(enumerate(reader.keys))
            shares: dict[str, list[float]] = {"ahead": [], "loop": []}

            def ahead() -> dict[str, str]:
                texts, busy, began = {}, 0.0, time.perf_counter()
                for batch in feed(reader, todo, captioner, BATCH, MAX_PIXELS):
                    started = time.perf_counter()
                    written = caption_batch(captioner, batch, "long")
                    busy += time.perf_counter() - started
                    texts |= {key: one.caption.text for (_, key), one in zip(batch.samples, written, strict=True)}
                shares["ahead"].append(busy / (time.perf_counter() - began))
                return texts

            def loop() -> dict[str, str]:
                texts, busy, began = {}, 0.0, time.perf_counter()
                for at in range(0, NUM, BATCH):
                    keys = [key for _, key in todo[at : at + BATCH]]
                    images = [open_rgb(reader.image(key), MAX_PIXELS) for key in keys]
                    prepared = captioner.prepare(images, "long")
                    started = time.perf_counter()
                    written = captioner.caption(images, prepared=prepared)
                    busy += time.perf_counter() - started
                    texts |= {key: one.text for key, one in zip(keys, written, strict=True)}
                shares["loop"].append(busy / (time.perf_counter() - began))
                return texts

            equal = ahead() == loop()
            times = compare({"ahead": ahead, "loop": loop}, 5)
            share = {f"{name}_model_share": round(statistics.median(found), 3) for name, found in shares.items()}
            save("captioning_feed", {**times, **share, "equal": equal, "images": NUM, "batch": BATCH})


if __name__ == "__main__":
    main()
