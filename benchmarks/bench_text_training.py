"""A text training step at BERT-base width, 1 raw and 1 or 3 long texts an image: ours against the released way.

Image features are given, as of a locked tower. Ours: packed, raw captions without corners, tiled loss. The others: all
texts padded to 128 ids with corners and mask, full logits. The same AdamW for all. The limit: three times the forward
pass's FLOPs.
"""

from pathlib import Path
from sys import path

path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.bench_multi_text_loss import slot_by_slot
from benchmarks.texts import (
    CORNERS,
    WIDTH,
    ReleasedWay,
    make_ids,
    make_model,
    mask_by_loop,
    mask_vectorised,
    text_flops,
)
from benchmarks.timing import compare, device, save, utilisation
from lotlip.losses.multi_caption import multi_caption_loss

ON_GPU = torch.cuda.is_available()
NUM_IMAGES, LAYERS, ROUNDS = (1024, 12, 10) if ON_GPU else (32, 6, 3)


def padded_loss(way: ReleasedWay, ids_BKL: Tensor, image_BD: Tensor, scale: Tensor) -> Tensor:
    raw = way(ids_BKL[:, 0], 1)
    long = way(ids_BKL[:, 1:].flatten(0, 1), 1 + CORNERS).reshape(len(ids_BKL), -1, WIDTH)
    return slot_by_slot(image_BD, torch.cat([raw, long], dim=1).float(), scale)


def main() -> None:
    where = device()
    for num_long in (1, 3):
        model = make_model(LAYERS).to(where).train()
        released = ReleasedWay(model, "eager", mask_by_loop).to(where)
        padded = ReleasedWay(model, "sdpa", mask_vectorised).to(where)
        texts = [make_ids("raw", NUM_IMAGES), *(make_ids("long", NUM_IMAGES, 1 + k) for k in range(num_long))]
        ids = torch.stack(texts, dim=1).to(where)
        image = functional.normalize(torch.randn(NUM_IMAGES, WIDTH, generator=torch.Generator().manual_seed(0)), dim=-1)
        image, scale = image.to(where), torch.tensor(1 / 0.07, device=where)

        def ours(model=model, ids=ids, image=image, scale=scale) -> Tensor:
            output = model(ids, image_embeds=image)
            return multi_caption_loss(output.image_embeds, output.text_embeds, scale)[0]

        def of(way: ReleasedWay, ids=ids, image=image, scale=scale):
            return lambda: padded_loss(way, ids, image, scale)

        equality = compare_gradients(model, ours, padded, of(padded))
        steps = {
            "packed": step(model.text_tower, ours),
            "released_way": step(released, of(released)),
            "padded_sdpa": step(padded, of(padded)),
        }
        times = compare(steps, ROUNDS)
        raw, long = ids[:, 0], ids[:, 1:].flatten(0, 1)
        flops = 3 * (text_flops(raw, LAYERS, 1, False) + text_flops(long, LAYERS, 1 + CORNERS, True))
        save(
            f"text_training_1+{num_long}",
            {
                **times,
                **equality,
                "images": NUM_IMAGES,
                "layers": LAYERS,
                "filled_share": round(float((ids != 0).double().mean()), 3),
                "gflops_a_second": round(flops / times["packed_s"] / 1e9),
                "utilisation": utilisation(flops, times["packed_s"]),
            },
        )


def step(module: nn.Module, loss):
    """Forward, backward and an optimizer step; bf16 on a GPU."""
    optimizer = torch.optim.AdamW((p for p in module.parameters() if p.requires_grad), lr=1e-5)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device().type, torch.bfloat16, enabled=ON_GPU):
            value = loss()
        value.backward()
        optimizer.step()

    return run


def compare_gradients(model, ours, way: ReleasedWay, theirs) -> dict[str, float]:
    """How far losses and gradients are apart before any step; gradients as |difference| / |gradient| over all."""
    first, second = ours(), theirs()
    first.backward()
    second.backward()
    found = dict(model.text_tower.named_parameters())
    differences = [found[name].grad - parameter.grad for name, parameter in way.named_parameters()]
    norms = [torch.stack([x.norm() for x in each]).norm() for each in (differences, [p.grad for p in way.parameters()])]
    return {
        "loss_difference": abs(first.item() - second.item()),
        "relative_gradient_difference": (norms[0] / norms[1]).item(),
    }


if __name__ == "__main__":
    main()
