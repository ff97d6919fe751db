"""Ranks of 10,000 x 10,000 image-text retrieval: chunked counting against a full matrix and argsort.

The limit: 2 I T D multiplications and additions, and one read of I T fp32 scores that never leave a block.
"""

from pathlib import Path
from sys import path

path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.timing import compare, save
from lotlip.evaluation.retrieval import retrieval_ranks
from lotlip.evaluation.scores import CosineScores

NUM, WIDTH = 10_000, 256


def argsort_ranks(image_ID: torch.Tensor, text_TD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Place of the right answer in the sorted list, 1 for the first, both ways."""
    scores_IT = image_ID @ text_TD.T
    right = torch.arange(NUM)[:, None]
    i2t = (scores_IT.argsort(dim=1, descending=True) == right).nonzero()[:, 1] + 1
    t2i = (scores_IT.T.argsort(dim=1, descending=True) == right).nonzero()[:, 1] + 1
    return i2t, t2i


def main() -> None:
    torch.manual_seed(0)
    image_ID = torch.nn.functional.normalize(torch.randn(NUM, WIDTH), dim=1)
    text_TD = torch.nn.functional.normalize(image_ID + 0.15 * torch.randn(NUM, WIDTH), dim=1)
    image_of_text_T = torch.arange(NUM)
    scores = CosineScores(image_ID, text_TD)
    ranks_I, ranks_T, num_tied = retrieval_ranks(scores, image_of_text_T)
    i2t, t2i = argsort_ranks(image_ID, text_TD)
    different = int((ranks_I != i2t).sum() + (ranks_T != t2i).sum())
    ways = {
        "blocks": lambda: retrieval_ranks(scores, image_of_text_T),
        "argsort": lambda: argsort_ranks(image_ID, text_TD),
    }
    times = compare(ways, 1)
    save("retrieval_10k", {**times, "ranks_that_differ": different, "tied_queries": num_tied, "queries": 2 * NUM})


if __name__ == "__main__":
    main()
