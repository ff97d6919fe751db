"""Text inference at BERT-base width: packed and without corners, against two padded ways with them.

The limit: 2 FLOPs a weight and token, and attention's 4 H L^2 a layer and text. Packing saves the padding, leaving the
corners out saves 2 tokens a text, reading one row saves most of the last layer.
"""

from pathlib import Path
from sys import path

path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.texts import ReleasedWay, make_ids, make_model, mask_by_loop, mask_vectorised, text_flops
from benchmarks.timing import compare, device, save, utilisation

ON_GPU = torch.cuda.is_available()
NUM_TEXTS, LAYERS, ROUNDS = (4096, 12, 10) if ON_GPU else (64, 12, 5)


@torch.inference_mode()
def main() -> None:
    where = device()
    model = make_model(LAYERS).to(where).eval()
    released = ReleasedWay(model, "eager", mask_by_loop).to(where).eval()
    padded = ReleasedWay(model, "sdpa", mask_vectorised).to(where).eval()
    for kind in ("raw", "long"):
        ids = make_ids(kind, NUM_TEXTS).to(where)
        few = ids[:64]
        differences = [
            float((model.get_text_features(few) - way(few, 1)[:, 0]).abs().max()) for way in (released, padded)
        ]
        with torch.autocast(where.type, torch.bfloat16, enabled=ON_GPU):
            times = compare(
                {
                    "packed": lambda ids=ids: model.get_text_features(ids),
                    "released_way": lambda ids=ids: released(ids, 1),
                    "padded_sdpa": lambda ids=ids: padded(ids, 1),
                },
                ROUNDS,
            )
        flops = text_flops(ids, LAYERS, num_read=1, with_corners=False)
        save(
            f"text_inference_{kind}",
            {
                **times,
                "largest_difference": max(differences),
                "texts": NUM_TEXTS,
                "layers": LAYERS,
                "filled_share": round(float((ids != 0).double().mean()), 3),
                "gflops_a_second": round(flops / times["packed_s"] / 1e9),
                "utilisation": utilisation(flops, times["packed_s"]),
            },
        )


if __name__ == "__main__":
    main()
