"""The training step at ViT-B/16 + BERT-base on a GPU: packed texts, as the trainer runs them, against padded ones.

    python benchmarks/gpu/bench_step.py                   # all cases; results as JSON in benchmarks/results
    python benchmarks/gpu/bench_step.py --profile         # and the kernels that take the time, as text
    python benchmarks/gpu/bench_step.py --device cpu --tiny --out /tmp/step   # tries the script out

Without a GPU it ends with status 2. For each way to the image features (`cached`: given; `locked`: forward alone;
`unlocked`: trained) and for 1 raw text with 1 and 3 long runs an image, it takes random weights and texts of real
lengths (`benchmarks/texts.py`) and measures, in turns in one process:

- `packed`: `lotlip.training.step.train_step` in bfloat16 autocast, with torch's variable-length attention;
- `padded`: transformers' BertModel on all texts padded to 128 ids, with a mask and scaled_dot_product_attention, the
  same image tower, logits slot by slot, clipping and AdamW; also in bfloat16 autocast.

`utilisation` counts useful FLOPs alone (`lotlip.model.flops`) against the dense bfloat16 peak; memory is the most that
a way takes in a step, its weights and optimizer included; a way that runs out of it has no numbers. `loss_difference`
is that of the first step, from equal weights.
"""

import copy
import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.bench_multi_text_loss import slot_by_slot
from benchmarks.gpu.setting import arguments, device_of, make_config, train_settings
from benchmarks.texts import CORNERS, ReleasedWay, make_ids, mask_vectorised
from benchmarks.timing import compare, machine
from lotlip.model.flops import step_flops
from lotlip.model.gpus import peak_flops
from lotlip.model.image_tower import image_features
from lotlip.model.modeling import LotlipModel
from lotlip.params import Method
from lotlip.records import write_json
from lotlip.training.optim import make_optimizer
from lotlip.training.parallel import Network, numerics
from lotlip.training.ranks import Ranks
from lotlip.training.step import Batch, train_step

TOWERS = ("cached", "locked", "unlocked")
Step = Callable[[], float]  # gives the loss before its update


@dataclass(frozen=True)
class Way:
    """A step that runs, its first loss, and the memory it needs."""

    step: Step
    loss: float
    gib: float | None


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=256, help="a step")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--towers", nargs="+", choices=TOWERS, default=TOWERS)
    parser.add_argument("--long", nargs="+", type=int, default=[1, 3], help="long texts an image")
    parser.add_argument("--compile", action="store_true", help="torch.compile of our layers")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing of our layers")
    parser.add_argument("--profile", action="store_true", help="write the kernels of our step by time")
    asked = parser.parse_args()
    device = device_of(asked.device)
    num_images = 8 if asked.tiny else asked.images
    rounds = 2 if asked.tiny else asked.rounds
    compute = {"compile": asked.compile, "gradient_checkpointing": asked.checkpointing}
    asked.out.mkdir(parents=True, exist_ok=True)
    for tower in asked.towers:
        for num_long in asked.long:
            case = Case(tower, num_long, num_images, device, asked.tiny, compute)
            name = (
                f"gpu_step_{tower}_1+{num_long}" + "_compiled" * asked.compile + "_checkpointed" * asked.checkpointing
            )
            result = {**case.measure(rounds), **compute, **machine(), "device": case.device_name}
            print(name, *(f"{key}={value}" for key, value in result.items()), flush=True)
            write_json(asked.out / f"{name}.json", result)
            if asked.profile:
                (asked.out / f"{name}.profile.txt").write_text(case.profile())


