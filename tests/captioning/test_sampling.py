"""The sampler draws from the distribution it claims, each row by its own seed."""

import torch

from lotlip.captioning.sampling import GumbelSampler, image_seed, keep_top_p
from tests.captioning.samples import make_pictures

PROBABILITIES = torch.tensor([0.5, 0.25, 0.15, 0.1])


def draw(temperature: float, top_p: float, count: int = 6_000) -> torch.Tensor:
    """Frequencies of `count` draws."""
    sampler = GumbelSampler([0, 1], temperature, top_p)
    logits = PROBABILITIES.log().expand(2, 4)
    drawn = torch.stack([sampler(None, logits).argmax(-1) for _ in range(count // 2)])
    return torch.bincount(drawn.flatten(), minlength=4) / count


def test_frequencies_are_the_probabilities() -> None:
    # four standard errors of a share near 0.5 over 6,000 draws
    assert (draw(1.0, 1.0) - PROBABILITIES).abs().max() < 4 * (0.25 / 6_000) ** 0.5


def test_temperature_sharpens() -> None:
    expected = PROBABILITIES**2 / (PROBABILITIES**2).sum()  # at temperature 1/2
    assert (draw(0.5, 1.0) - expected).abs().max() < 4 * (0.25 / 6_000) ** 0.5


def test_top_p_cuts_the_tail_and_keeps_the_ratios() -> None:
    frequencies = draw(1.0, 0.7)
    assert frequencies[2:].sum() == 0
    assert abs(float(frequencies[0]) - 2 / 3) < 0.03


def test_keep_top_p_by_hand() -> None:
    logits = torch.stack([PROBABILITIES.log(), PROBABILITIES.flip(0).log()])
    kept = torch.isfinite(keep_top_p(logits, 0.8))
    assert kept.tolist() == [[True, True, True, False], [False, True, True, True]]
    assert torch.isfinite(keep_top_p(logits, 0.01)).sum(1).tolist() == [1, 1]


def test_a_row_depends_on_its_seed_alone() -> None:
    logits = PROBABILITIES.log()
    alone = GumbelSampler([5], 1.0, 1.0)(None, logits[None])
    together = GumbelSampler([4, 5, 6], 1.0, 1.0)(None, logits.expand(3, 4))
    assert torch.equal(alone[0], together[1])
    assert not torch.equal(together[0], together[1])


def test_image_seed_follows_pixels_and_seed() -> None:
    first, second = make_pictures(2)
    assert image_seed(first, 0) == image_seed(first.copy(), 0)
    assert len({image_seed(first, 0), image_seed(second, 0), image_seed(first, 1)}) == 3
    assert 0 <= image_seed(first, 0) < 2**63
