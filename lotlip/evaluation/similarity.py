"""How alike images and captions are under a named image-text model that these captions do not train."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lotlip.errors import ModelError
from lotlip.evaluation.encoders import Encoder
from lotlip.evaluation.opening import open_encoder
from lotlip.params import Similarity
from lotlip.text.subcaptions import split_sub_captions


def open_similarity(settings: Similarity) -> Encoder:
    """The model that `quality.similarity` names.

    Raises:
        ModelError: as `open_encoder`.
    """
    try:
        return open_encoder(settings.checkpoint, settings.batch_size, settings.device, settings.revision)
    except ModelError as error:
        raise ModelError(f"quality.similarity: {error}") from error


def caption_similarity(
    encoder: Encoder, images: Tensor, captions: Sequence[Sequence[str]]
) -> tuple[list[list[float]], list[list[float | None]]]:
    """Mean cosine of an image with the sub-captions of its captions: short enough for any model, and none outweighs.

    Args:
        images: unit-length embeddings, float [N, D].
        captions: the captions of each image; one without any sub-caption gets 0.

    Returns:
        For each caption its similarity with its own image, and with the next image (of the last one: the first), which
        says what a caption gets that fits the kind of images but not this one; None where there is one image.
    """
    pieces = sorted({piece for texts in captions for text in texts for piece in split_sub_captions(text)})
    row_of = {piece: row for row, piece in enumerate(pieces)}
    words = encoder.texts(pieces).cpu() if pieces else torch.zeros(0, images.shape[1])

    def score(image: Tensor, text: str) -> float:
        rows = [row_of[piece] for piece in split_sub_captions(text)]
        return float((words[rows] @ image).mean()) if rows else 0.0

    own = [[score(images[i], text) for text in texts] for i, texts in enumerate(captions)]
    if len(captions) < 2:
        return own, [[None] * len(texts) for texts in captions]
    after = images.roll(-1, 0)
    return own, [[score(after[i], text) for text in texts] for i, texts in enumerate(captions)]
