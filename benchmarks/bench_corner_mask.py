"""The corner mask of 256 texts of 128 ids: one square for every text of a length, against a mask for each text.

The limit: L^2 bools for all, against B L^2 floats written by Python loops, or by one vectorised expression.
"""

from pathlib import Path
from sys import path

path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.texts import CORNERS, make_ids, mask_by_loop, mask_vectorised
from benchmarks.timing import compare, device, save
from lotlip.model.packing import corner_visibility, pack

NUM_TEXTS = 256


def main() -> None:
    ids = make_ids("long", NUM_TEXTS).to(device())

    longest = pack(ids != 0).lengths[-1]

    def one_square() -> torch.Tensor:
        return corner_visibility(longest, CORNERS, ids.device)

    visible = one_square()
    loop, vectorised = mask_by_loop(ids)[:, 0] == 0, mask_vectorised(ids)[:, 0]
    equal = True
    for text, by_loop, at_once in zip(ids, loop, vectorised, strict=True):
        length = int((text != 0).sum())
        square = visible[:length, :length]
        equal &= torch.equal(by_loop[:length, :length], square) and torch.equal(at_once[:length, :length], square)
    ways = {
        "one_square": one_square,
        "per_text_loop": lambda: mask_by_loop(ids),
        "vectorised": lambda: mask_vectorised(ids),
    }
    save("corner_mask", {**compare(ways, 7), "equal": equal, "texts": NUM_TEXTS})


if __name__ == "__main__":
    main()
