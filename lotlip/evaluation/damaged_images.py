"""Which images of a checked folder cannot be decoded."""

from concurrent.futures import ThreadPoolExecutor

from lotlip.data.images import open_rgb
from lotlip.errors import DataError
from lotlip.evaluation.finder import Sample
from lotlip.evaluation.folder_check import FolderCheck
from lotlip.model.processor import MAX_PIXELS


def damaged_images(check: FolderCheck) -> list[str]:
    """The images of a checked folder that cannot be decoded, each with the reason; every image is read."""

    def find(sample: Sample) -> list[str]:
        path = check.images_root / sample.image
        try:
            open_rgb(path.read_bytes(), MAX_PIXELS)
        except (DataError, OSError) as error:
            return [f"{path}: {error}"]
        return []

    with ThreadPoolExecutor() as pool:  # decoders let other threads run
        return [what for found in pool.map(find, check.samples) for what in found]
