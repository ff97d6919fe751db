"""Retrieval metrics against hand-made tables and a slow argsort reference."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from lotlip.errors import ModelError, ShapeError
from lotlip.evaluation.retrieval import retrieval_metrics, retrieval_ranks
from lotlip.evaluation.scores import CosineScores, TokenScores, make_scores


def as_embeddings(scores_IT: list[list[float]]) -> tuple[Tensor, Tensor]:
    """Embeddings whose dot products are exactly the given scores: texts are the unit vectors."""
    images = torch.tensor(scores_IT)
    return images, torch.eye(images.shape[1])


def slow_ranks(scores_IT: Tensor, owner_T: Tensor) -> tuple[list[int], list[int], int]:
    """Sort every row and column whole; wrong items go before correct ones of the same score."""

    def rank(row: Tensor, own: Tensor) -> tuple[int, bool]:
        scores, correct = row.tolist(), own.tolist()
        order = sorted(range(len(scores)), key=lambda j: (-scores[j], correct[j]))
        place = next(place for place, j in enumerate(order) if correct[j])
        return place + 1, place > 0 and scores[order[place - 1]] == scores[order[place]]

    own_IT = owner_T[None, :] == torch.arange(len(scores_IT))[:, None]
    i2t = [rank(scores_IT[i], own_IT[i]) for i in range(len(scores_IT))]
    t2i = [rank(scores_IT[:, t], own_IT[:, t]) for t in range(scores_IT.shape[1])]
    return [r for r, _ in i2t], [r for r, _ in t2i], sum(tied for _, tied in i2t + t2i)


def test_docstring_example() -> None:
    images, texts = as_embeddings([[0.9, 0.2, 0.5], [0.6, 0.1, 0.4]])
    metrics = retrieval_metrics(images, texts, torch.tensor([0, 0, 1]))
    assert metrics == {
        "i2t_r1": 50.0,
        "i2t_r5": 100.0,
        "i2t_r10": 100.0,
        "t2i_r1": pytest.approx(200 / 3),
        "t2i_r5": 100.0,
        "t2i_r10": 100.0,
        "i2t_median_rank": 1.5,
        "t2i_median_rank": 1.0,
        "tied_queries": 0,
        "images": 2,
        "texts": 3,
    }


def test_hand_computed_recalls_at_every_k() -> None:
    # Image i scores text j at -|i - 2j|: it prefers text i / 2, and its own text scores -i.
    scores = [[-abs(i - 2.0 * j) for j in range(12)] for i in range(12)]
    images, texts = as_embeddings(scores)
    metrics = retrieval_metrics(images, texts, torch.arange(12))
    # Texts that score at least -i: 2j in [0, 2i], j from 0 to i, so the rank is i + 1.
    assert [metrics[f"i2t_r{k}"] for k in (1, 5, 10)] == pytest.approx([100 / 12, 500 / 12, 1000 / 12])
    assert metrics["i2t_median_rank"] == 6.5
    # Own score of text j is -j. Images i in [j, 3j] are at most j away from 2j; up to 11 only.
    t2i_ranks = [min(3 * j, 11) - j + 1 for j in range(12)]
    assert t2i_ranks == [1, 3, 5, 7, 8, 7, 6, 5, 4, 3, 2, 1]
    assert [metrics[f"t2i_r{k}"] for k in (1, 5, 10)] == pytest.approx([200 / 12, 800 / 12, 100])
    # I2T: image i ties with text 0 unless i = 0. T2I: text j ties with image 3j, where there is one.
    assert metrics["tied_queries"] == 11 + 3


@pytest.mark.parametrize("block", [64, 1024])
@pytest.mark.parametrize("texts_per_image", [1, 3])
def test_equals_argsort_reference(texts_per_image: int, block: int) -> None:
    generator = torch.Generator().manual_seed(texts_per_image)
    # Small integers: scores are exact in float32 and tie often.
    images = torch.randint(-2, 3, (90, 8), generator=generator).float()
    texts = torch.randint(-2, 3, (90 * texts_per_image, 8), generator=generator).float()
    owner = torch.arange(90).repeat(texts_per_image)[torch.randperm(len(texts), generator=generator)]
    i2t, t2i, tied = retrieval_ranks(CosineScores(images, texts), owner, block)
    expected = slow_ranks(images @ texts.T, owner)
    assert (i2t.tolist(), t2i.tolist(), tied) == expected
    assert tied > 60


def test_uneven_numbers_of_texts() -> None:
    generator = torch.Generator().manual_seed(5)
    images, texts = torch.randn(70, 16, generator=generator), torch.randn(200, 16, generator=generator)
    owner = torch.cat([torch.arange(70), torch.randint(0, 70, (130,), generator=generator)])
    i2t, t2i, tied = retrieval_ranks(CosineScores(images, texts), owner, block=64)
    assert (i2t.tolist(), t2i.tolist(), tied) == slow_ranks(images @ texts.T, owner)


def test_correct_texts_of_one_image_do_not_compete() -> None:
    texts = torch.nn.functional.normalize(torch.ones(10, 4), dim=1)
    metrics = retrieval_metrics(texts[:1], texts, torch.zeros(10, dtype=torch.int64))
    assert metrics["i2t_r1"] == metrics["t2i_r1"] == 100
    assert metrics["tied_queries"] == 0


def test_collapsed_model_gets_nothing() -> None:
    vector = torch.nn.functional.normalize(torch.randn(1, 100), dim=1)
    metrics = retrieval_metrics(vector.repeat(33, 1), vector.repeat(99, 1), torch.arange(99) % 33)
    assert metrics["i2t_r10"] == metrics["t2i_r10"] == 0
    assert metrics["tied_queries"] == 33 + 99
    assert metrics["i2t_median_rank"] == 97  # all 96 texts of other images come first
    assert metrics["t2i_median_rank"] == 33


@pytest.mark.parametrize("block", [64, 1024])
def test_equal_pairs_tie_exactly_in_every_block(block: int) -> None:
    # Real-valued embeddings, every pair twice, 300 rows apart: each query meets exactly one equal rival.
    generator = torch.Generator().manual_seed(2)
    half = torch.nn.functional.normalize(torch.randn(300, 96, generator=generator), dim=1)
    both = torch.cat([half, half])
    i2t, t2i, tied = retrieval_ranks(CosineScores(both, both), torch.arange(600), block)
    assert tied == 1200
    assert set(i2t.tolist()) == set(t2i.tolist()) == {2}


def test_scores_are_float32_even_under_bfloat16_autocast() -> None:
    # Rivals differ from the correct texts by 1e-4: float32 tells them apart, bfloat16 does not.
    texts = torch.tensor([[1.0, 0.0], [0.9999, 0.0]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        metrics = retrieval_metrics(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), texts, torch.tensor([0, 1]))
    assert metrics["i2t_r1"] == 100
    assert metrics["tied_queries"] == 0


@pytest.fixture
def precision() -> Iterator[None]:
    """Torch's switches for products of float32 as they were."""
    backends: Any = torch.backends
    newer = (backends.cuda.matmul, backends.mkldnn.matmul)
    before = [backend.fp32_precision for backend in newer]
    yield
    torch.set_float32_matmul_precision("highest")
    for backend, value in zip(newer, before, strict=True):
        backend.fp32_precision = value


