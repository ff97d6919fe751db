"""Zero-shot classification against hand-made scores."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lotlip.errors import DataError, ModelError, ShapeError
from lotlip.evaluation import zero_shot
from lotlip.evaluation.zero_shot import class_embeddings, zero_shot_metrics, zero_shot_token_metrics


def test_hand_computed_accuracies() -> None:
    # Class embeddings are unit vectors, so an image's coordinates are its scores.
    images = torch.tensor(
        [
            [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6],  # label 0: rank 1
            [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6],  # label 6: rank 2
            [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6],  # label 1: rank 7
            [0.7, 0.9, 0.7, 0.1, 0.1, 0.1, 0.1],  # label 0: one higher, one equal: rank 3, tied
        ]
    )
    metrics = zero_shot_metrics(images, torch.eye(7), torch.tensor([0, 6, 1, 0]))
    assert metrics == {"top1": 25.0, "top5": 75.0, "tied_queries": 1, "images": 4, "classes": 7}


def test_equal_classes_tie_against_the_model() -> None:
    classes = torch.nn.functional.normalize(torch.randn(1, 50), dim=1).repeat(37, 1)
    metrics = zero_shot_metrics(torch.randn(1100, 50), classes, torch.arange(1100) % 37)
    assert metrics["top1"] == metrics["top5"] == 0
    assert metrics["tied_queries"] == 1100


def test_class_embedding_is_normalised_mean_of_normalised_prompts() -> None:
    prompts = {
        "a cat": [2.0, 0.0],
        "the cat": [0.0, 1.0],
        "a dog": [0.0, -3.0],
        "the dog": [0.0, -1.0],
    }

    def encode(texts: list[str]) -> Tensor:
        return torch.tensor([prompts[text] for text in texts])

    found = class_embeddings(encode, ["cat", "dog"], ["a {}", "the {}"])
    half = 0.5**0.5  # (1, 0) and (0, 1) weigh the same although one prompt's vector is twice as long
    assert torch.allclose(found, torch.tensor([[half, half], [0.0, -1.0]]))


def test_an_ensemble_of_imagenets_size_equals_a_slow_reference() -> None:
    classes, templates = [f"class{i}" for i in range(1000)], [f"template{j} of {{}}." for j in range(80)]
    most, seen = 0, []

    def embed(numbers: list[list[int]]) -> Tensor:
        template, name = torch.tensor(numbers).float()[..., None].unbind(1)
        return (1 + template) * ((1 + name) * torch.arange(1, 9) + 0.1 * template).sin()  # of unequal lengths

    def encode(texts: list[str]) -> Tensor:
        nonlocal most
        most = max(most, len(texts))
        seen.extend(texts)
        return embed([[int(number) for number in re.findall(r"\d+", text)] for text in texts])

    found = class_embeddings(encode, classes, templates)
    assert len(seen) == len(set(seen)) == 80_000
    assert most <= 8192, "memory does not grow with the number of templates"
    for index in (0, 1, 101, 102, 499, 998, 999):  # 102 classes of 80 prompts are embedded at once
        vectors = [embed([[number, index]])[0].double() for number in range(80)]
        mean = torch.stack([vector / vector.norm() for vector in vectors]).mean(0)
        assert torch.allclose(found[index].double(), mean / mean.norm(), atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_accuracies_equal_a_sort_in_float64(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Small integers: scores are exact, and tie often; more images than a block holds.
    images = torch.randint(-2, 3, (1100, 6), generator=generator).double()
    classes = torch.randint(-2, 3, (90, 6), generator=generator).double()
    labels = torch.randint(0, 90, (1100,), generator=generator)
    ranks, num_tied = [], 0
    for scores, label in zip((images @ classes.T).tolist(), labels.tolist(), strict=True):
        # A wrong class of the same score comes first.
        order = sorted(range(90), key=lambda c: (-scores[c], c == label))
        ranks.append(1 + order.index(label))
        num_tied += scores.count(scores[label]) > 1
    metrics = zero_shot_metrics(images.half(), classes.half(), labels)
    assert metrics["top1"] == pytest.approx(100 * sum(rank <= 1 for rank in ranks) / 1100)
    assert metrics["top5"] == pytest.approx(100 * sum(rank <= 5 for rank in ranks) / 1100)
    assert metrics["tied_queries"] == num_tied > 300


@pytest.mark.parametrize(("classes", "templates"), [([], ["a {}"]), (["cat"], []), (["cat"], ["a cat"])])
def test_wrong_prompts(classes: list[str], templates: list[str]) -> None:
    with pytest.raises(DataError, match="at least one of each"):
        class_embeddings(lambda texts: torch.ones(len(texts), 2), classes, templates)


def test_late_interaction_scores_classes_by_the_mean_over_their_prompts() -> None:
    torch.manual_seed(0)
    images, prompts = torch.randn(70, 3, 5), torch.randn(6, 4, 5)  # 3 classes x 2 templates
    keep = torch.arange(4) < torch.tensor([4, 1, 2, 3, 4, 2])[:, None]
    labels = torch.arange(70) % 3
    hits = 0
    for patches, label in zip(images, labels, strict=True):
        i2t = [(patches @ tokens[kept].T).amax(1).mean() for tokens, kept in zip(prompts, keep, strict=True)]
        classes = torch.stack(i2t).view(3, 2).mean(1)
        hits += int(classes.argmax() == label)
    encode = encoder_of(prompts, keep)
    metrics = zero_shot_token_metrics(images, encode, "abc", ("{}", "a {}"), labels)
    assert metrics["top1"] == pytest.approx(100 * hits / 70)
    assert (metrics["top5"], metrics["images"], metrics["classes"], metrics["tied_queries"]) == (100.0, 70, 3, 0)
    with pytest.raises(ShapeError, match="from 0 to 2; expected 0 to 1"):
        zero_shot_token_metrics(images, encode, "ab", ("{}", "a {}"), labels)
    with pytest.raises(DataError, match="at least one of each"):
        zero_shot_token_metrics(images, encode, "abc", (), labels)


def test_prompts_of_late_interaction_are_embedded_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    images, prompts = torch.randn(40, 3, 5), torch.randn(14, 4, 5)  # 7 classes x 2 templates
    keep = torch.arange(4) < torch.randint(1, 5, (14, 1))
    labels = torch.arange(40) % 7
    arguments = ("abcdefg", ("{}", "a {}"), labels)
    whole = zero_shot_token_metrics(images, encoder_of(prompts, keep), *arguments)
    monkeypatch.setattr(zero_shot, "PROMPTS", 5)
    asked: list[list[str]] = []
    assert zero_shot_token_metrics(images, encoder_of(prompts, keep, asked), *arguments) == whole
    assert asked == [["a", "a a", "b", "a b"], ["c", "a c", "d", "a d"], ["e", "a e", "f", "a f"], ["g", "a g"]]


def test_equal_classes_tie_in_late_interaction() -> None:
    torch.manual_seed(1)
    images, prompts = torch.randn(33, 7, 5), torch.randn(2, 4, 5).repeat(9, 1, 1)  # 9 classes x 2 templates
    encode = encoder_of(prompts, torch.ones(18, 4).bool())
    metrics = zero_shot_token_metrics(images, encode, "abcdefghi", ("{}", "a {}"), torch.arange(33) % 9)
    assert (metrics["top1"], metrics["top5"], metrics["tied_queries"]) == (0, 0, 33)


def encoder_of(
    tokens: torch.Tensor, keep: torch.Tensor, asked: list[list[str]] | None = None
) -> Callable[[list[str]], tuple[torch.Tensor, torch.Tensor]]:
    """Gives the rows of `tokens` and `keep` one after another, and notes what it was asked for."""
    at = 0

    def encode(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal at
        rows = slice(at % len(tokens), at % len(tokens) + len(texts))
        at += len(texts)
        if asked is not None:
            asked.append(texts)
        return tokens[rows], keep[rows]

    return encode


def test_wrong_inputs() -> None:
    with pytest.raises(ShapeError, match="do not fit"):
        zero_shot_metrics(torch.eye(2), torch.ones(2, 3), torch.arange(2))
    with pytest.raises(ShapeError, match="from 0 to 2; expected 0 to 1"):
        zero_shot_metrics(torch.eye(2), torch.eye(2), torch.tensor([0, 2]))
    with pytest.raises(ModelError, match="NaN"):
        zero_shot_metrics(torch.eye(2), torch.eye(2) * float("nan"), torch.arange(2))
