"""Write one evaluation set: -> data/evalsets/<set>, reports/evalset (DVC stages `evalset@<set>`)."""

from pathlib import Path
from typing import Any

from lotlip.data.layouts import read_layout
from lotlip.data.statistics import dataset_statistics
from lotlip.evaluation.make_sets import held_out_items, scene_items, write_evalset
from lotlip.params import ScenesEvalset, entry, load_params
from lotlip.records import write_json
from lotlip.validation.texts import open_token_counter
from stages import run


def main(name: str) -> None:
    params = load_params()
    evalset = entry(params.evalsets, "evaluation set", name)
    folder = Path("data/evalsets") / name
    if isinstance(evalset, ScenesEvalset):
        report: dict[str, Any] = write_evalset(folder, evalset.texts, scene_items(evalset))
    else:
        share = params.sources[evalset.source].held_out_share
        report = write_evalset(folder, "raw", held_out_items(evalset.path, share))
    if report.get("num_texts"):
        count_tokens = open_token_counter(params.validate_.tokenizer, params.validate_.tokenizer_revision)
        found = dataset_statistics((one.texts for one in read_layout("jsonl", folder)), count_tokens)
        report["tokens_per_text"] = found["tokens_per_text"]
    write_json(Path("reports/evalset") / f"{name}.json", report)
    print(f"evalset {name}: " + ", ".join(f"{key} {value}" for key, value in report.items()))


if __name__ == "__main__":
    run(main)
