"""The text tower against a slow implementation and against transformers' own BERT, forward and gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lotlip.errors import ShapeError
from lotlip.model import packing
from lotlip.model.packing import corner_visibility, pack
from tests.model.tiny_parts import PAD, make_ids, plain_bert, slow_slots, tiny_model

# One-token texts, empty texts, and texts that fill the limit of 16 ids.
LENGTHS = {m: [1, 5, 0, 16 - m - 2, 9] for m in range(5)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_corners", range(5))
def test_slots_equal_the_slow_implementation(num_corners: int, dtype: torch.dtype) -> None:
    model = tiny_model(dtype, num_corner_tokens=num_corners)
    ids = make_ids(LENGTHS[num_corners], num_corners)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(model.text_tower.encode_slots(ids), slow_slots(model, ids), atol=tolerance, rtol=0)


@pytest.mark.parametrize("num_corners", range(5))
def test_classes_without_corners_equal_the_slow_implementation_with_them(num_corners: int) -> None:
    model = tiny_model(torch.float64, num_corner_tokens=num_corners)
    ids = make_ids(LENGTHS[num_corners], num_corners, width=16)
    torch.testing.assert_close(model.text_tower.encode_classes(ids), slow_slots(model, ids)[:, 0], atol=1e-10, rtol=0)


def test_without_the_mask_corners_take_part_in_every_forward() -> None:
    model = tiny_model(torch.float64, corner_mask=False)
    ids = make_ids([1, 5, 12], 2)
    expected = slow_slots(model, ids, corner_mask=False)
    torch.testing.assert_close(model.text_tower.encode_slots(ids), expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(model.text_tower.encode_classes(ids), expected[:, 0], atol=1e-10, rtol=0)
    assert (expected - slow_slots(model, ids)).abs().max() > 1e-3, "the mask makes a difference"


@given(st.lists(st.integers(0, 10), min_size=1, max_size=6), st.integers(0, 4), st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_lengths_corners_and_mask_equal_the_slow_implementation(
    lengths: list[int], num_corners: int, corner_mask: bool
) -> None:
    model = tiny_model(torch.float64, num_corner_tokens=num_corners, corner_mask=corner_mask)
    ids = make_ids(lengths, num_corners, width=16)
    expected = slow_slots(model, ids, corner_mask=corner_mask)
    torch.testing.assert_close(model.text_tower.encode_slots(ids), expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(model.text_tower.encode_classes(ids), expected[:, 0], atol=1e-10, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_corners", range(5))
def test_gradients_equal_the_slow_implementation(num_corners: int, dtype: torch.dtype) -> None:
    model = tiny_model(dtype, num_corner_tokens=num_corners)
    ids = make_ids([1, 7, 16 - num_corners - 2], num_corners)
    weights = torch.randn(3, 1 + num_corners, 32, dtype=dtype)

    def gradients(features: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        (features * weights).mean().backward()
        return {name: p.grad.clone() for name, p in model.text_tower.named_parameters() if p.grad is not None}

    expected = gradients(slow_slots(model, ids))
    found = gradients(model.text_tower.encode_slots(ids))
    assert found.keys() == expected.keys() == dict(model.text_tower.named_parameters()).keys()
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 1e-10, "rtol": 1e-10}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], **close, msg=lambda text, n=name: f"{n}: {text}")


def test_without_corners_it_is_plain_bert() -> None:
    model = tiny_model(num_corner_tokens=0)
    ids = make_ids([3, 9], 0)
    pooled = plain_bert(model)(ids, attention_mask=(ids != PAD).long()).pooler_output
    expected = model.text_tower.projection(pooled)
    torch.testing.assert_close(model.text_tower.encode_classes(ids), expected, atol=1e-5, rtol=0)


def test_padding_and_batch_neighbours_change_nothing() -> None:
    model = tiny_model(torch.float64)
    ids = make_ids([4, 11, 1], 2, width=16)
    together = model.text_tower.encode_slots(ids)
    alone = torch.cat([model.text_tower.encode_slots(row[row != PAD][None]) for row in ids])
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=0)


def test_dropout_is_on_in_training_only() -> None:
    model = tiny_model()
    for module in model.text_tower.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    ids = make_ids([6], 2)
    first, second = model.text_tower.encode_slots(ids), model.text_tower.encode_slots(ids)
    assert torch.equal(first, second)
    model.train()
    assert not torch.equal(model.text_tower.encode_slots(ids), model.text_tower.encode_slots(ids))


def test_mask_of_one_text_by_hand() -> None:
    visible = corner_visibility(5, 2, torch.device("cpu"))  # [CLS] corner corner text [SEP]
    assert visible.int().tolist() == [
        [1, 0, 0, 1, 1],  # [CLS]: itself and text
        [0, 1, 0, 1, 1],  # a corner: itself and text, not [CLS]
        [0, 0, 1, 1, 1],
        [1, 0, 0, 1, 1],  # text: [CLS] and text, never corners
        [1, 0, 0, 1, 1],
    ]


def test_packing_by_hand() -> None:
    texts = pack(torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 1], [1, 0, 0, 0]]).bool())
    assert texts.order.tolist() == [3, 1, 0, 2]
    assert texts.groups == ((1, 1), (1, 2), (2, 3))
    assert texts.rows.tolist() == [12, 4, 5, 0, 1, 2, 8, 10, 11]
    assert texts.first(1).tolist() == [0, 1, 3, 6]
    assert texts.last().tolist() == [0, 2, 5, 8]
    assert texts.unsort(torch.tensor([30, 10, 0, 20])).tolist() == [0, 10, 20, 30]


def slow_varlen(query, key, value, starts_q, starts_k, max_q, max_k, *, window_size):
    """What torch's variable-length kernel computes, by its documentation: sequence by sequence."""
    assert starts_q.dtype == starts_k.dtype == torch.int32
    assert (starts_q.diff().max(), starts_k.diff().max()) == (max_q, max_k)
    assert (starts_q[-1], starts_k[-1]) == (len(query), len(key))
    parts = []
    for q0, q1, k0, k1 in zip(starts_q[:-1], starts_q[1:], starts_k[:-1], starts_k[1:], strict=True):
        scores = torch.einsum("qhd,khd->hqk", query[q0:q1], key[k0:k1]) / query.shape[-1] ** 0.5
        if window_size == (-1, 0):
            later = torch.ones(q1 - q0, k1 - k0).triu(1 + (k1 - k0) - (q1 - q0)).bool()
            scores = scores.masked_fill(later, -torch.inf)
        parts.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), value[k0:k1]))
    return torch.cat(parts)


