"""Time and memory of ranking N images and N texts at width 512, and what they come to at a million.

    python benchmarks/bench_retrieval_scale.py            # about a minute and a half on 2 cores

Every size has a process of its own for its time, and one for the memory that ranking needs beyond what is there after
5,000 were ranked. The limit is 2 N^2 D multiplications and additions at the speed of this machine's product of two
large matrices, timed in the same process; the whole matrix would take 4 N^2 bytes. 200 queries a size are ranked again
in float64, one way. Fitted: seconds = a N^2 D over all sizes. The curve goes to docs/results/retrieval_cost.png.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.nn.functional import normalize

from benchmarks.timing import peak_memory, save
from lotlip.evaluation.retrieval import retrieval_ranks
from lotlip.evaluation.scores import CosineScores

SIZES, WIDTH, MILLION = (5_000, 10_000, 20_000, 40_000), 512, 1_000_000
CHECKED = 200  # queries a size
PLOT = Path(__file__).parents[1] / "docs/results/retrieval_cost.png"
# The C library keeps freed memory for later, which a high-water mark counts; told so, it gives it back at once.
GIVE_BACK = {"time": {}, "memory": {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}}


def measure(what: str, num: int) -> dict[str, float]:
    """Bytes, or seconds with the limit's FLOP/s and ranks that differ from float64's."""
    torch.manual_seed(0)
    image_ID = normalize(torch.randn(num, WIDTH), dim=1)
    text_TD = normalize(image_ID + 0.15 * torch.randn(num, WIDTH), dim=1)

    def rank(first: int = num) -> torch.Tensor:
        return retrieval_ranks(CosineScores(image_ID[:first], text_TD[:first]), torch.arange(first))[0]

    if what == "memory":
        return {"extra_bytes": peak_memory(rank, warm_up=lambda: rank(SIZES[0]))}
    rank(SIZES[0])
    started = time.perf_counter()
    ranks_I = rank()
    seconds = time.perf_counter() - started
    asked = torch.randint(num, (CHECKED,))
    rows = image_ID[asked].double() @ text_TD.double().T
    expected = (rows >= rows.gather(1, asked[:, None])).sum(dim=1)
    return {
        "num": num,
        "seconds": seconds,
        "limit_flops": product_flops(image_ID[:4096], text_TD[:4096]),
        "ranks_that_differ": int((ranks_I[asked] != expected).sum()),
    }


def product_flops(left: torch.Tensor, right: torch.Tensor) -> float:
    """FLOP/s of one product of large matrices, the best of five."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        left @ right.T
        times.append(time.perf_counter() - started)
    return 2 * len(left) * len(right) * left.shape[1] / min(times)


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Each size's numbers, the fit, and a million by it."""
    work = [row["num"] ** 2 * WIDTH for row in rows]
    a = sum(row["seconds"] * w for row, w in zip(rows, work, strict=True)) / sum(w * w for w in work)
    limit = max(row["limit_flops"] for row in rows)
    result: dict[str, Any] = {}
    for row, w in zip(rows, work, strict=True):
        k = f"{int(row['num']) // 1000}k"
        result |= {
            f"{k}_s": round(row["seconds"], 3),
            f"{k}_gflops": round(2 * w / row["seconds"] / 1e9, 1),
            f"{k}_of_limit": round(2 * w / row["seconds"] / row["limit_flops"], 3),
            f"{k}_fit_off": round(row["seconds"] / (a * w) - 1, 3),
            f"{k}_extra_mib": round(row["extra_bytes"] / 2**20, 1),
            f"{k}_matrix_mib": round(4 * row["num"] ** 2 / 2**20),
        }
    # Beyond a block of fixed size it is the ranks and scores of queries that grow.
    small, large = rows[0], rows[-1]
    each = max(0.0, (large["extra_bytes"] - small["extra_bytes"]) / (large["num"] - small["num"]))
    return result | {
        "ranks_that_differ": sum(row["ranks_that_differ"] for row in rows),
        "queries": CHECKED * len(rows),
        "width": WIDTH,
        "a_ps": round(a * 1e12, 4),
        "limit_gflops": round(limit / 1e9, 1),
        "million_hours": round(a * MILLION**2 * WIDTH / 3600, 2),
        "million_limit_hours": round(2 * MILLION**2 * WIDTH / limit / 3600, 2),
        "million_embeddings_gib": round(2 * MILLION * WIDTH * 4 / 2**30, 2),
        "million_extra_gib": round((large["extra_bytes"] + each * (MILLION - large["num"])) / 2**30, 3),
        "million_matrix_gib": round(4 * MILLION**2 / 2**30),
    }


def draw(rows: list[dict[str, float]], result: dict[str, Any]) -> None:
    """Seconds and bytes against N, with the fit, the limit and the whole matrix, as PNG."""
    sizes = [row["num"] for row in rows]
    line = [sizes[0], MILLION]
    fitted = [result["a_ps"] * 1e-12 * n**2 * WIDTH for n in line]
    limit = [2 * n**2 * WIDTH / (result["limit_gflops"] * 1e9) for n in line]
    figure = Figure(figsize=(9.5, 3.8), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    time_axes, memory_axes = figure.subplots(1, 2)
    time_axes.loglog(line, fitted, color="#d1495b", label=f"a N² D: {result['million_hours']:.1f} h at a million")
    time_axes.loglog(line, limit, color="#999", linestyle="--", label="the product alone")
    time_axes.loglog(sizes, [row["seconds"] for row in rows], "o", color="#d1495b", label="measured")
    memory_axes.loglog(line, [4 * n**2 for n in line], color="#999", linestyle="--", label="the whole matrix")
    memory_axes.loglog(line, [8 * n * WIDTH for n in line], color="#2e6f95", label="embeddings, float32")
    memory_axes.loglog(sizes, [row["extra_bytes"] for row in rows], "o", color="#d1495b", label="beyond them, measured")
    for axes, says in ((time_axes, "seconds"), (memory_axes, "bytes")):
        axes.set_title(f"{says}, N images with N texts", fontsize=11, loc="left")
        axes.set_xlabel(f"N (width {WIDTH})")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, fontsize=9)
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, metadata={"Software": None})


def run(what: str, num: int) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, what, str(num)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **GIVE_BACK[what]})
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    rows = [run("time", num) | run("memory", num) for num in SIZES]
    result = summary(rows)
    save("retrieval_scale", result)
    draw(rows, result)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
    else:
        main()
