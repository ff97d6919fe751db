"""Features of a shard's images in one file, which is mapped and not read, so that a batch costs no more than its rows.

The file is in the safetensors format. Every row has a checksum, which is compared whenever the row is used: to check
the whole of a file that is larger than memory, again in each run, would take longer than a step may.

Shapes: n images, r crops of each; a row is [H], or [P, H] where there are features of P patches.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lotlip.errors import DataError
from lotlip.records import atomic_path

Indices = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Sidecar:
    """keys: sorted bytes [n]; features: float16 [n, r, ...]; checksums: uint32 [n, r]; all of it mapped."""

    path: Path
    keys: NDArray[np.bytes_]
    features: NDArray[np.float16]
    checksums: NDArray[np.uint32]

    def find(self, keys: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The images' places, and which of the keys are there at all (places of the others mean nothing)."""
        wanted = np.array([key.encode() for key in keys], dtype=np.bytes_)
        places = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        return places, self.keys[places] == wanted

    def rows(self, places: Indices, crops: Indices) -> NDArray[np.float16]:
        """Crop `crops[i]` of the image at `places[i]`, float16 [B, ...].

        Raises:
            DataError: a row has another checksum than when it was written.
        """
        rows: NDArray[np.float16] = self.features[places, crops]
        expected = self.checksums[places, crops].tolist()
        for key, crop, row, checksum in zip(self.keys[places].tolist(), crops.tolist(), rows, expected, strict=True):
            if _checksum(key, crop, row) != checksum:
                raise DataError(
                    f"{self.path} is damaged: features of image {key.decode()} are not those that were written. "
                    "Remove the file and run again: it is computed anew. If this comes again, check the disk."
                )
        return rows


def write_sidecar(path: Path, keys: Sequence[str], features: NDArray[np.float16]) -> None:
    """Write features float16 [n, r, ...] of n >= 1 images; `keys` are sorted by their bytes."""
    names = np.array([key.encode() for key in keys], dtype=np.bytes_)
    features = np.ascontiguousarray(features)
    checksums = [
        [_checksum(key, crop, row) for crop, row in enumerate(rows)]
        for key, rows in zip(names.tolist(), features, strict=True)
    ]
    tensors = {
        "keys": names.view(np.uint8).reshape(len(names), -1),
        "features": features,
        "checksums": np.array(checksums, dtype=np.uint32),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)
        temporary.chmod(0o644)  # as other files here: safetensors lets nobody else read


def open_sidecar(path: Path) -> Sidecar:
    """Map a sidecar.

    Raises:
        DataError: it is missing, or no complete file of this kind; the message is a short reason.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing")
    try:
        # torch maps the file and, unlike numpy, keeps no descriptor open: a process may have few of these.
        with safe_open(path, framework="pt") as file:
            keys, features, checksums = (file.get_tensor(name).numpy() for name in ("keys", "features", "checksums"))
    except (SafetensorError, OSError, RuntimeError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error})") from None
    return Sidecar(path, keys.view(f"S{keys.shape[1]}")[:, 0], features, checksums)


def _checksum(key: bytes, crop: int, row: NDArray[Any]) -> int:
    """CRC-32 of a row together with whose it is, so that rows in each other's places are found out too."""
    return zlib.crc32(row.data, zlib.crc32(b"%s/%d" % (key, crop)))
