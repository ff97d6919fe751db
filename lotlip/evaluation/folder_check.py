"""What of a published set lies in a folder, and what is missing, unreadable or too much: nothing is lost silently."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lotlip.data.layouts.entries import Entry, Found, MissingFile
from lotlip.errors import DataError
from lotlip.evaluation.finder import Finder, Sample
from lotlip.evaluation.public_sets import PublicSet, imagenet_classes, imagenet_templates, public_set
from lotlip.evaluation.sets import EvalSet

SHOWN = 3  # paths named of many


@dataclass(frozen=True)
class FolderCheck:
    """A folder held against the set that should be in it.

    Attributes:
        samples: what can be evaluated, in the set's order.
        missing_files: annotation files, where they belong.
        missing_images: images that annotations name, where they belong.
        unreadable: rows (or whole files) that cannot be used, each with its place and the reason.
        without_text: images that are there and have no text (retrieval only); they are no queries.
        num_empty_texts: texts without a word, left out.
        num_duplicate_images: entries whose image an earlier entry names, too; they stay, as everyone scores them.
    """

    name: str
    spec: PublicSet
    root: Path
    images_root: Path
    normalize_long: bool
    samples: tuple[Sample, ...]
    missing_files: tuple[Path, ...]
    missing_images: tuple[Path, ...]
    unreadable: tuple[str, ...]
    without_text: tuple[str, ...]
    num_empty_texts: int
    num_duplicate_images: int

    @property
    def is_whole(self) -> bool:
        """Whether all of the set is here, and nothing else."""
        return not self.problems() and self.spec.num_images in (None, len(self.samples))

    def problems(self) -> list[str]:
        """What must be mended before the set can be evaluated as a whole, a line each."""
        lines = [f"missing: {path}" for path in self.missing_files[:SHOWN]]
        lines += _more("files", self.missing_files)
        if self.missing_images:
            lines.append(f"missing images: {len(self.missing_images):,}")
            lines += [f"  {path}" for path in self.missing_images[:SHOWN]] + _more("images", self.missing_images)
        return lines + [f"unreadable: {what}" for what in self.unreadable[:SHOWN]] + _more("rows", self.unreadable)

    def size_in_words(self) -> str:
        """How many images are here, of how many, and what that means."""
        found, whole = len(self.samples), self.spec.num_images
        texts = f"{sum(len(sample.texts) for sample in self.samples):,} texts"
        here = f"{found:,} images" + ("" if self.spec.task == "classification" else f" with {texts}")
        if whole is None or found == whole:
            return f"{here}."
        what = "only a part of it" if found < whole else "more than it"
        return f"{here}; the whole set has {whole:,}: this is {what}, not to be compared with published numbers."

    def lines(self) -> list[str]:
        """The whole finding for a reader: problems, counts, and where things belong when something is missing."""
        lines = [f"{self.name} in {self.root}: {self.size_in_words()}", *self.problems()]
        counts = {"images without a text": len(self.without_text), "empty texts": self.num_empty_texts}
        counts |= {"images that an earlier entry names, too": self.num_duplicate_images}
        lines += [f"{what}: {count:,}" for what, count in counts.items() if count]
        if self.problems() or not self.samples:
            place = self.root.parent if self.root.is_file() else self.root
            lines += [f"What belongs into {place} ({self.spec.origin}):"]
            lines += [f"  {file}" for file in self.spec.files]
        return lines

    def record(self) -> dict[str, Any]:
        """The whole finding as JSON-able values, every path and row included."""
        return {
            "set": self.name,
            **self.counts(),
            "images": len(self.samples),
            "texts": sum(len(sample.texts) for sample in self.samples),
            "missing_files": [str(path) for path in self.missing_files],
            "missing_images": [str(path) for path in self.missing_images],
            "unreadable": list(self.unreadable),
            "without_text": list(self.without_text),
        }

    def counts(self) -> dict[str, int | bool]:
        """What stands beside a result: whether it is the whole set's, and what was left out."""
        whole = {} if self.spec.num_images is None else {"set_images": self.spec.num_images}
        return {
            "is_whole_set": self.is_whole,
            **whole,
            "missing_images": len(self.missing_images),
            "images_without_text": len(self.without_text),
            "empty_texts": self.num_empty_texts,
            "duplicate_images": self.num_duplicate_images,
        }

    def refuse_problems(self, allow_missing: bool) -> None:
        """Stop before anything is lost.

        Args:
            allow_missing: images may be missing; files and rows may not.

        Raises:
            DataError: something is missing or unreadable, or nothing is left to evaluate on.
        """
        only_images = not self.missing_files and not self.unreadable
        if (self.problems() and not (allow_missing and only_images)) or not self.samples:
            hint = ["To leave the missing images out and count them: --allow-missing (in params.yaml: allow_missing)."]
            raise DataError("\n".join(self.lines() + (hint if only_images and self.missing_images else [])))


