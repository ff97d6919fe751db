"""A training step of LoTLIP with a locked ViT-S/16: features from the cache, against decoding and the tower's pass.

Both ways train the same text tower of the same width, 1 raw and 1 long text an image, on the same crops (those of
evaluation) of JPEGs of the usual size, decoded by as many workers as there are cores. `images_decoded` are those of one
run; ours runs once more when the images are deleted. Then the gather alone: 1024 rows of width 768, nearly each from a
file of its own, against indexing one tensor in memory; all of it lies in the system's cache.
"""

import os
import tempfile
import time
from pathlib import Path
from sys import path

path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from transformers import BertConfig, ViTConfig

from benchmarks.jpeg_shards import make_shards
from benchmarks.texts import CORNERS, VOCABULARY, make_ids
from benchmarks.timing import compare, device, save
from lotlip.data.loading.image_reader import ImageReader
from lotlip.data.loading.loader import Loader
from lotlip.data.loading.order import EpochOrder
from lotlip.data.loading.pixels import SamplePixels
from lotlip.data.loading.sample_table import SampleTable
from lotlip.data.loading.samples import Sample
from lotlip.losses.multi_caption import multi_caption_loss
from lotlip.model.config import LotlipConfig
from lotlip.model.image_tower import ImageSettings
from lotlip.model.modeling import LotlipModel
from lotlip.params import load_params
from lotlip.training.features.cache import FeatureCache
from lotlip.training.features.sidecar import write_sidecar
from lotlip.training.features.store import FeatureStore
from lotlip.training.pixels import pixel_source

ON_GPU = torch.cuda.is_available()
BATCH, STEPS, WIDTH, LAYERS, ROUNDS = (512, 8, 384, 12, 5) if ON_GPU else (8, 3, 384, 6, 3)
NUM_FILES, ROWS, GATHERED = 10_000, 100, 1024
IMAGE = ImageSettings(224)


class Run:
    """Training over the images of a folder, an epoch at a time; it counts the images that were decoded."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.samples, self.images = make_shards(folder / "images", STEPS, BATCH)
        changes = {"augment": None, "cached_crops": 1, "num_workers": os.cpu_count() or 1}
        self.settings = load_params().train.model_copy(update=changes)
        torch.manual_seed(0)
        sizes = {"hidden_size": WIDTH, "num_attention_heads": 6, "intermediate_size": 4 * WIDTH}
        text = BertConfig(vocab_size=VOCABULARY + CORNERS, num_hidden_layers=LAYERS, **sizes)
        vision = ViTConfig(image_size=IMAGE.size, patch_size=16, num_hidden_layers=12, **sizes)
        config = LotlipConfig(text_config=text, vision_config=vision, embed_dim=WIDTH, num_corner_tokens=CORNERS)
        self.model = LotlipModel(config).to(device()).train()
        self.model.image_tower.requires_grad_(False).eval()
        self.optimizer = torch.optim.AdamW((p for p in self.model.parameters() if p.requires_grad), lr=1e-5)
        self.ids = torch.stack([make_ids(kind, BATCH) for kind in ("raw", "long")], dim=1).to(device())
        self.cache = FeatureCache(
            self.model.image_tower, IMAGE, [self.images], self.samples, self.settings, self.work,
            autocast=torch.bfloat16 if ON_GPU else None,
        )  # fmt: skip
        self.decoded = 0

    def epoch(self, store: FeatureStore | None) -> None:
        """Train from a store, or from pixels."""
        reader = ImageReader([self.images], self.work / "shards")
        source = None
        if store is None:
            source = SamplePixels(self.samples, pixel_source(reader, IMAGE, self.settings, locked=True))
        loader = Loader(
            self.samples, EpochOrder(self.samples.shards, 0), batch_size=BATCH, num_epochs=1,
            source=source, num_workers=self.settings.num_workers, device=device(),
        )  # fmt: skip
        for batch in loader:
            if store is None:
                self.decoded += len(batch.content)
                images = {"pixel_values": batch.content}
            else:
                images = {"image_embeds": store.batch(batch.indices, batch.visits).to(device())}
            self.step(images)

    def step(self, images: dict[str, torch.Tensor]) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device().type, torch.bfloat16, enabled=ON_GPU):
            output = self.model(self.ids, **images)
            loss, _ = multi_caption_loss(output.image_embeds, output.text_embeds, output.logit_scale)
        loss.backward()
        self.optimizer.step()


def bench_step(folder: Path) -> None:
    run = Run(folder)
    started = time.perf_counter()
    run.cache.compute_missing()
    computed_s = time.perf_counter() - started
    store = run.cache.open()
    times = compare({"cached": lambda: run.epoch(store), "decoded": lambda: run.epoch(None)}, ROUNDS)
    decoded = run.decoded // (ROUNDS + 1)
    for shard in run.images.shards:
        run.images.path(shard, "tar").unlink()
    run.decoded = 0
    run.epoch(run.cache.open())
    save(
        "feature_cache",
        {
            **{f"{name}_step_s": round(times[f"{name}_s"] / STEPS, 4) for name in ("cached", "decoded")},
            "decoded_ratio": times["decoded_ratio"],
            "cached_images_decoded": run.decoded,
            "decoded_images_decoded": decoded,
            "computed_images_per_s": round(len(run.samples) / computed_s),
            "batch": BATCH,
            "steps": STEPS,
        },
    )


def bench_gather(folder: Path) -> None:
    """Links to one file, for each is mapped by itself."""
    keys = [f"{row:08d}" for row in range(ROWS)]
    features = np.random.default_rng(0).standard_normal((ROWS, 1, 768)).astype(np.float16)
    write_sidecar(folder / "0", keys, features)
    paths = [folder / str(number) for number in range(NUM_FILES)]
    for link in paths[1:]:
        link.hardlink_to(paths[0])
    samples = SampleTable.from_samples(Sample(f"s-{n}", key, "", ()) for n in range(NUM_FILES) for key in keys)
    started = time.perf_counter()
    store = FeatureStore(samples, paths, 1)
    opened_s = time.perf_counter() - started
    chosen = np.random.default_rng(1).integers(0, len(samples), GATHERED)
    in_memory = torch.from_numpy(features[:, 0]).repeat(NUM_FILES // 100, 1)
    places = torch.from_numpy(chosen % len(in_memory))
    visits = np.zeros(GATHERED, np.int64)
    assert torch.equal(store.batch(chosen, visits), in_memory[places].float())
    ways = {"mapped": lambda: store.batch(chosen, visits), "in_memory": lambda: in_memory[places].float()}
    sizes = {"files": NUM_FILES, "samples": len(samples), "rows": GATHERED}
    save("feature_gather", {**compare(ways, 10), "opened_s": round(opened_s, 2), **sizes})


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        bench_step(Path(folder) / "step")
        bench_gather(Path(folder))


if __name__ == "__main__":
    main()
