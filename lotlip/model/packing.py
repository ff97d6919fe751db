"""Texts of different lengths as one run of rows, and attention among the rows of each text.

Dense layers see only tokens, no padding: a raw caption fills a seventh of 128 padded ids. Texts are sorted by
length, so those of equal length lie side by side and attend in one call without copies, padding or masks.

Shapes: B texts, L padded length, T rows (tokens of all texts), Q query rows, A heads, E width of a head, m corner
tokens. Rows of a text keep their order; texts of equal length keep theirs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import varlen

from lotlip.errors import ShapeError

Function = TypeVar("Function", bound=Callable[..., Any])


def eager(function: Function) -> Function:
    """Keep a function out of torch.compile's graphs: it reads lengths, on which shapes depend."""
    kept: Function = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return kept


@dataclass(frozen=True)
class Packing:
    """Where the tokens of padded ids [B, L] stand as rows.

    `rows` [T]: place of each row in the flattened ids; `order` [B]: the text at each place, by rising length;
    `groups`: (number of texts, their length), in the order of the rows.
    """

    rows: Tensor
    order: Tensor
    groups: tuple[tuple[int, int], ...]

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Length of each text, in the order of the rows."""
        return tuple(length for count, length in self.groups for _ in range(count))

    @cached_property
    def starts(self) -> Tensor:
        """Row of each text's first token, then T: int64 [B + 1], in the order of the rows."""
        return torch.tensor([0, *accumulate(self.lengths)], device=self.rows.device)

    def first(self, count: int) -> Tensor:
        """Rows of the first `count` tokens of every text, int64 [B * count]."""
        # No view of another tensor, for which torch.compile would compile anew.
        places = torch.arange(count, device=self.rows.device).repeat(len(self.order))
        return self.starts[:-1].repeat_interleave(count) + places

    def last(self) -> Tensor:
        """Row of the last token of every text, int64 [B]."""
        return self.starts[1:] - 1

    def unsort(self, values: Tensor) -> Tensor:
        """Values of texts [B, ...] back in the order in which the texts were given."""
        return torch.empty_like(values).index_copy_(0, self.order, values)


@eager
def pack(keep_BL: Tensor) -> Packing:
    """Pack the tokens of padded texts.

    Args:
        keep_BL: true where there is a token, bool [B, L].

    Raises:
        ShapeError: a text has no token at all.
    """
    lengths = keep_BL.sum(dim=1)
    order = torch.argsort(lengths, stable=True)
    found, counts = torch.unique_consecutive(lengths[order], return_counts=True)
    groups = tuple(zip(counts.tolist(), found.tolist(), strict=True))
    if groups[0][1] == 0:
        raise ShapeError(f"Text {int(order[0])} of {len(keep_BL)} has no token: its attention_mask is all zero.")
    texts, positions = keep_BL[order].nonzero(as_tuple=True)
    return Packing(order[texts] * keep_BL.shape[1] + positions, order, groups)


@dataclass(frozen=True)
class Attention:
    """Attention among the rows of each text of a packing.

    `num_corners` > 0: rows 1 to m of every text are corners under the corner mask. `causal`: no row sees a later one.
    `dropout` is that of attention weights; with any, variable-length kernels are out.
    """

    texts: Packing
    num_heads: int
    num_corners: int = 0
    causal: bool = False
    dropout: float = 0.0

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, read: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: of all rows, [T, A * E]; or of the rows `read` alone, [Q, A * E].
            key, value: of all rows, [T, A * E].
            read: None, or `texts.first(n)` or, for causal attention, `texts.last()`.

        Returns:
            [T, A * E] or [Q, A * E], in the order of the queries.
        """
        query, key, value = (x.view(len(x), self.num_heads, -1) for x in (query, key, value))
        attend = self._varlen if has_varlen_kernel(query) and not self.dropout else self._by_length
        return attend(query, key, value, read).flatten(1)

    @eager
    def _by_length(self, query: Tensor, key: Tensor, value: Tensor, read: Tensor | None) -> Tensor:
        """One call of scaled_dot_product_attention for all texts of one length."""
        num_read = None if read is None else len(read) // len(self.texts.order)
        visible = corner_visibility(self.texts.lengths[-1], self.num_corners, query.device)
        causal = self.causal and read is None  # a text's last row sees all its rows
        counts = [count for count, _ in self.texts.groups]
        lengths = [length for _, length in self.texts.groups]
        nums = lengths if num_read is None else [num_read] * len(lengths)
        parts = []
        for count, num, length, q, k, v in zip(
            counts,
            nums,
            lengths,
            _slabs(query, counts, nums),
            *(_slabs(x, counts, lengths) for x in (key, value)),
            strict=True,
        ):
            attended = functional.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=visible[:num, :length] if self.num_corners else None,
                dropout_p=self.dropout,
                is_causal=causal,
            )
            parts.append(attended.transpose(1, 2).reshape(count * num, *query.shape[1:]))
        return torch.cat(parts)

    def _varlen(self, query: Tensor, key: Tensor, value: Tensor, read: Tensor | None) -> Tensor:
        """One call of the variable-length kernel for all texts."""
        plan = self._all_rows if read is None else self._reading(read)
        key, value = (x if plan.keys is None else x[plan.keys] for x in (key, value))
        attended = varlen.varlen_attn(
            query if plan.queries is None else query[plan.queries],
            key,
            value,
            plan.starts_q,
            plan.starts_k,
            plan.max_q,
            plan.max_k,
            window_size=(-1, 0) if self.causal and read is None else (-1, -1),
        )
        assert isinstance(attended, Tensor)  # nothing but the output was asked for
        if plan.queries is None:
            return attended
        return torch.empty_like(attended).index_copy(0, plan.queries, attended)

    @cached_property
    def _all_rows(self) -> "_Plan":
        return _plan(self.texts, self.num_corners, None)

    def _reading(self, read: Tensor) -> "_Plan":
        return _plan(self.texts, self.num_corners, len(read) // len(self.texts.order))


def has_varlen_kernel(query: Tensor) -> bool:
    """Whether torch's variable-length kernel takes this tensor: it wants a GPU and 16 bits."""
    return query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)


