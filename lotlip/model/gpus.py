"""What known GPUs can do at most: products of dense matrices, and memory.

Source: NVIDIA's data sheets of A100, H100, H200, L4, L40S, A10 and V100, of HGX B200 (for eight: a share each), and
the Ada architecture's white paper (RTX 4090; sums in float32). Where a sheet counts with sparsity, half of it.
"""

import re
from dataclasses import dataclass

from lotlip.params import Precision


@dataclass(frozen=True)
class Gpu:
    """Dense peaks in FLOP/s: of products in bfloat16 and in TF32 (None: there are none), of float32 and float64
    without tensor cores; memory in bytes, as the sheet names it."""

    bfloat16: float | None
    tf32: float | None
    float32: float
    float64: float
    memory: float


# By words of the device's name, as torch.cuda.get_device_name() gives it; the first entry whose words are all there.
PEAK_FLOPS = {
    "B200": Gpu(2.25e15, 1.125e15, 75e12, 37e12, 180e9),
    "H200 NVL": Gpu(835.5e12, 417.5e12, 60e12, 30e12, 141e9),
    "H200": Gpu(989.5e12, 494.5e12, 67e12, 34e12, 141e9),
    "H100 NVL": Gpu(835.5e12, 417.5e12, 60e12, 30e12, 94e9),
    "H100 PCIe": Gpu(756.5e12, 378e12, 51e12, 26e12, 80e9),
    "H100": Gpu(989.5e12, 494.5e12, 67e12, 34e12, 80e9),  # SXM: "NVIDIA H100 80GB HBM3"
    "A100 40GB": Gpu(312e12, 156e12, 19.5e12, 9.7e12, 40e9),
    "A100": Gpu(312e12, 156e12, 19.5e12, 9.7e12, 80e9),
    "L40S": Gpu(362.05e12, 183e12, 91.6e12, 1.43e12, 48e9),
    "L4": Gpu(121e12, 60e12, 30.3e12, 0.47e12, 24e9),
    "A10": Gpu(125e12, 62.5e12, 31.2e12, 0.98e12, 24e9),
    "RTX 4090": Gpu(165.2e12, 82.6e12, 82.6e12, 1.3e12, 24e9),
    "V100 PCIE": Gpu(None, None, 14e12, 7e12, 32e9),
    "V100 16GB": Gpu(None, None, 15.7e12, 7.8e12, 16e9),
    "V100": Gpu(None, None, 15.7e12, 7.8e12, 32e9),
}
_OTHERS = {"LAPTOP", "MIG", "D"}  # parts and variants of the same name that can do less


def find_gpu(device_name: str) -> Gpu | None:
    """The known GPU that a device's name, or a part of it such as `H100`, stands for."""
    words = set(re.split(r"[\s-]+", device_name.upper()))
    if words & _OTHERS:
        return None
    return next((gpu for name, gpu in PEAK_FLOPS.items() if set(name.upper().split()) <= words), None)


def peak_flops(device_name: str, precision: Precision, *, tf32: bool = True) -> float | None:
    """The dense peak of a device in FLOP/s; None where it is not known, or there is no such product.

    Args:
        device_name: as `torch.cuda.get_device_name()` gives it, or a part of it.
        precision: of train.compute.
        tf32: whether products of float32 may be done in TF32.
    """
    gpu = find_gpu(device_name)
    if gpu is None:
        return None
    if precision == "bfloat16":
        return gpu.bfloat16
    if precision == "float64":
        return gpu.float64
    return gpu.tf32 if tf32 and gpu.tf32 is not None else gpu.float32
