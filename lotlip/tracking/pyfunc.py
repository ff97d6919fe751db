"""What MLflow runs when it loads a logged model (copied into the model's folder, so that nothing is pickled).

`mlflow.pyfunc.load_model("models:/...").predict(frame)` takes a DataFrame with a column `text`, or a column
`image` of file paths, and returns unit-length embeddings, float32 [rows, D].
"""

from typing import Any

import mlflow
import pandas as pd


class EmbedTextsAndImages(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A LoTLIP model behind MLflow's pyfunc interface."""

    def load_context(self, context: Any) -> None:
        from lotlip import LotlipModel, LotlipProcessor

        folder = context.artifacts["model"]
        self.model = LotlipModel.from_pretrained(folder).eval()
        self.processor = LotlipProcessor.from_pretrained(folder)

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> Any:
        """Embeddings of the rows' texts or images.

        Raises:
            ValueError: neither or both columns are there.
        """
        import torch

        columns = [name for name in ("text", "image") if name in model_input]
        if len(columns) != 1:
            raise ValueError(f"got columns {list(model_input)}; expected `text` or `image` (file paths).")
        rows = [str(value) for value in model_input[columns[0]]]
        with torch.inference_mode():
            if columns == ["text"]:
                return self.model.get_text_features(**self.processor(text=rows)).numpy()
            return self.model.get_image_features(**self.processor(images=rows)).numpy()


mlflow.models.set_model(EmbedTextsAndImages())
