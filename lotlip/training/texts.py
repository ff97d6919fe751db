"""The texts of a batch: drawn, tokenized through a cache, padded together, truncation counted."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lotlip.data.loading.samples import Sample, TextRecipe, draw_texts
from lotlip.text.tokenizer import LotlipTokenizer

CACHED_TEXTS = 500_000  # about 200 bytes each


COUNTED = ("texts", "tokens", "truncated_texts", "lost_tokens")


class TextSource:
    """Makes ids of samples' texts: a short one, then K long ones, drawn anew at each visit."""

    def __init__(self, tokenizer: LotlipTokenizer, recipe: TextRecipe, seed: int) -> None:
        self._tokenizer = tokenizer
        self._recipe, self._seed = recipe, seed
        self._cache: dict[str, tuple[list[int], int, int]] = {}

    def batch(self, samples: Sequence[Sample], visits: Sequence[int]) -> tuple[Tensor, Tensor, dict[str, int]]:
        """Ids of the samples' texts at these visits and where there is a token, int64 [B, 1 + K, L], padded.

        With them counts named in `COUNTED`: texts, tokens, and what truncation cost.
        """
        drawn = zip(samples, visits, strict=True)
        texts = [text for sample, visit in drawn for text in draw_texts(sample, self._recipe, self._seed, visit)]
        self._fill_cache(texts)
        encoded = [self._cache[text] for text in texts]
        counts = {
            "texts": len(texts),
            "tokens": sum(num_tokens for _, num_tokens, _ in encoded),
            "truncated_texts": sum(num_lost > 0 for _, _, num_lost in encoded),
            "lost_tokens": sum(num_lost for _, _, num_lost in encoded),
        }
        shape = (len(samples), 1 + self._recipe.num_long, -1)
        ids, mask = (
            torch.from_numpy(array).view(shape) for array in self._tokenizer.pad([ids for ids, _, _ in encoded])
        )
        return ids, mask, counts

    def _fill_cache(self, texts: Sequence[str]) -> None:
        if len(self._cache) > CACHED_TEXTS:
            self._cache.clear()
        new = list(dict.fromkeys(text for text in texts if text not in self._cache))
        encoded = self._tokenizer.encode(new)
        self._cache.update(zip(new, zip(encoded.ids, encoded.num_tokens, encoded.num_lost, strict=True), strict=True))
