"""The model as it runs on one or several processes: wrapped, in its precision, with the kernels asked for."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from lotlip.errors import ParamsError
from lotlip.model.modeling import LotlipModel, LotlipOutput
from lotlip.params import Compute
from lotlip.training.compiled import compile_layers
from lotlip.training.ranks import Ranks
from lotlip.training.sharding import shard

DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}  # of weights
_KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


class Network:
    """`model`, and how to run it on all processes.

    With `ddp` every process holds all weights, and gradients are averaged while they come (DistributedDataParallel).
    With `fsdp` weights, gradients and the optimizer's state are shared out (FSDP2); a few small ones stay `whole`.
    """

    def __init__(self, model: LotlipModel, compute: Compute, ranks: Ranks) -> None:
        self.model = model.to(ranks.device, DTYPES[compute.precision])
        self.whole: list[nn.Parameter] = []
        self._device_type = ranks.device.type
        self._is_mixed = compute.precision == "bfloat16"
        if compute.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        if compute.compile:
            compile_layers(model)
        self._module: Any = self.model
        self._is_sharded = ranks.group is not None and compute.sharding == "fsdp"
        if self._is_sharded:
            self.whole = shard(model, init_device_mesh(ranks.device.type, (ranks.size,)))
        elif ranks.group is not None:
            ids = [ranks.device] if ranks.device.type == "cuda" else None
            self._module = DistributedDataParallel(model, ids, forward_sync_buffers=False, gradient_as_bucket_view=True)

    def __call__(self, **inputs: Any) -> LotlipOutput:
        """The model's forward pass; weights are cast to 16 bits on the way where the precision says so."""
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self._is_mixed):
            output: LotlipOutput = self._module(**inputs)
        return output

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Within it gradients add up in each process; the next backward pass outside exchanges them."""
        if self._is_sharded:
            self._module.set_requires_gradient_sync(False)
            yield
            self._module.set_requires_gradient_sync(True)
        else:
            outer = self._module.no_sync() if self._module is not self.model else nullcontext()
            with outer:
                yield

    def average_whole_gradients(self, ranks: Ranks) -> None:
        """Exchange the gradients that sharding leaves to us."""
        for parameter in self.whole:
            if parameter.grad is not None:
                ranks.mean_(parameter.grad)


@contextmanager
def numerics(compute: Compute, device: torch.device) -> Iterator[None]:
    """Within it torch computes as the settings say; afterwards as before.

    Raises:
        ParamsError: the attention kernel asked for is not one of this device.
    """
    before = (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
    )
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = compute.tf32
        torch.use_deterministic_algorithms(compute.deterministic)
        if compute.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses
        with _kernel(compute.sdpa, device):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before[:2]
        torch.use_deterministic_algorithms(before[2])


def _kernel(name: str, device: torch.device) -> AbstractContextManager[Any]:
    if name == "auto":
        return nullcontext()
    if device.type == "cpu" and name in ("efficient", "cudnn"):
        raise ParamsError(f"train.compute.sdpa is {name!r}, a kernel for GPUs; a CPU has auto, flash and math.")
    # torch falls back to `math` where a kernel does not take the inputs, such as those with a mask.
    return sdpa_kernel([_KERNELS[name], SDPBackend.MATH])
