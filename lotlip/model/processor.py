"""`LotlipProcessor`: texts and images in, a `LotlipModel`'s inputs out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, BatchFeature

from lotlip.data.images import eval_transform, open_rgb
from lotlip.errors import DataError, ModelError, ShapeError
from lotlip.model.config import LotlipConfig
from lotlip.model.image_tower import ImageSettings
from lotlip.records import read_json, write_json
from lotlip.text.tokenizer import LotlipTokenizer

IMAGE_FILE = "preprocessor_config.json"
MAX_PIXELS = 100_000_000  # larger image files are refused before they are decoded

Picture = Image.Image | str | Path


class LotlipProcessor:
    """The tokenizer and the evaluation transform that belong to a model.

    Example:
        inputs = processor(text=["a red boat"], images=["boat.jpg"])
        output = model(**inputs)
    """

    def __init__(self, tokenizer: LotlipTokenizer, image_settings: ImageSettings) -> None:
        self.tokenizer = tokenizer
        self.image_settings = image_settings

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images: Picture | Sequence[Picture] | None = None,
        *,
        padding: bool | str = True,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Encode texts, images, or both.

        Args:
            text: one text or several.
            images: one or several Pillow images or image files.
            padding: true pads to the longest text, "max_length" to the model's limit.
            return_tensors: "pt" only; there for those used to other processors.

        Returns:
            input_ids and attention_mask, int64 [B, L], where there is text; pixel_values,
            float32 [B, 3, S, S], where there are images.

        Raises:
            ShapeError: neither texts nor images.
            DataError: an image file is missing or unreadable.
        """
        if return_tensors != "pt" or padding not in (True, "max_length"):
            raise ShapeError(
                f"return_tensors={return_tensors!r}, padding={padding!r}: expected 'pt', and True or 'max_length'."
            )
        inputs: dict[str, Tensor] = {}
        if text is not None and len(text) > 0:
            arrays = self.tokenizer(text, pad_to_limit=padding == "max_length")
            inputs.update({name: torch.from_numpy(array) for name, array in arrays.items()})
        if images is not None:
            pictures = [images] if isinstance(images, Image.Image | str | Path) else images
            if len(pictures) > 0:
                inputs["pixel_values"] = torch.stack([self.transform(picture) for picture in pictures])
        if not inputs:
            raise ShapeError("Give the processor at least one text or one image.")
        return BatchFeature(inputs)

    def transform(self, picture: Picture) -> Tensor:
        """Normalised pixels, float32 [3, S, S], of one Pillow image or image file."""
        settings = self.image_settings
        return eval_transform(open_picture(picture), settings.size, settings.mean, settings.std)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer's files and the image settings into `folder`."""
        self.tokenizer.save_pretrained(folder)
        record: dict[str, Any] = {
            "processor_class": type(self).__name__,
            "size": self.image_settings.size,
            "image_mean": list(self.image_settings.mean),
            "image_std": list(self.image_settings.std),
        }
        write_json(Path(folder) / IMAGE_FILE, record)

    @classmethod
    def from_pretrained(cls, source: str | Path, revision: str | None = None, **_: Any) -> "LotlipProcessor":
        """Open what `save_pretrained` wrote, from a folder or a hub id with its revision.

        Raises:
            ModelError: it is missing or not LoTLIP's.
        """
        record = read_json(_find(source, revision))
        if record.get("processor_class") != cls.__name__:
            raise ModelError(f"{source} holds no {cls.__name__}: its {IMAGE_FILE} belongs to another model.")
        settings = ImageSettings(record["size"], tuple(record["image_mean"]), tuple(record["image_std"]))
        return cls(LotlipTokenizer.from_pretrained(source, revision), settings)


def _find(source: str | Path, revision: str | None) -> Path:
    file = Path(source) / IMAGE_FILE
    if file.is_file():
        return file
    if Path(source).is_dir() or revision is None:
        raise ModelError(
            f"{file} is missing: give the folder of a trained model (`dvc repro train@<method>` writes one), "
            "or a hub id together with its revision."
        )
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(str(source), IMAGE_FILE, revision=revision))
    except Exception as error:  # the hub's client raises many unrelated types
        raise ModelError(f"{source} at {revision} cannot be fetched from the hub: {error}") from error


def open_picture(picture: Picture) -> Image.Image:
    """The RGB pixels of a Pillow image, or of an image file, upright and on white.

    Raises:
        DataError: the file is missing or unreadable; the message names it.
    """
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    try:
        return open_rgb(Path(picture).read_bytes(), MAX_PIXELS)
    except FileNotFoundError:
        raise DataError(f"Image {picture} is missing.") from None
    except DataError as error:
        raise DataError(f"Image {picture}: {error}") from None


AutoProcessor.register(LotlipConfig, LotlipProcessor, exist_ok=True)
