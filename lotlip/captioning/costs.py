"""What captioning costs by arithmetic: floating-point operations and bytes an image, for a model and its lengths.

Dense layers: 2 FLOPs a weight and token. Attention: 4 x width FLOPs a pair of tokens and layer, half the pairs where it
is causal. Decoding reads all weights of the language model, and the keys and values so far, once a step.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Lengths:
    """Tokens of one image: `patches` (class token included) in each of `tiles`, in the prompt, and newly written."""

    patches: int
    tiles: int
    prompt: int
    new: float


@dataclass(frozen=True)
class Costs:
    """FLOPs an image of vision, prefill and decoding; bytes that a decoding step reads: weights, and of each image."""

    vision_flops: float
    prefill_flops: float
    decode_flops: float
    weight_bytes: int
    cache_bytes: float

    @property
    def flops(self) -> float:
        return self.vision_flops + self.prefill_flops + self.decode_flops

    def step_bytes(self, batch_size: int) -> float:
        """Bytes read in one decoding step of a batch."""
        return self.weight_bytes + batch_size * self.cache_bytes


def image_costs(model: Any, lengths: Lengths) -> Costs:
    """Costs of one image.

    Args:
        model: an image-text-to-text model of `transformers`; whatever is not its language model counts as vision and
            is taken to see every patch, but for a Q-Former, whose queries are few.
        lengths: of its inputs and outputs; the cache is counted at the mean length while decoding.
    """
    text, vision = model.config.get_text_config(), model.config.vision_config
    tables = {id(module.weight) for module in model.modules() if type(module).__name__ == "Embedding"}
    tables -= {id(model.get_output_embeddings().weight)}  # a tied table is multiplied with, too
    language = [(name, p) for name, p in model.named_parameters() if "language_model" in name or "lm_head" in name]
    names = {name for name, _ in language}
    dense = sum(p.numel() for _, p in language if id(p) not in tables)
    head = model.get_output_embeddings().weight.numel()
    seeing = [(name, p) for name, p in model.named_parameters() if name not in names and id(p) not in tables]
    queries = getattr(model.config, "num_query_tokens", None)
    width, layers = text.hidden_size, text.num_hidden_layers
    seen = lengths.patches * lengths.tiles
    dense_vision = sum(2.0 * p.numel() * _rows(name, seen, queries) for name, p in seeing)
    vision_attention = 4 * vision.hidden_size * vision.num_hidden_layers * lengths.patches**2 * lengths.tiles
    mean_context = lengths.prompt + lengths.new / 2
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or width // text.num_attention_heads
    itemsize = next(model.parameters()).element_size()
    return Costs(
        vision_flops=dense_vision + vision_attention,
        prefill_flops=2.0 * (dense - head) * lengths.prompt + 2.0 * head + 2.0 * width * layers * lengths.prompt**2,
        decode_flops=lengths.new * (2.0 * dense + 4.0 * width * layers * mean_context),
        weight_bytes=dense * itemsize,
        cache_bytes=mean_context * 2 * layers * heads * head_width * itemsize,
    )


def _rows(name: str, seen: int, queries: int | None) -> int:
    """How many tokens a weight of the seeing parts meets."""
    if queries is None or not ("qformer" in name or "language_projection" in name):
        return seen
    reads_patches = "crossattention" in name and (".key." in name or ".value." in name)
    return seen if reads_patches else queries