@pytest.mark.parametrize("num_corners", [0, 1, 2, 4])
def test_the_gpu_kernels_sequences_give_the_same_features_and_gradients(
    num_corners: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(torch.float64, num_corner_tokens=num_corners)
    ids = make_ids(LENGTHS[num_corners], num_corners)
    tower = model.text_tower

    def run() -> list[torch.Tensor]:
        model.zero_grad()
        features = [tower.encode_slots(ids), tower.encode_classes(ids)]
        (features[0].square().sum() + features[1].sin().sum()).backward()
        return [*features, *(p.grad.clone() for p in tower.parameters())]

    expected = run()
    monkeypatch.setattr(packing, "has_varlen_kernel", lambda query: True)
    monkeypatch.setattr(packing.varlen, "varlen_attn", slow_varlen)
    for found, wanted in zip(run(), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-10, rtol=1e-10)


def test_attention_dropout_keeps_away_from_the_kernel_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "has_varlen_kernel", lambda query: True)
    monkeypatch.setattr(packing.varlen, "varlen_attn", lambda *_, **__: pytest.fail("it has no dropout"))
    model = tiny_model().train()
    model.text_tower.bert.config.attention_probs_dropout_prob = 0.5
    ids = make_ids([6], 2)
    assert not torch.equal(model.text_tower.encode_slots(ids), model.text_tower.encode_slots(ids))


def test_features_of_every_token() -> None:
    model = tiny_model(torch.float64, num_corner_tokens=0)
    ids = make_ids([4, 1, 9], 0, width=16)
    features, keep = model.text_tower.encode_tokens(ids)
    assert keep.tolist() == (ids != PAD)[:, :11].tolist()
    states = plain_bert(model)(ids, attention_mask=(ids != PAD).long()).last_hidden_state
    expected = model.text_tower.projection(torch.tanh(model.text_tower.bert.pooler.dense(states)))
    torch.testing.assert_close(features, (expected * (ids != PAD)[..., None])[:, :11], atol=1e-10, rtol=0)
    torch.testing.assert_close(features[:, 0], model.text_tower.encode_classes(ids), atol=1e-12, rtol=0)


def test_errors_say_what_arrived() -> None:
    tower = tiny_model().text_tower
    ids = make_ids([3, 5], 2)
    with pytest.raises(ShapeError, match="limit is 16"):
        tower.encode_classes(make_ids([14], 2))
    with pytest.raises(ShapeError, match=r"lack the 2 corner tokens \(ids 40 to 41\)"):
        tower.encode_classes(make_ids([3, 5], 0))
    with pytest.raises(ShapeError, match=r"\(2, 9\).*\(2, 8\)"):
        tower.encode_slots(ids, torch.ones(2, 8))
    with pytest.raises(ShapeError, match="expected one and the same"):
        tower.encode_slots(ids[0])
    with pytest.raises(ShapeError, match="run from 0 to 500 and the model knows 0 to 41"):
        tower.encode_slots(ids.masked_fill(ids == 3, 500))
    with pytest.raises(ShapeError, match="expected whole numbers"):
        tower.encode_slots(ids.float())
    with pytest.raises(ShapeError, match="Text 1 of 2 has no token"):
        tower.encode_slots(ids, (torch.arange(2) == 0)[:, None].expand_as(ids))
