"""Images a second into batches: ours against webdataset with a DataLoader, both with the same decoder and transform.

Once in this process and once with two workers; ours in both orders. The limit is decoding, measured alone as
`decode_only`: the same images, already in memory, on one core. `undecoded`: all but decoding, in this process.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from sys import path

path.insert(0, str(Path(__file__).parents[1]))

import torch
import webdataset
from torch.utils.data import DataLoader

from benchmarks.jpeg_shards import Transform, make_shards, nothing, pixels
from benchmarks.timing import compare, save
from lotlip.data.loading.image_reader import ImageReader
from lotlip.data.loading.loader import Loader
from lotlip.data.loading.order import EpochOrder, OrderKind
from lotlip.data.loading.pixels import PixelSource, SamplePixels

NUM_SHARDS, SIZE, BATCH = 8, 100, 50


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        samples, images = make_shards(Path(folder) / "images", NUM_SHARDS, SIZE)
        tars = [str(images.path(shard, "tar")) for shard in images.shards]
        first = ImageReader([images], Path(folder) / "spans")
        encoded = [first.read(sample.shard, sample.key) for sample in samples]

        def ours(kind: OrderKind, num_workers: int, transform: Transform = pixels) -> int:
            reader = ImageReader([images], Path(folder) / "spans", read_ahead=kind == "shards")
            order = EpochOrder(samples.shards, 0, kind, 4)
            loader = Loader(
                samples, order, batch_size=BATCH, num_epochs=1, num_workers=num_workers,
                source=SamplePixels(samples, PixelSource(reader, transform, 0)),
            )  # fmt: skip
            return sum(len(batch.content) for batch in loader)

        def peer(num_workers: int, transform: Transform = pixels) -> int:
            dataset = webdataset.WebDataset(tars, shardshuffle=False, empty_check=False).shuffle(1000)
            batches = dataset.map(lambda sample: (transform(sample["jpg"]),)).batched(BATCH)
            return sum(len(batch) for (batch,) in DataLoader(batches, batch_size=None, num_workers=num_workers))

        def decode_only() -> int:
            return sum(len(pixels(data)[None]) for data in encoded)

        assert ours("global", 0) == ours("shards", 0) == peer(0) == decode_only() == len(samples)
        results: dict[str, object] = {}
        for num_workers in (0, 2):
            ways: dict[str, Callable[[], int]] = {
                "ours": lambda n=num_workers: ours("global", n),
                "ours_shards": lambda n=num_workers: ours("shards", n),
                "webdataset": lambda n=num_workers: peer(n),
                "decode_only": decode_only,
            }
            times = compare(ways, 3)
            rates = {f"{name}_images_per_s": round(len(samples) / times[f"{name}_s"]) for name in ways}
            ratios = {name: value for name, value in times.items() if name.endswith("_ratio")}
            results |= {f"workers{num_workers}_{name}": value for name, value in {**rates, **ratios}.items()}
        undecoded = compare({"ours": lambda: ours("global", 0, nothing), "webdataset": lambda: peer(0, nothing)}, 5)
        results |= {f"undecoded_{name}": value for name, value in undecoded.items()}
        num_bytes = sum(map(len, encoded)) // len(encoded)
        save("loader", {**results, "samples": len(samples), "mean_bytes": num_bytes, "pixels": 224})


if __name__ == "__main__":
    main()
