"""The arithmetic of captioning against torch's own count of floating-point operations."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lotlip.captioning.transformers_backend import TransformersCaptioner, _process, open_transformers
from tests.captioning.samples import captioner_params, make_pictures

SAMPLE = {
    "llava": "USER: <image>\n{prompt} ASSISTANT:",
    "instructblip": "{prompt}",
    "sharegpt4v": "USER: <image>\n{prompt} ASSISTANT:",
}
NEW = 40


@pytest.fixture(scope="module", params=SAMPLE)
def captioner(request: pytest.FixtureRequest) -> TransformersCaptioner:
    checkpoint = Path("lotlip/sample/weights") / request.param
    return open_transformers(captioner_params(checkpoint, template=SAMPLE[request.param]))


def counted(captioner: TransformersCaptioner, new: int) -> int:
    """FLOPs of generating exactly `new` tokens for one image."""
    loaded = captioner._loaded
    inputs: dict[str, Any] = dict(_process(loaded, make_pictures(1), "long"))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        loaded.model.generate(**inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False)
    return int(counter.get_total_flops())


def test_flops_are_those_that_torch_counts(captioner: TransformersCaptioner) -> None:
    image = make_pictures(1)[0]
    costs = captioner.costs(image, NEW - 1)  # the last token is written and not read
    first = counted(captioner, 1)
    assert first == pytest.approx(costs.vision_flops + costs.prefill_flops, rel=0.1)
    assert counted(captioner, NEW) - first == pytest.approx(costs.decode_flops, rel=0.1)


def test_bytes_are_those_of_the_weights_and_of_a_real_cache(captioner: TransformersCaptioner) -> None:
    loaded = captioner._loaded
    inputs: dict[str, Any] = dict(_process(loaded, make_pictures(1), "long"))
    with torch.no_grad():
        made = loaded.model.generate(
            **inputs, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, return_dict_in_generate=True
        )
    whole = sum(layer.keys.nbytes + layer.values.nbytes for layer in made.past_key_values.layers)
    prompt = inputs["input_ids"].shape[1]
    costs = captioner.costs(make_pictures(1)[0], NEW)
    assert costs.cache_bytes == pytest.approx(whole * (prompt + NEW / 2) / (prompt + NEW - 1), rel=0.02)
    language = loaded.model.model.language_model if hasattr(loaded.model, "model") else loaded.model.language_model
    table = loaded.model.get_input_embeddings().weight.nbytes
    parts = {id(p): p.nbytes for p in [*language.parameters(), *loaded.model.get_output_embeddings().parameters()]}
    assert costs.weight_bytes == sum(parts.values()) - table
    assert costs.step_bytes(8) == costs.weight_bytes + 8 * costs.cache_bytes
