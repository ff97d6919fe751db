"""Long-text image-text models: LoTLIP's method, its baselines, and the workflow around them.

`LotlipConfig`, `LotlipModel` and `LotlipProcessor` are imported when first used: `import lotlip` is instant.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lotlip.model.config import LotlipConfig as LotlipConfig
    from lotlip.model.modeling import LotlipModel as LotlipModel
    from lotlip.model.processor import LotlipProcessor as LotlipProcessor

_HOMES = {
    "LotlipConfig": "lotlip.model.modeling",  # which also registers the Auto classes
    "LotlipModel": "lotlip.model.modeling",
    "LotlipProcessor": "lotlip.model.processor",
}
__all__ = ["LotlipConfig", "LotlipModel", "LotlipProcessor"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lotlip' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
