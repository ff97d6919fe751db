"""Retrieval on a GPU: ranks equal to the CPU's, and the time and memory of 10,000 and 100,000 images and texts.

    python benchmarks/gpu/bench_retrieval.py              # results as JSON in benchmarks/results
    python benchmarks/gpu/bench_retrieval.py --device cpu --tiny --out /tmp/retrieval   # tries the script out

Without a GPU it ends with status 2; with status 1 if a rank differs. Ranks are compared where scores are whole numbers
below 2^24, exact in float32 in whatever order they are summed up, but not in TF32, which is allowed meanwhile; every
pair is there twice, so all queries tie. Ranks of real embeddings at the smaller size are compared, too: those may
differ by rounding, and how many do is told. The peer holds the whole matrix and sorts it, at the smaller size. The
limit: 2 I T D multiplications and additions at the device's float32 peak, of which `of_peak` is the share reached.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.gpu.setting import arguments, device_of
from benchmarks.timing import compare, machine, peak_memory
from lotlip.evaluation.retrieval import retrieval_ranks
from lotlip.evaluation.scores import CosineScores, Scores, TokenScores
from lotlip.model.gpus import find_gpu
from lotlip.records import write_json

SIZES, WIDTH, ROUNDS = (10_000, 100_000), 512, 5


def main() -> None:
    asked = arguments(__doc__).parse_args()
    device = device_of(asked.device)
    small, large = (300, 600) if asked.tiny else SIZES
    result = {**exact_checks(small, device), **timings(small, large, device), **machine()}
    print("gpu_retrieval", *(f"{key}={value}" for key, value in result.items()))
    asked.out.mkdir(parents=True, exist_ok=True)
    write_json(asked.out / "gpu_retrieval.json", result)
    if result["cosine_ranks_that_differ"] or result["token_ranks_that_differ"]:
        sys.exit("error: ranks differ from the CPU's although all scores are exact")


def exact_checks(num: int, device: torch.device) -> dict[str, int]:
    """Ranks and tied queries that differ between CPU and device, with TF32 allowed."""
    cosines = CosineScores(whole(4000, num // 2, 16), whole(250, num // 2, 16))
    few = num // 20
    keep_TL = (torch.arange(5) < 2 ** (torch.arange(few) % 3)[:, None]).repeat(2, 1)  # 1, 2 or 4 of 5: exact means
    tokens = TokenScores(whole(4000, few, 4, 16), whole(250, few, 5, 16), keep_TL)
    torch.set_float32_matmul_precision("high")
    try:
        return {
            "cosine_ranks_that_differ": differ(cosines, on(cosines, device)),
            "token_ranks_that_differ": differ(tokens, on(tokens, device)),
        }
    finally:
        torch.set_float32_matmul_precision("highest")


def timings(small: int, large: int, device: torch.device) -> dict[str, Any]:
    """Seconds, share of the peak and memory of both sizes; at the smaller, the peer's time and the CPU's ranks."""
    result: dict[str, Any] = {}
    for num in (small, large):
        scores, owner_T = on(real(num), device), torch.arange(num, device=device)
        ways = {"blocks": lambda: retrieval_ranks(scores, owner_T)}  # noqa: B023
        if num == small:
            ways["argsort"] = lambda: argsort_ranks(scores)  # noqa: B023
        times = compare(ways, ROUNDS)
        gpu = find_gpu(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        flops = 2 * num**2 * WIDTH / times["blocks_s"]
        result |= {f"{num}_{name}": value for name, value in times.items()}
        result |= {
            f"{num}_tflops": round(flops / 1e12, 2),
            f"{num}_of_peak": None if gpu is None else round(flops / gpu.float32, 3),
            f"{num}_extra_mib": round(peak_memory(ways["blocks"]) / 2**20, 1),
        }
    result["rounded_ranks_that_differ"] = differ(real(small), on(real(small), device))
    return result | {"queries": 2 * small, "width": WIDTH}


def real(num: int) -> CosineScores:
    generator = torch.Generator().manual_seed(0)
    image_ID = normalize(torch.randn(num, WIDTH, generator=generator), dim=1)
    return CosineScores(image_ID, normalize(image_ID + 0.15 * torch.randn(num, WIDTH, generator=generator), dim=1))


def whole(largest: int, num: int, *shape: int) -> Tensor:
    """Whole numbers up to `largest`, as float32 [2 num, *shape], of which the second half repeats the first."""
    generator = torch.Generator().manual_seed(largest)
    half = torch.randint(-largest, largest + 1, (num, *shape), generator=generator).float()
    return torch.cat([half, half])


def on(scores: Any, device: torch.device) -> Any:
    """The same scores, computed on a device."""
    return type(scores)(*(tensor.to(device) for tensor in vars(scores).values()))


def differ(expected: Scores, found: Scores) -> int:
    """How many ranks of I2T and T2I differ, and 1 more if the number of tied queries does."""
    owner_T = torch.arange(expected.num_texts)  # on the CPU: evaluation moves it to where scores are
    (*ranks, num_tied), (*others, others_tied) = (retrieval_ranks(scores, owner_T) for scores in (expected, found))
    wrong = sum(int((mine != other.cpu()).sum()) for mine, other in zip(ranks, others, strict=True))
    return wrong + (num_tied != others_tied)


def argsort_ranks(scores: CosineScores) -> tuple[Tensor, ...]:
    """Place of the right answer in the sorted list, both ways."""
    scores_IT = scores.image_ID @ scores.text_TD.T
    right = torch.arange(len(scores_IT), device=scores.device)[:, None]
    orders = (each.argsort(dim=1, descending=True) for each in (scores_IT, scores_IT.T))
    return tuple((order == right).nonzero()[:, 1] + 1 for order in orders)


if __name__ == "__main__":
    main()
