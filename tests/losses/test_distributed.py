"""Two real processes (gloo), each with half a batch, against one process with all of it: losses and gradients."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.losses import ranks


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                str(Path(ranks.__file__)),
                str(rank),
                "2",
                str(folder / "init"),
                str(folder / f"{rank}.pt"),
            ],
            cwd=Path(__file__).parents[2],
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "late"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_processes_equal_one(two_ranks: list[dict], dtype: torch.dtype, loss: str) -> None:
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 1e-10, "rtol": 1e-10}
    expected = {name: x for name, x in ranks.run(dtype, 0, 1, None).items() if name.startswith(loss)}
    parts = [found[str(dtype)] for found in two_ranks]
    assert {name for name in parts[0] if name.startswith(loss)} == expected.keys()
    for name, value in expected.items():
        if value.ndim == 0:  # loss, scale and bias: averaged over processes, as DistributedDataParallel does
            found = (parts[0][name] + parts[1][name]) / 2
        else:  # each process has its own embeddings; averaging parameters' gradients halves their effect
            found = torch.cat([part[name] for part in parts]) / 2
        torch.testing.assert_close(found, value, msg=lambda text, name=name: f"{name}: {text}", **tolerance)
