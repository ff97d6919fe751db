from lotlip.model.modeling import LotlipModel


def compile_layers(model: LotlipModel) -> None:
    raise NotImplementedError
