"""Tiny towers, shards and settings, enough to train on within a second.

As a script (`tiny_training.py FOLDER RUNS`) it trains in FOLDER, on its own or started by torchrun. RUNS is a JSON list
of what `Project.train` takes: `method`, `settings`, `name` and `work`; and `signal`, which it gives itself at `step`.
"""

import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import ViTConfig, ViTModel

from lotlip.data.images import eval_transform, open_rgb
from lotlip.data.loading.image_reader import ImageReader
from lotlip.data.loading.pixels import PixelSource
from lotlip.data.loading.sample_table import SampleTable
from lotlip.data.loading.samples import Sample
from lotlip.data.manifest import Manifest, Shard, describe_file, read_manifest, write_manifest
from lotlip.data.shards import write_tar
from lotlip.model.image_tower import ImageSettings
from lotlip.model.processor import MAX_PIXELS
from lotlip.params import Checkpoints, Compute, Guards, Method, Section, Train
from lotlip.text.tokenizer import SPECIAL_TOKENS
from lotlip.training.loop import Result, train

WORDS = [f"{a}{b}" for a in "bcdfgh" for b in "aeiou"]
LOTLIP = Method(num_long=1, corner_tokens=2)
LIT = Method()
COMPUTE = Compute(
    processes=1,
    sharding="ddp",
    micro_batch_size=None,
    gradient_checkpointing=False,
    compile=False,
    precision="float32",
    tf32=True,
    sdpa="auto",
    deterministic=False,
)
UNLOCKED = LOTLIP.model_copy(update={"image_tower": "unlocked"})


def make_towers(folder: Path) -> None:
    """Write `vit` and `tokenizer` into `folder`."""
    torch.manual_seed(7)
    config = ViTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.3,
    )
    tower = ViTModel(config, add_pooling_layer=False)
    with torch.no_grad():  # random, but different images get clearly different features
        tower.embeddings.cls_token.zero_()
        tower.embeddings.position_embeddings.mul_(0.3)
        tower.embeddings.patch_embeddings.projection.weight.mul_(3.0)
    tower.save_pretrained(folder / "vit")
    words = [*SPECIAL_TOKENS, *WORDS, "."]
    backend = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = BertNormalizer(lowercase=True)
    backend.pre_tokenizer = BertPreTokenizer()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    (folder / "tokenizer").mkdir()
    backend.save(str(folder / "tokenizer/tokenizer.json"))


