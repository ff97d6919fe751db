"""The leak gate: training images that are images of an evaluation set, or nearly so, by their hashes."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lotlip.data.evalset_files import evalset_images, write_again
from lotlip.data.images import check_image
from lotlip.data.loading.samples import is_held_out, source_of
from lotlip.data.near_duplicates import near_pairs, parse_hashes
from lotlip.errors import DataError
from lotlip.records import sha256_bytes

if TYPE_CHECKING:
    import pandas as pd


def may_be_trained_on(table: "pd.DataFrame", held_out: Mapping[str, float]) -> "pd.Series[bool]":
    """Which images of `image_table` training may see.

    Not the held-out share of their source, nor images with the same bytes as one of those: `join_samples` leaves
    both out, so that a held-out evaluation set does not leak into its own source.
    """
    import pandas as pd

    success = table["status"] == "success"
    shares = [held_out.get(source_of(name), 0.0) for name in table["shard"]]
    is_kept_back = [bool(share) and is_held_out(key, share) for key, share in zip(table["key"], shares, strict=True)]
    kept_back = pd.Series(is_kept_back, table.index, dtype=bool) & success
    twins = table["sha256"].isin(table.loc[kept_back, "sha256"].dropna())
    return success & ~kept_back & ~twins


def find_leaks(
    trained: "pd.DataFrame", evalsets: Mapping[str, Path], max_distance: int, max_pixels: int
) -> "pd.DataFrame":
    """The images that an evaluation set shows, too: a row for each such image and set.

    Args:
        trained: the rows of `image_table` that training may see.
        evalsets: folders of evaluation sets by name.
        max_distance: bits of 64 by which the perceptual hashes of two equal pictures may differ; equal bytes are
            found without them.
        max_pixels: a larger evaluation image is refused before it is decoded.

    Returns:
        `row` (index of `trained`), `set`, `image` (path of the nearest evaluation image) and `distance` in bits,
        ordered by set and row.

    Raises:
        DataError: a set is missing or one of its images cannot be decoded.
    """
    import pandas as pd

    hashed = trained[trained["phash"].notna()]
    queries = parse_hashes(hashed["phash"].tolist())
    leaks: list[tuple[int, str, str, int]] = []
    for name, folder in evalsets.items():
        images, digests, hashes = _hashes(folder, max_pixels)
        by_bytes = {digest: i for i, digest in reversed(list(enumerate(digests)))}
        equal = trained.loc[trained["sha256"].isin(by_bytes.keys()), "sha256"]
        found = [(row, 0, by_bytes[digest]) for row, digest in zip(equal.index.tolist(), equal, strict=True)]
        i, j, distance = near_pairs(queries, parse_hashes(hashes), max_distance)
        found += zip(hashed.index[i].tolist(), distance.tolist(), j.tolist(), strict=True)
        nearest = {row: (distance, i) for row, distance, i in sorted(found, reverse=True)}
        leaks += [(row, name, str(images[i]), distance) for row, (distance, i) in sorted(nearest.items())]
    return pd.DataFrame(leaks, columns=["row", "set", "image", "distance"])


def mark_leaks(table: "pd.DataFrame", trained: "pd.Series[bool]", leaks: "pd.DataFrame") -> None:
    """Add `leak` (0/1, empty where training sees no image), `twin` (the evaluation image), `twin_bits` to `table`."""
    table["leak"] = table.index.to_series().isin(leaks["row"]).astype(float).where(trained)
    nearest = leaks.sort_values("distance", kind="stable").drop_duplicates("row").set_index("row")
    table["twin"] = nearest["image"].reindex(table.index)
    table["twin_bits"] = nearest["distance"].reindex(table.index)


def _hashes(folder: Path, max_pixels: int) -> tuple[list[Path], list[str], list[str]]:
    """Images of an evaluation set, their SHA-256 and their perceptual hashes."""
    images, digests, hashes = [], [], []
    for path in evalset_images(folder):
        try:
            data = path.read_bytes()
            hashes.append(check_image(data, max_pixels).phash)  # as the tables' hashes were made
        except FileNotFoundError:
            raise DataError(f"{path} is missing. {write_again(folder)}") from None
        except DataError as error:
            raise DataError(f"{path}: {error}. {write_again(folder)}") from None
        images.append(path)
        digests.append(sha256_bytes(data))
    return images, digests, hashes
