"""The images that a set's annotations name: found below a root, or told apart by what is wrong with them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lotlip.data.evalset_files import inside
from lotlip.data.layouts.entries import Entry, short
from lotlip.errors import DataError
from lotlip.evaluation.public_sets import PublicSet, imagenet_classes
from lotlip.text.subcaptions import normalize_long

_SPELLINGS = {".jpg": (".jpg", ".JPG", ".jpeg", ".JPEG"), ".png": (".png", ".PNG"), ".webp": (".webp", ".WEBP")}


@dataclass(frozen=True, slots=True)
class Sample:
    """An image that is there, by its path below the images' root, with its texts or the index of its class."""

    image: str
    texts: tuple[str, ...] = ()
    label: int | None = None


class Finder:
    """Sorts entries into those that can be evaluated and those that cannot, by reason."""

    def __init__(self, spec: PublicSet, root: Path, normalize: bool) -> None:
        self.spec, self.root, self.normalize = spec, root, normalize
        self.labels = {wordnet_id: i for i, wordnet_id in enumerate(imagenet_classes())}
        self.samples: list[Sample] = []
        self.missing: list[Path] = []
        self.unreadable: list[str] = []
        self.without_text: list[str] = []
        self.num_empty_texts = 0
        self.seen: Counter[str] = Counter()

    def add(self, entry: Entry) -> None:
        """Look for the image of an entry and keep it with its texts, or why it cannot be kept."""
        try:
            _check_unicode(entry)
            if not entry.image:
                raise DataError(f"A row names no `image`; its texts are {short(entry.texts)}.")
            image = self._find(entry.image)
        except DataError as error:
            self.unreadable.append(str(error))
            return
        if image is None:
            return
        if self.spec.task == "classification":
            self._add_labelled(image, str(entry.label))
            return
        texts = [normalize_long(text) if self.normalize else text for text in entry.texts]
        kept = tuple(text for text in texts if text.strip())
        self.num_empty_texts += len(texts) - len(kept)
        if kept:
            self.seen[image] += 1
            self.samples.append(Sample(image, kept))
        else:
            self.without_text.append(image)

    def _add_labelled(self, image: str, label: str) -> None:
        unknown = f"{self.root}: folder {label} is no class of ImageNet-1k"
        if label in self.labels:
            self.samples.append(Sample(image, label=self.labels[label]))
        elif unknown not in self.unreadable:
            self.unreadable.append(unknown)

    def _find(self, name: str) -> str | None:
        """The path of an image below the root; None, and noted, if it is not there.

        Raises:
            DataError: the name leads out of the root, or no file can be called so.
        """
        inside(self.root, name)
        for folder in self.spec.image_folders:
            for spelling in _spellings(f"{folder}/{name}" if folder else name):
                if _is_file(self.root / spelling):
                    return spelling
        folder = self.spec.image_folders[0]
        self.missing.append(self.root / ("" if self.root.name == folder else folder) / name)
        return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # the name is too long, or a folder of it may not be entered
        raise DataError(f"{path} cannot be looked for ({error.strerror}).") from None


def _spellings(name: str) -> Iterator[str]:
    """The name without `./`, then with its ending written otherwise: in capitals, or .jpeg for .jpg."""
    path = PurePosixPath(name)
    yield str(path)
    for endings in _SPELLINGS.values():
        if path.suffix.lower() in endings:
            yield from (str(path.with_suffix(ending)) for ending in endings if ending != path.suffix)


def _check_unicode(entry: Entry) -> None:
    try:
        "".join((entry.image, *entry.texts)).encode()
    except UnicodeEncodeError:
        raise DataError(f"Image {entry.image!r}: its name or text holds half a character (a lone surrogate).") from None