class Case:
    """A model, a batch of one image, one raw text and `num_long` runs each, and two ways to train on it."""

    def __init__(
        self, tower: str, num_long: int, num_images: int, device: torch.device, tiny: bool, compute: dict[str, object]
    ) -> None:
        self.tower, self.device = tower, device
        self.device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        self.settings = train_settings(device, **compute)
        locked = "unlocked" if tower == "unlocked" else "locked"
        self.method = Method(image_tower=locked, num_long=num_long, corner_tokens=CORNERS)
        torch.manual_seed(0)
        self.config = make_config(tiny=tiny)
        self.model = LotlipModel(self.config).train()  # both ways start from copies of it
        if tower != "unlocked":
            self.model.image_tower.requires_grad_(False).eval()
        texts = [make_ids("raw", num_images), *(make_ids("run", num_images, 1 + k) for k in range(num_long))]
        ids = torch.stack(texts, dim=1).to(device)
        vision = self.config.vision_config
        side = vision.image_size
        shape = (num_images, vision.hidden_size) if tower == "cached" else (num_images, 3, side, side)
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
        mask = (ids != 0).long()
        self.batch = Batch(ids, mask, images, mask.sum(dim=-1).cpu().numpy(), precomputed=tower == "cached")

    def measure(self, rounds: int) -> dict[str, Any]:
        """Seconds, pairs a second, ratio, utilisation and memory."""
        tried = {"packed": self._try(self._packed_step), "padded": self._try(self._padded_step)}
        ways = {name: found.step for name, found in tried.items() if found is not None}
        losses = [found.loss for found in tried.values() if found is not None]
        num, times = len(self.batch.ids), compare(ways, rounds) if "packed" in ways else {}
        return {
            **times,
            **{f"{name}_pairs_per_s": round(num / times[f"{name}_s"], 1) for name in ways if times},
            **{f"{name}_gib": None if found is None else found.gib for name, found in tried.items()},
            "utilisation": self._utilisation(times["packed_s"]) if times else None,
            "loss_difference": abs(losses[0] - losses[-1]) if len(losses) == 2 else None,
            "images": num,
            "filled_share": round(float(self.batch.mask.double().mean()), 3),
        }

    def profile(self) -> str:
        """The kernels of three packed steps by their own time."""
        step, activities, order = self._packed_step(), [torch.profiler.ProfilerActivity.CPU], "self_cpu_time_total"
        if self.device.type == "cuda":
            activities, order = [*activities, torch.profiler.ProfilerActivity.CUDA], "self_cuda_time_total"
        step()
        with torch.profiler.profile(activities=activities) as found:
            for _ in range(3):
                step()
        return str(found.key_averages().table(sort_by=order, row_limit=30, max_name_column_width=80))

    def _try(self, build: Callable[[], Step]) -> Way | None:
        """Build a way and take two steps; None if the GPU's memory is not enough."""
        gc.collect()
        if self.device.type == "cpu":
            step = build()
            return Way(step, step(), None)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        try:
            step = build()
            loss = step()
            torch.cuda.reset_peak_memory_stats()
            step()
            return Way(step, loss, round((torch.cuda.max_memory_allocated() - before) / 2**30, 2))
        except torch.cuda.OutOfMemoryError:
            return None

    def _packed_step(self) -> Step:
        ranks, model = Ranks(0, 1, self.device), copy.deepcopy(self.model)
        network = Network(model, self.settings.compute, ranks)
        optimizer = make_optimizer(model, self.settings.weight_decay, network.whole)
        arguments = (network, optimizer, self.batch, self.settings, self.method, 1e-5, ranks, lambda _: None)

        def step() -> float:
            with numerics(self.settings.compute, self.device):
                return train_step(*arguments).loss

        return step

    def _padded_step(self) -> Step:
        batch, width = self.batch, self.config.embed_dim
        text = ReleasedWay(self.model, "sdpa", mask_vectorised).to(self.device).train()
        image = copy.deepcopy(self.model.image_tower).to(self.device)
        scale = nn.Parameter(self.model.logit_scale.detach().to(self.device, copy=True))
        parameters = [p for p in (*text.parameters(), *image.parameters(), scale) if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-5, betas=(0.9, 0.98), eps=1e-6)

        def forward() -> Tensor:
            images = batch.images if batch.precomputed else image_features(image, batch.images)
            raw = text(batch.ids[:, 0], 1)
            long = text(batch.ids[:, 1:].flatten(0, 1), 1 + CORNERS).reshape(len(batch.ids), -1, width)
            texts = torch.cat([raw, long], dim=1).float()
            return slot_by_slot(functional.normalize(images.float(), dim=-1), texts, scale.exp())

        def step() -> float:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.device.type, torch.bfloat16):
                loss = forward()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, self.settings.grad_clip)
            optimizer.step()
            return loss.item()

        return step

    def _utilisation(self, seconds: float) -> float | None:
        lengths = self.batch.mask.sum(dim=2).cpu().numpy()
        work = {"cached": "cached", "locked": "locked", "unlocked": "trained"}[self.tower]
        short, long = lengths[:, 0], lengths[:, 1:].flatten()
        flops = step_flops(self.config, short, long, image=work, batch_size=len(lengths)).total
        peak = None if self.device.type == "cpu" else peak_flops(self.device_name, "bfloat16")
        return None if peak is None else round(flops / seconds / peak, 3)


if __name__ == "__main__":
    main()
