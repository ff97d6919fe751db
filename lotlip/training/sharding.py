"""FSDP2: a model whose weights, gradients and optimizer states are shared out among processes."""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from lotlip.errors import ModelError
from lotlip.model.modeling import LotlipModel
from lotlip.model.packed_layers import layers_of

# Besides `forward`: what runs parts of the model, which are gathered for it.
_METHODS = ("get_text_features", "get_image_features", "get_text_token_features", "get_image_token_features")


def shard(model: LotlipModel, mesh: DeviceMesh) -> list[nn.Parameter]:
    """Share the trained weights of a model out, in place: each layer of the towers is gathered when it runs.

    Whole in every process stay the logit scale and bias, which are single numbers, and what is not trained (a locked
    image tower, whose features may be given in place of pixels). Gradients of the others are averaged over processes
    by the backward pass and sharded like them; those of the whole ones are left to the caller.

    Args:
        model: with equal weights in all processes, and `requires_grad` as it will be trained.
        mesh: one-dimensional, of all processes; the model moves to its device.

    Returns:
        The parameters left whole, in the model's order, which is the same in all processes.

    Raises:
        ModelError: the model is sharded already, or the mesh has more dimensions.

    Source: torch.distributed.fsdp.fully_shard.
    """
    if isinstance(model, FSDPModule):
        raise ModelError("The model is sharded already; shard a fresh one.")
    if mesh.ndim != 1:
        raise ModelError(f"The mesh of processes has {mesh.ndim} dimensions; expected one, of all processes.")
    whole = {p for p in model.parameters() if p.ndim == 0 or not p.requires_grad}
    for layer in layers_of(model):
        if not whole.issuperset(layer.parameters()):
            fully_shard(layer, mesh=mesh, ignored_params=whole)
    # Resharded as the layers are: by default the outermost module would go on with what it gathered for a forward pass
    # without a backward one, past an optimizer step.
    fully_shard(model, mesh=mesh, ignored_params=whole, reshard_after_forward=True)
    for method in _METHODS:
        register_fsdp_forward_method(model, method)
    return [p for p in model.parameters() if p in whole]