def corner_visibility(length: int, num_corners: int, device: torch.device) -> Tensor:
    """The corner mask of one text, for every text of this length: it depends on places alone.

    Returns:
        Bool [length, length] (query, key), true where the query attends to the key: `[CLS]` (0) and each corner (1
        to m) to themselves and the text, text to `[CLS]` and text.
    """
    places = torch.arange(length, device=device)
    is_text, is_class = places > num_corners, places == 0
    return is_text[None, :] | (places[:, None] == places[None, :]) | (is_text[:, None] & is_class[None, :])


@dataclass(frozen=True)
class _Plan:
    """Sequences for the variable-length kernel, which knows no mask.

    With m corners a text becomes 1 + m sequences with a copy of its text's keys each: `[CLS]` and text, which attend
    to one another, and each corner alone, which attends to itself and the text. `queries` and `keys` name the rows
    they are made of (None: as they are).
    """

    queries: Tensor | None
    keys: Tensor | None
    starts_q: Tensor
    starts_k: Tensor
    max_q: int
    max_k: int


@eager
def _plan(texts: Packing, num_corners: int, num_read: int | None) -> _Plan:
    device, m = texts.rows.device, num_corners
    lengths = torch.tensor(texts.lengths)
    starts = lengths.cumsum(0) - lengths
    lengths_k = (lengths - m).repeat_interleave(1 + m)
    lengths_q, keys, queries = lengths, None, None
    if m:
        text, head = torch.arange(len(lengths)).repeat_interleave(1 + m), torch.arange(1 + m).repeat(len(lengths))
        run, place = _places(lengths_k)
        keys = (starts[text[run]] + torch.where(place == 0, head[run], m + place)).to(device)
        lengths_q = torch.where(head == 0, lengths_k, 1)
    if num_read is not None:
        lengths_q = torch.full_like(lengths_k, 1 if m else num_read)
    elif m:
        text, place = _places(lengths)
        beyond = place - (lengths - m)[text]  # 0 and more: the corners, which come after the text's own sequence
        queries = starts[text] + torch.where(beyond >= 0, 1 + beyond, torch.where(place == 0, 0, m + place))
        queries = queries.to(device)
    return _Plan(
        queries,
        keys,
        _cumulated(lengths_q, device),
        _cumulated(lengths_k, device),
        int(lengths_q.max()),
        int(lengths_k.max()),
    )


def _places(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """For every element of runs of `lengths`: its run, and its place in it from 0."""
    run = torch.arange(len(lengths)).repeat_interleave(lengths)
    return run, torch.arange(len(run)) - (lengths.cumsum(0) - lengths)[run]


def _cumulated(lengths: Tensor, device: torch.device) -> Tensor:
    return functional.pad(lengths.cumsum(0), (1, 0)).to(device, torch.int32)


def _slabs(rows: Tensor, counts: list[int], lengths: list[int]) -> list[Tensor]:
    """Rows of the texts of each group as [count, A, length, E], without a copy.

    One split: slices, each on its own, would cost a gradient of the size of all rows each.
    """
    parts = torch.split(rows, [count * length for count, length in zip(counts, lengths, strict=True)])
    return [
        part.view(count, length, *rows.shape[1:]).transpose(1, 2)
        for part, count, length in zip(parts, counts, lengths, strict=True)
    ]
