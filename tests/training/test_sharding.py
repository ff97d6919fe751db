"""A sharded model in two real processes (gloo) against the plain one: features, weights, gradients, optimizer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from lotlip.errors import ModelError
from lotlip.training.sharding import shard
from tests.model.tiny_parts import tiny_model
from tests.training import shard_ranks

Found = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    folder = tmp_path_factory.mktemp("ranks")
    script, init = str(Path(shard_ranks.__file__)), str(folder / "init")
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), "2", init, str(folder / f"{rank}.pt")],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": "."},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", shard_ranks.CASES)
def test_features_gradients_and_updates_equal_those_of_the_plain_model(two_ranks: list[Found], case: str) -> None:
    first, second = (found[case] for found in two_ranks)
    expected = shard_ranks.run(case, 0, 1)
    assert first.keys() == second.keys() == expected.keys()
    assert any(name.startswith("gradient/image_tower") for name in expected) != case.startswith("locked")
    for name, wanted in expected.items():
        if name.startswith("features"):
            found = torch.cat([first[name], second[name]])
        elif name == "held":
            continue
        else:
            assert torch.equal(first[name], second[name])
            found = first[name]
        torch.testing.assert_close(found, wanted, atol=1e-10, rtol=1e-10, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("case", shard_ranks.CASES)
def test_each_process_holds_half_of_what_is_not_whole(two_ranks: list[Found], case: str) -> None:
    model = shard_ranks.make_model(case)
    total = sum(p.numel() for p in model.parameters())
    locked = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    held, whole = zip(*(found[case]["held"].tolist() for found in two_ranks), strict=True)
    assert whole == (locked + 2, locked + 2)  # logit scale and bias
    assert sum(held) == total + locked + 2
    assert max(held) - min(held) < 0.1 * (total - locked)


def test_what_cannot_be_sharded_says_so(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'init'}", rank=0, world_size=1)
    try:
        model = tiny_model()
        with pytest.raises(ModelError, match="2 dimensions"):
            shard(model, init_device_mesh("cpu", (1, 1)))
        mesh = init_device_mesh("cpu", (1,))
        names = list(model.state_dict())
        (whole,) = shard(model, mesh)
        assert whole is model.logit_scale
        assert list(model.state_dict()) == names
        with pytest.raises(ModelError, match="sharded already"):
            shard(model, mesh)
    finally:
        dist.destroy_process_group()
