"""Reading a shard with its sha256 checked: ours against webdataset's iterator, which checks nothing.

The limit: one read of the file for the hash and one for the samples, both from the page cache.
"""

import tempfile
from pathlib import Path
from sys import path

path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.timing import compare, save
from lotlip.data.shards import ShardReader, encode_png, write_tar
from lotlip.records import sha256_file
from lotlip.sample.scenes import make_scene, raw_caption, render

NUM = 2000


def samples() -> list[dict[str, object]]:
    scenes = [make_scene(0, index) for index in range(NUM)]
    return [
        {"__key__": f"{i:020x}", "png": encode_png(render(scene)), "txt": raw_caption(scene), "json": {"index": i}}
        for i, scene in enumerate(scenes)
    ]


def main() -> None:
    import webdataset

    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder) / "scenes-00000.tar"
        write_tar(tar, samples())
        digest = sha256_file(tar)

        def ours() -> list[tuple[bytes, str]]:
            with ShardReader(tar, digest) as reader:
                return [(reader.image(key), reader.caption(key)) for key in reader.keys]

        def peer() -> list[tuple[bytes, str]]:
            dataset = webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False)
            return [(sample["png"], sample["txt"].decode()) for sample in dataset]

        equal = ours() == peer()
        times = compare({"verified": ours, "webdataset": peer}, 5)
        save("shards", {**times, "equal": equal, "samples": NUM, "bytes": tar.stat().st_size})


if __name__ == "__main__":
    main()
