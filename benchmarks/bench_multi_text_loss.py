"""The multi-text loss with its gradients at B = 2048 and 4 texts: tiles against full logits, in memory and time.

The limit: 3 products of 2 B^2 D FLOPs a slot (logits, and a gradient on each side), and a fourth where logits of more
than one tile are computed a second time. Full logits are N B^2 floats, and autograd keeps three such things and more.
"""

from pathlib import Path
from sys import path

path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.timing import compare, device, peak_memory, save
from lotlip.losses.multi_caption import multi_caption_loss

ON_GPU = torch.cuda.is_available()
B, N, D, ROUNDS = (16384, 4, 768, 10) if ON_GPU else (2048, 4, 768, 7)


def full_logits(image_BD: Tensor, text_BND: Tensor, scale: Tensor) -> Tensor:
    """All slots' logits at once."""
    logits_NBB = scale * torch.einsum("id,jnd->nij", image_BD, text_BND)
    own = torch.arange(len(image_BD), device=image_BD.device).expand(text_BND.shape[1], -1)
    i2t = functional.cross_entropy(logits_NBB.transpose(1, 2), own)
    t2i = functional.cross_entropy(logits_NBB, own)
    return (i2t + t2i) / 2


def slot_by_slot(image_BD: Tensor, text_BND: Tensor, scale: Tensor) -> Tensor:
    """A slot's logits after the other, kept for the backward pass."""
    own = torch.arange(len(image_BD), device=image_BD.device)
    total = torch.zeros((), device=image_BD.device)
    for n in range(text_BND.shape[1]):
        logits = scale * image_BD @ text_BND[:, n].T
        total = total + functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)
    return total / (2 * text_BND.shape[1])


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    image = functional.normalize(torch.randn(B, D, generator=generator), dim=-1).to(device())
    text = functional.normalize(torch.randn(B, N, D, generator=generator), dim=-1).to(device())
    leaves = [image.requires_grad_(), text.requires_grad_(), torch.tensor(20.0, device=device(), requires_grad=True)]
    losses = {
        "tiled": lambda: multi_caption_loss(*leaves)[0],
        "full_logits": lambda: full_logits(*leaves),
        "slot_by_slot": lambda: slot_by_slot(*leaves),
    }
    ways = {name: lambda loss=loss: torch.autograd.grad(loss(), leaves) for name, loss in losses.items()}
    expected, found = ways["slot_by_slot"](), ways["tiled"]()
    worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))
    memory = {f"{name}_mb": round(peak_memory(way) / 2**20) for name, way in ways.items()}
    save(
        "multi_text_loss",
        {**compare(ways, ROUNDS), **memory, "relative_gradient_difference": worst, "images": B, "texts": N, "width": D},
    )


if __name__ == "__main__":
    main()