def check_folder(name: str, root: Path, images: Path | None = None, normalize: bool | None = None) -> FolderCheck:
    """Read a set's annotations and look for its images; none is opened.

    Args:
        name: one of `PUBLIC_SETS`.
        root: folder with its files, or the annotation file itself.
        images: what image names are relative to; None: `root`, or the annotation file's folder.
        normalize: split texts into sub-captions and join them by ". "; None: as the set's are.

    Raises:
        DataError: no set has this name.
    """
    spec = public_set(name)
    images_root = images or (root.parent if root.is_file() else root)
    is_normalized = spec.is_long if normalize is None else normalize
    entries, errors = _read(spec, root)
    finder = Finder(spec, images_root, is_normalized)
    for entry in entries[: spec.first]:
        finder.add(entry)
    return FolderCheck(
        name=name,
        spec=spec,
        root=root,
        images_root=images_root,
        normalize_long=is_normalized,
        samples=tuple(finder.samples),
        missing_files=tuple(error.path for error in errors if isinstance(error, MissingFile)),
        missing_images=tuple(finder.missing),
        unreadable=(*(str(error) for error in errors if not isinstance(error, MissingFile)), *finder.unreadable),
        without_text=tuple(finder.without_text),
        num_empty_texts=finder.num_empty_texts,
        num_duplicate_images=sum(count - 1 for count in finder.seen.values()),
    )


def open_public_set(check: FolderCheck, allow_missing: bool) -> EvalSet:
    """A checked folder as a set to evaluate on; errors as `FolderCheck.refuse_problems`."""
    check.refuse_problems(allow_missing)
    is_classes = check.spec.task == "classification"
    texts = [(i, text) for i, sample in enumerate(check.samples) for text in sample.texts]
    return EvalSet(
        name=check.name,
        task=check.spec.task,
        images=tuple(check.images_root / sample.image for sample in check.samples),
        texts=tuple(text for _, text in texts),
        image_of_text=tuple(i for i, _ in texts),
        labels=tuple(sample.label for sample in check.samples if sample.label is not None),
        classes=tuple(imagenet_classes().values()) if is_classes else (),
        templates=imagenet_templates() if is_classes else (),
    )


def _read(spec: PublicSet, root: Path) -> tuple[list[Entry], list[DataError]]:
    if not root.exists():
        return [], [MissingFile(root, "no such folder or file.")]
    found: list[Found] = []
    errors: list[DataError] = []
    try:
        found.extend(spec.read(root))
    except DataError as error:
        errors.append(error)
    except OSError as error:
        errors.append(DataError(f"{error.filename} cannot be read ({error.strerror})."))
    errors = [one for one in found if isinstance(one, DataError)] + errors
    return [one for one in found if isinstance(one, Entry)], errors


def _more(what: str, all_of_them: Sequence[object]) -> list[str]:
    left = len(all_of_them) - SHOWN
    return [f"  and {left:,} more {what}"] if left > 0 else []
