"""Ranks of 256 x 256 by FILIP's late interaction: blocks against one einsum of everything.

77 tokens of width 256 a text, 5 to 77 of them there, and 49 patches an image (ViT-B/32). The limit: 2 I T P L D
multiplications and additions. The naive way holds all I T P L similarities, and a masked copy of them, at once: at
1,000 x 1,000 that would be 30 GB, and with 196 patches 121 GB; ours are blocks of 16 MB whatever the number. How long
those two take is measured by ours alone, on a part: `NAME_1k_s` is what 1,000 x 1,000 come to.
"""

import time
from pathlib import Path
from sys import path

path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.timing import compare, peak_memory, save
from lotlip.evaluation.retrieval import retrieval_ranks
from lotlip.evaluation.scores import TokenScores, make_scores

NUM, TOKENS, WIDTH = 256, 77, 256
PART = {49: 320, 196: 160}  # images and texts that ours is timed on, by patches
ROUNDS = 3


def made_up(num: int, patches: int) -> tuple[Tensor, Tensor, Tensor]:
    """Patches, tokens that resemble their own image's, and where there is a token."""
    generator = torch.Generator().manual_seed(0)
    image_IPD = normalize(torch.randn(num, patches, WIDTH, generator=generator), dim=2)
    nearest = torch.randint(patches, (num, TOKENS), generator=generator)
    own_TLD = image_IPD[torch.arange(num)[:, None], nearest]
    text_TLD = normalize(own_TLD + 0.3 * torch.randn(own_TLD.shape, generator=generator), dim=2)
    length = torch.randint(5, TOKENS + 1, (num, 1), generator=generator)
    return image_IPD, text_TLD, torch.arange(TOKENS) < length


@torch.no_grad()
def einsum_ranks(image_IPD: Tensor, text_TLD: Tensor, keep_TL: Tensor) -> tuple[Tensor, Tensor]:
    """Strict ranks of I2T and T2I from all similarities at once; text t belongs to image t."""
    similarities_ITPL = torch.einsum("ipd,tld->itpl", image_IPD, text_TLD)
    i2t = similarities_ITPL.masked_fill(~keep_TL[None, :, None], -torch.inf).amax(dim=3).mean(dim=2)
    t2i = similarities_ITPL.amax(dim=2).masked_fill(~keep_TL, 0.0).sum(dim=2) / keep_TL.sum(dim=1)
    return (i2t >= i2t.diagonal()[:, None]).sum(dim=1), (t2i >= t2i.diagonal()).sum(dim=0)


def main() -> None:
    inputs, owner_T = made_up(NUM, 49), torch.arange(NUM)
    scores = make_scores(*inputs)
    ranks_I, ranks_T, num_tied = retrieval_ranks(scores, owner_T)
    i2t, t2i = einsum_ranks(*inputs)
    ways = {"blocks": lambda: retrieval_ranks(scores, owner_T), "einsum": lambda: einsum_ranks(*inputs)}
    times = compare(ways, ROUNDS)
    memory = {f"{name}_mib": round(peak_memory(work) / 2**20, 1) for name, work in ways.items()}
    result = {
        **times,
        "blocks_gflops": round(2 * NUM**2 * 49 * TOKENS * WIDTH / times["blocks_s"] / 1e9, 1),
        **memory,
        "memory_ratio": round(memory["einsum_mib"] / memory["blocks_mib"], 1),
        "ranks_that_differ": int((ranks_I != i2t).sum() + (ranks_T != t2i).sum()),
        "tied_queries": num_tied,
        "queries": 2 * NUM,
    }
    for patches, num in PART.items():
        scores = make_scores(*made_up(num, patches))
        assert isinstance(scores, TokenScores)
        started = time.perf_counter()
        retrieval_ranks(scores, torch.arange(num))
        blocks = -(-num // scores.max_block)
        seconds = (time.perf_counter() - started) / (blocks**2 + blocks)  # a block; those of own pairs come on top
        all_blocks = -(-1000 // scores.max_block)
        result[f"{patches}_patches_1k_s"] = round(seconds * (all_blocks**2 + all_blocks), 1)
    save("late_interaction", result)


if __name__ == "__main__":
    main()
