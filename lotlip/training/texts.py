"""The texts of a batch: drawn, tokenized through a cache, padded together, truncation counted."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from lotlip.data.loading.samples import Sample, TextRecipe, draw_texts
from lotlip.text.tokenizer import LotlipTokenizer

CACHED_TEXTS = 500_000  # about 200 bytes each


class TextSource:
    """Makes ids of samples' texts: a short one, then K long ones, drawn anew at each visit.

    `counts` adds up texts, tokens and what truncation cost over all batches made.
    """

    def __init__(self, tokenizer: LotlipTokenizer, recipe: TextRecipe, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._tokenizer = tokenizer
        self._recipe, self._seed = recipe, seed
        self._cache: dict[str, tuple[list[int], int, int]] = {}

    def batch(self, samples: Sequence[Sample], visits: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Ids of the samples' texts at these visits and where there is a token, int64 [B, 1 + K, L], padded."""
        drawn = zip(samples, visits, strict=True)
        texts = [text for sample, visit in drawn for text in draw_texts(sample, self._recipe, self._seed, visit)]
        self._fill_cache(texts)
        rows = []
        for text in texts:
            ids, num_tokens, num_lost = self._cache[text]
            rows.append(ids)
            self.counts["tokens"] += num_tokens
            self.counts["lost_tokens"] += num_lost
            self.counts["truncated_texts"] += num_lost > 0
        self.counts["texts"] += len(texts)
        shape = (len(samples), 1 + self._recipe.num_long, -1)
        padded, mask = (torch.from_numpy(array).view(shape) for array in self._tokenizer.pad(rows))
        return padded, mask

    def _fill_cache(self, texts: Sequence[str]) -> None:
        if len(self._cache) > CACHED_TEXTS:
            self._cache.clear()
        new = list(dict.fromkeys(text for text in texts if text not in self._cache))
        encoded = self._tokenizer.encode(new)
        self._cache.update(zip(new, zip(encoded.ids, encoded.num_tokens, encoded.num_lost, strict=True), strict=True))