def switches() -> list[str]:
    backends: Any = torch.backends
    return [backends.cuda.matmul.fp32_precision, backends.mkldnn.matmul.fp32_precision]


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("switch", ["older", "cuda", "newer"])
def test_scores_are_float32_whatever_torch_allows(switch: str) -> None:
    backends: Any = torch.backends
    images, texts = torch.randn(300, 64), torch.randn(300, 64)
    tokens = make_scores(images.view(100, 3, 64), texts.view(100, 3, 64), torch.ones(100, 3).bool())
    exact = [
        retrieval_ranks(scores, torch.arange(n)) for scores, n in ((CosineScores(images, texts), 300), (tokens, 100))
    ]
    blocks = CosineScores(images, texts).block(slice(0, 300), slice(0, 300), 300)[0]
    if switch == "older":
        torch.set_float32_matmul_precision("medium")  # bfloat16, on CPUs that have it
    elif switch == "cuda":
        backends.cuda.matmul.allow_tf32 = True
    else:
        backends.cuda.matmul.fp32_precision, backends.mkldnn.matmul.fp32_precision = "tf32", "bf16"
    before, seen = switches(), set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func is torch.ops.aten.mm.default:
                seen.update(switches())
            return func(*args, **(kwargs or {}))

    with Watch():
        found = [
            retrieval_ranks(scores, torch.arange(n))
            for scores, n in ((CosineScores(images, texts), 300), (tokens, 100))
        ]
        again = CosineScores(images, texts).block(slice(0, 300), slice(0, 300), 300)[0]
    for (i2t, t2i, tied), (i2t_again, t2i_again, tied_again) in zip(exact, found, strict=True):
        assert torch.equal(i2t, i2t_again)
        assert torch.equal(t2i, t2i_again)
        assert tied == tied_again
    assert torch.equal(blocks, again)
    assert seen == {"ieee"}
    assert switches() == before
    if switch == "older":
        assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_embeddings_of_other_types_are_scored_in_float32(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(6)
    images, texts = (normalize(torch.randn(200, 24, generator=generator), dim=1).to(dtype) for _ in range(2))
    i2t, t2i, tied = retrieval_ranks(make_scores(images, texts, None), torch.arange(200), 64)
    # What is stored in 16 bits is exact in float64, and so are its products: float32 alone rounds.
    assert (i2t.tolist(), t2i.tolist(), tied) == slow_ranks(images.double() @ texts.double().T, torch.arange(200))
    assert CosineScores(images, texts).block(slice(3), slice(3), 64)[0].dtype == torch.float32


def test_embeddings_may_lie_in_files(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(7)
    stored = normalize(torch.randn(150, 16, generator=generator), dim=1).half()
    (tmp_path / "images.bin").write_bytes(stored.numpy().tobytes())
    mapped = torch.from_file(str(tmp_path / "images.bin"), shared=False, size=150 * 16, dtype=torch.float16)
    expected = retrieval_metrics(stored, stored.flip(0), torch.arange(150).flip(0))
    assert retrieval_metrics(mapped.view(150, 16), stored.flip(0), torch.arange(150).flip(0)) == expected
    assert expected["i2t_r1"] == 100


@pytest.mark.parametrize("seed", range(25))
def test_random_sizes_equal_float64_reference(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    num_images, width, block = draw(1, 150), draw(1, 40), draw(1, 200)
    num_texts = num_images + draw(0, 150)
    # Multiples of 1/8 up to 1: exact in float32, with few ties or, at a small width, many.
    images, texts = (torch.randint(-8, 9, (n, width), generator=generator) / 8 for n in (num_images, num_texts))
    extra = torch.randint(0, num_images, (num_texts - num_images,), generator=generator)
    owner = torch.cat([torch.arange(num_images), extra])[torch.randperm(num_texts, generator=generator)]
    i2t, t2i, tied = retrieval_ranks(CosineScores(images, texts), owner, block)
    assert (i2t.tolist(), t2i.tolist(), tied) == slow_ranks(images.double() @ texts.double().T, owner)


def test_memory_holds_blocks_not_the_matrix() -> None:
    # The whole matrix would be a tensor of a million scores: watch every tensor that is made.
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.numel())
            return out

    with Watch():
        retrieval_ranks(CosineScores(torch.randn(1000, 2), torch.randn(1000, 2)), torch.arange(1000), block=128)
    assert largest <= 128 * 128


@pytest.mark.parametrize("block", [64, 128])
def test_late_interaction_equals_a_loop_over_pairs(block: int) -> None:
    generator = torch.Generator().manual_seed(4)
    # Small integers: scores are exact in float32 and tie often.
    images = torch.randint(-1, 2, (70, 2, 4), generator=generator).float()
    texts = torch.randint(-1, 2, (140, 4, 4), generator=generator).float()
    lengths = 2 ** torch.randint(0, 3, (140,), generator=generator)
    keep = torch.arange(4) < lengths[:, None]
    owner = torch.arange(70).repeat(2)
    i2t, t2i = torch.empty(70, 140), torch.empty(70, 140)
    for i, patches in enumerate(images):
        for t, tokens in enumerate(texts):
            similarities = patches @ tokens[keep[t]].T
            i2t[i, t], t2i[i, t] = similarities.amax(1).mean(), similarities.amax(0).mean()
    expected_i, expected_t = slow_ranks(i2t, owner)[0], slow_ranks(t2i, owner)[1]
    assert expected_i != slow_ranks(t2i, owner)[0], "the two directions differ"
    found_i, found_t, tied = retrieval_ranks(TokenScores(images, texts, keep), owner, block)
    assert (found_i.tolist(), found_t.tolist()) == (expected_i, expected_t)
    wrong = owner != torch.arange(70)[:, None]
    best = i2t.masked_fill(wrong, -torch.inf).amax(1, keepdim=True)
    own = t2i[owner, torch.arange(140)]
    assert tied == int(((i2t == best) & wrong).any(1).sum() + ((t2i == own) & wrong).any(0).sum()) > 20
    metrics = retrieval_metrics(images, texts, owner, keep)
    assert metrics["tied_queries"] == tied
    assert metrics["i2t_r10"] == pytest.approx(100 * sum(rank <= 10 for rank in expected_i) / 70)


@pytest.mark.parametrize("shape", [(90, 10, 14, 20), (20, 49, 30, 64), (130, 9, 13, 48)])
def test_equal_pairs_tie_exactly_in_late_interaction(shape: tuple[int, int, int, int]) -> None:
    num, patches, length, width = shape
    generator = torch.Generator().manual_seed(8)
    images = normalize(torch.randn(num, patches, width, generator=generator), dim=2).repeat(2, 1, 1)
    texts = normalize(torch.randn(num, length, width, generator=generator), dim=2).repeat(2, 1, 1)
    keep = torch.arange(length) < torch.randint(1, length + 1, (num, 1), generator=generator)
    owner = torch.randperm(2 * num, generator=generator)
    scores = make_scores(images, texts[owner], keep.repeat(2, 1)[owner])
    assert retrieval_ranks(scores, owner)[2] == 4 * num


def test_late_interaction_reads_no_padding() -> None:
    images, texts = torch.randn(5, 3, 8), torch.randn(7, 9, 8)
    keep = torch.arange(9) < torch.tensor([4, 1, 2, 3, 4, 2, 1])[:, None]
    owner = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    loud = texts.masked_fill(~keep[..., None], 1e6)
    assert make_scores(images, loud, keep).text_TLD.shape[1] == 4, "as long as the longest"  # type: ignore[attr-defined]
    assert retrieval_metrics(images, loud, owner, keep) == retrieval_metrics(images, texts, owner, keep)


def test_a_text_without_tokens_is_refused() -> None:
    keep = torch.tensor([[True, False], [False, False]])
    with pytest.raises(ShapeError, match="1 of 2 texts have no token"):
        retrieval_metrics(torch.ones(2, 3, 4), torch.ones(2, 2, 4), torch.arange(2), keep)


def test_embeddings_on_two_devices_are_refused() -> None:
    with pytest.raises(ShapeError, match="images are on cpu, what they meet on meta"):
        retrieval_metrics(torch.ones(2, 4), torch.ones(2, 4, device="meta"), torch.arange(2))


def test_not_finite_embeddings_are_refused() -> None:
    images = torch.eye(3)
    images[1, 1] = float("nan")
    with pytest.raises(ModelError, match="1 of 3 image embeddings are NaN"):
        retrieval_metrics(images, torch.eye(3), torch.arange(3))


@pytest.mark.parametrize(
    ("images", "texts", "owner", "message"),
    [
        (torch.eye(2), torch.ones(2, 3), torch.arange(2), "do not fit"),
        (torch.eye(2), torch.eye(2), torch.arange(3), "do not fit"),
        (torch.eye(0), torch.eye(0), torch.arange(0), "none of them empty"),
        (torch.eye(2), torch.eye(2), torch.tensor([0, 2]), "from 0 to 2; expected 0 to 1"),
        (torch.eye(2), torch.eye(2), torch.tensor([1, 1]), "1 of 2 images have no text"),
        (torch.eye(2), torch.eye(2), torch.tensor([0.0, 1.0]), "integer"),
    ],
)
def test_wrong_inputs(images: Tensor, texts: Tensor, owner: Tensor, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        retrieval_metrics(images, texts, owner)
