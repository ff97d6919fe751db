"""Makes `AutoConfig`, `AutoModel` and `AutoProcessor` of transformers know LoTLIP, once imported."""

from transformers import AutoConfig, AutoModel, AutoProcessor

from lotlip.model.config import LotlipConfig
from lotlip.model.modeling import LotlipModel
from lotlip.model.processor import LotlipProcessor

AutoConfig.register(LotlipConfig.model_type, LotlipConfig, exist_ok=True)
AutoModel.register(LotlipConfig, LotlipModel, exist_ok=True)
AutoProcessor.register(LotlipConfig, LotlipProcessor, exist_ok=True)
