"""Statistics of a dataset's texts, as the poster's table counts them.

Source: METHOD "Long texts"; the definitions reproduce the published figures of IIW exactly.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from lotlip.errors import DataError
from lotlip.text.subcaptions import split_sub_captions

CountTokens = Callable[[Sequence[str]], Sequence[int]]
_BATCH = 1024


def dataset_statistics(
    texts: Iterable[Sequence[str]], count_tokens: CountTokens | None = None
) -> dict[str, int | float | None]:
    """Count images, texts, sub-captions and tokens.

    Args:
        texts: the texts of each image, one sequence an image (an empty one counts as an image).
        count_tokens: tokens of each of some texts, without special tokens; None leaves tokens out.

    Returns:
        `images`, `texts`, `sub_captions_per_text` and `tokens_per_text` (means over texts, rounded to four
        digits; None without a tokenizer or without texts).
    """
    num_images = num_texts = num_pieces = num_tokens = 0
    images = iter(texts)
    while batch := list(islice(images, _BATCH)):
        flat = [text for of_image in batch for text in of_image]
        num_images += len(batch)
        num_texts += len(flat)
        num_pieces += sum(len(split_sub_captions(text)) for text in flat)
        num_tokens += sum(count_tokens(flat)) if count_tokens is not None and flat else 0
    return {
        "images": num_images,
        "texts": num_texts,
        "sub_captions_per_text": round(num_pieces / num_texts, 4) if num_texts else None,
        "tokens_per_text": round(num_tokens / num_texts, 4) if num_texts and count_tokens else None,
    }


def token_counter(tokenizer: str, revision: str | None = None) -> CountTokens:
    """Counts WordPiece (or other) tokens without special tokens; `tokenizer` is a hub id or a folder.

    Raises:
        DataError: there is no such tokenizer, or it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(tokenizer, revision=revision or "main")
    except (OSError, ValueError) as error:
        raise DataError(f"Tokenizer {tokenizer} cannot be loaded: expected a folder or a hub id ({error}).") from error

    def count(texts: Sequence[str]) -> list[int]:
        ids = loaded(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [len(of_text) for of_text in ids]

    return count
