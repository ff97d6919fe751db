"""The published evaluation sets, one entry each: how they are read, how large they are, and what lies where."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lotlip.data.layouts.entries import Reader
from lotlip.data.layouts.long_sets import read_dci, read_docci, read_iiw, read_sharegpt4v, read_urban1k
from lotlip.data.layouts.own_sets import read_csv, read_jsonl
from lotlip.data.layouts.short_sets import karpathy, read_imagenet
from lotlip.errors import DataError
from lotlip.evaluation.sets import Task

_IMAGENET = Path(__file__).parent / "imagenet"


@dataclass(frozen=True)
class PublicSet:
    """A set that others publish.

    Attributes:
        read: gives its entries from the folder that holds its annotations.
        num_images: of the whole set; None where any number is right.
        is_long: texts are long: split into sub-captions and joined by ". " before they are scored.
        source: where it is published; None: a set of one's own.
        files: what to put where, a line a file or folder below ROOT.
        image_folders: image names are looked for below these folders of the images' root, the first that has it.
        first: so many entries count; None: all.
    """

    read: Reader
    num_images: int | None
    is_long: bool
    source: str | None
    files: tuple[str, ...]
    image_folders: tuple[str, ...] = ("",)
    first: int | None = None
    task: Task = "retrieval"

    @property
    def origin(self) -> str:
        """Where it comes from, in words."""
        return "a set of your own" if self.source is None else f"published at {self.source}"


_SA1B = "https://ai.meta.com/datasets/segment-anything (SA-1B)"
_SHAREGPT4V_FILES = (
    "share4v_sam_10k.json: from github.com/wuw2019/LoTLIP, dataloaders/share4v",
    "the images as SA-1B's archives unpack (sa_000000/images/sa_1.jpg ...); or give their folder apart",
)
_KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
_OWN_FILES = "the images, where its `image` says, relative to the file's folder"

PUBLIC_SETS: dict[str, PublicSet] = {
    "sharegpt4v_1k": PublicSet(
        read_sharegpt4v, 1_000, True, _SA1B, _SHAREGPT4V_FILES, ("", "sam", "images"), first=1_000
    ),
    "sharegpt4v_10k": PublicSet(
        read_sharegpt4v, 10_000, True, _SA1B, _SHAREGPT4V_FILES, ("", "sam", "images"), first=10_000
    ),
    "dci": PublicSet(
        read_dci,
        7_805,
        True,
        "https://github.com/facebookresearch/DCI",
        (
            "densely_captioned_images/splits.json and annotations/: from dci.tar.gz",
            "densely_captioned_images/photos/: the images of SA-1B's archive sa_000138.tar",
        ),
        ("densely_captioned_images", ""),
    ),
    "iiw": PublicSet(
        read_iiw,
        612,
        True,
        "https://github.com/google/imageinwords (datasets/) and https://google.github.io/docci",
        (
            "DOCCI_Test/data.jsonl, IIW-400/data.jsonl, DCI_Test/data.jsonl: from the repository",
            "docci/: DOCCI's images (docci_images.tar.gz)",
            "docci_aar/: DOCCI's AAR images (docci_images_aar.tar.gz)",
            "where DOCCI has no test_ image of a number, its train_ image, renamed to test_ (as LoTLIP's authors do)",
            "dci/: DCI's photos (SA-1B's sa_000138.tar)",
        ),
    ),
    "urban1k": PublicSet(
        read_urban1k,
        1_000,
        True,
        "https://huggingface.co/datasets/BeichenZhang/Urban1k",
        ("image/<id>.jpg and caption/<id>.txt: from Urban1k.zip",),
    ),
    "docci": PublicSet(
        read_docci,
        5_000,
        True,
        "https://google.github.io/docci (the split test)",
        ("docci_descriptions.jsonlines", "images/: from docci_images.tar.gz"),
    ),
    "coco": PublicSet(
        karpathy("dataset_coco.json"),
        5_000,
        False,
        "https://cocodataset.org (2014 val images)",
        (f"dataset_coco.json: from {_KARPATHY}", "val2014/: from val2014.zip"),
        ("", "images"),
    ),
    "flickr30k": PublicSet(
        karpathy("dataset_flickr30k.json"),
        1_000,
        False,
        "https://shannon.cs.illinois.edu/DenotationGraph",
        (f"dataset_flickr30k.json: from {_KARPATHY}", "flickr30k-images/: from flickr30k-images.tar.gz"),
        ("flickr30k-images", "flickr30k_images", "images", ""),
    ),
    "imagenet": PublicSet(
        read_imagenet,
        50_000,
        False,
        "https://image-net.org (ILSVRC 2012, validation)",
        ("val/<WordNet id>/: the validation images, sorted into a folder a class, such as val/n01440764/",),
        task="classification",
    ),
    "jsonl": PublicSet(
        read_jsonl,
        None,
        False,
        None,
        ("samples.jsonl: objects with `image`, and `text` or a list `texts`, one a line", _OWN_FILES),
    ),
    "csv": PublicSet(
        read_csv,
        None,
        False,
        None,
        ("samples.csv: columns `image` and `text` (or text_1, text_2 ...); an image may have several rows", _OWN_FILES),
    ),
}


def public_set(name: str) -> PublicSet:
    """The set of this name.

    Raises:
        DataError: there is none.
    """
    if name not in PUBLIC_SETS:
        raise DataError(f"No set is called {name!r}; expected one of {', '.join(PUBLIC_SETS)}.")
    return PUBLIC_SETS[name]


@cache
def imagenet_classes() -> dict[str, str]:
    """OpenAI's names of the 1,000 classes of ImageNet-1k by WordNet id, in the order of the class index.

    Two names stand for two classes each (missile, sunglasses): these four tie, whatever the model.
    """
    lines = (_IMAGENET / "classes.tsv").read_text().splitlines()
    return dict(line.split("\t") for line in lines)


@cache
def imagenet_templates() -> tuple[str, ...]:
    """OpenAI's 80 prompts for ImageNet, with `{}` for the class."""
    return tuple((_IMAGENET / "templates.txt").read_text().splitlines())