def make_shards(folder: Path, num_samples: int = 64) -> tuple[SampleTable, Manifest]:
    """Two shards of flat random colours under `folder`, with raw and long texts of random words."""
    rng = np.random.default_rng(3)
    contents: dict[str, list[dict[str, Any]]] = {}
    samples = []
    for number in range(2):
        name = f"tiny-{number:05d}"
        for index in range(num_samples // 2):
            key = f"{number}{index:03d}"
            raw, *pieces = (" ".join(rng.choice(WORDS, 2)) for _ in range(5))
            samples.append(Sample(name, key, raw, (". ".join(pieces) + ".",)))
            contents.setdefault(name, []).append({"__key__": key, "png": _png(rng), "txt": raw})
    if not (folder / "manifest.json").is_file():  # processes of one training share the folder
        _write_shards(folder, contents)
    return SampleTable.from_samples(samples), read_manifest(folder, "images")


def _write_shards(folder: Path, contents: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for name, records in contents.items():
        count = write_tar(folder / f"{name}.tar", records)
        shards.append(Shard(name, count, {"tar": describe_file(folder, f"{name}.tar")}))
    write_manifest(folder, "images", shards)


def pixels_of(images: Manifest, samples: Iterable[Sample], settings: ImageSettings, folder: Path) -> torch.Tensor:
    """Pixels of the samples by the evaluation transform."""

    def transform(data: bytes, rng: random.Random) -> torch.Tensor:
        return eval_transform(open_rgb(data, MAX_PIXELS), settings.size, settings.mean, settings.std)

    source = PixelSource(ImageReader([images], folder), transform, 0)
    return source.batch([(sample.shard, sample.key, 0) for sample in samples])


def make_settings(folder: Path, **changes: object) -> Train:
    """Settings that overfit 64 samples in a few seconds."""
    settings = Train(
        epochs=3,
        steps=None,
        samples=None,
        batch_size=16,
        learning_rate=5e-3,
        weight_decay=0.01,
        warmup_share=0.1,
        warmup_steps=None,
        warmup_samples=None,
        grad_clip=1.0,
        image_tower=str(folder / "vit"),
        image_tower_revision=None,
        tokenizer=str(folder / "tokenizer"),
        tokenizer_revision=None,
        text_tower=None,
        text_tower_revision=None,
        text_layers=2,
        text_width=32,
        text_heads=2,
        text_dropout=0.1,
        embed_dim=16,
        token_limit=24,
        keep_positions=4,
        run_length=2,
        weight_raw=1.0,
        weight_long=1.0,
        decode="scaled",
        augment=None,
        cached_crops=1,
        order="global",
        window_shards=8,
        source_weights={},
        num_workers=0,
        device="cpu",
        seed=0,
        compute=COMPUTE,
        checkpoints=Checkpoints(every_steps=None, every_minutes=None, keep=2),
        guards=Guards(max_skipped_steps=10, max_rollbacks=3, spike_deviations=6.0),
    )
    return with_changes(settings, changes)


def with_changes(settings: Section, changes: Mapping[str, Any]) -> Any:
    """The settings with others for some; of a subsection, too, as a mapping."""
    nested = {
        name: with_changes(getattr(settings, name), value)
        for name, value in changes.items()
        if isinstance(value, dict) and isinstance(getattr(settings, name), Section)
    }
    return settings.model_copy(update={**changes, **nested})


class KillAt:
    """A callback that stops training when a step is told of: by a signal, or by an exception."""

    def __init__(self, step: int, signal_number: signal.Signals | None = None) -> None:
        self.step, self.signal_number = step, signal_number
        self.warnings: list[str] = []

    def on_start(self, step: int, num_steps: int) -> None:
        self.started_at = step

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self.step:
            if self.signal_number is None:
                raise KeyboardInterrupt
            os.kill(os.getpid(), self.signal_number)

    def on_warning(self, step: int, text: str) -> None:
        self.warnings.append(text)
        print(f"warning at step {step}: {text}", flush=True)
        if step == self.step and self.signal_number is None:
            raise KeyboardInterrupt

    def on_end(self, metrics: Mapping[str, float]) -> None:
        pass


class Project:
    """A folder with towers and shards, and training in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "vit").exists():
            make_towers(folder)
        self.samples, self.images = make_shards(folder / "images")

    def repaint(self) -> None:
        """Other images in the place of the samples', under the same keys."""
        rng, contents = np.random.default_rng(99), {}
        for one in self.samples:
            contents.setdefault(one.shard, []).append({"__key__": one.key, "png": _png(rng)})
        _write_shards(self.images.folder, contents)
        self.images = read_manifest(self.images.folder, "images")

    def settings(self, **changes: object) -> Train:
        return make_settings(self.folder, **changes)

    def train(
        self,
        method: Method = LOTLIP,
        name: str = "model",
        work: str = "work",
        callbacks: tuple = (),
        root: str | None = None,
        **changes: object,
    ) -> Result:
        settings = self.settings(**changes)
        out = self.folder / name
        return train(self.samples, [self.images], settings, method, out, self.folder / work, callbacks, root)


def _png(rng: np.random.Generator) -> bytes:
    pixels = np.repeat(np.repeat(rng.integers(0, 256, (2, 2, 3)), 8, axis=0), 8, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def run_script(
    folder: Path, runs: Sequence[dict[str, Any]], processes: int = 1, most_bytes: int | None = None
) -> "subprocess.CompletedProcess[str]":
    """This file as a script; several processes are started by torchrun.

    Its files may not grow beyond `most_bytes`: to it, the disk is full then.
    """
    Project(folder)
    script = [__file__, str(folder), json.dumps(runs)]
    how = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    return subprocess.run(
        [sys.executable, *how, *script],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most_bytes,) * 2) if most_bytes else None,
    )


def main(folder: str, runs: str) -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    project = Project(Path(folder))
    if "RANK" in os.environ:  # one group for all runs
        torch.distributed.init_process_group("gloo")
    for run in json.loads(runs):
        callbacks = (KillAt(run["step"], signal.Signals[run["signal"]]),) if "signal" in run else ()
        where = {name: run[name] for name in ("name", "work") if name in run}
        method = Method.model_validate(run.get("method", LOTLIP.model_dump()))
        project.train(method, callbacks=callbacks, **where, **run.get("settings", {}))


if __name__ == "__main__":
    main(*sys.argv[1:])
