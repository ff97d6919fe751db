"""torch.compile of a model, layer by layer."""

import torch

from lotlip.model.modeling import LotlipModel
from lotlip.model.packed_layers import PackedLayer, layers_of


def compile_layers(model: LotlipModel) -> None:
    """Compile the layers of both towers in place; names of weights stay.

    Layers of one kind share their code, so a tower compiles once, whatever its depth. Of text layers the dense parts
    are compiled, for any number of rows; packing and attention, which depend on lengths, stay as they are, and so does
    gradient checkpointing. Dropout draws other numbers than without, from the same generator.

    Source: regional compilation, docs.pytorch.org/tutorials/recipes/regional_compilation.html.
    """
    for layer in layers_of(model):
        if isinstance(layer, PackedLayer):
            for part in ("project", "finish"):
                setattr(layer, part, torch.compile(getattr(layer, part), dynamic=True))
        else:
            layer.compile()
