"""Which device a setting means."""

import torch

from lotlip.errors import ParamsError


def open_device(name: str) -> torch.device:
    """`auto` is the GPU when there is one, else the CPU; otherwise torch's own names (`cpu`, `cuda:1`).

    Raises:
        ParamsError: the name is not a device, or the machine lacks it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ParamsError(f"device is {name!r}; expected auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ParamsError(f"device is {name!r} and torch sees {torch.cuda.device_count()} GPUs here: use auto or cpu.")
    return device
