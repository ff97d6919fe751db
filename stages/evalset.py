"""Write one evaluation set: -> data/evalsets/<set>, reports/evalset (DVC stages `evalset@<set>`)."""

from pathlib import Path
from typing import Any

from lotlip.data.layouts.readers import read_layout
from lotlip.data.statistics import dataset_statistics
from lotlip.evaluation.folder_check import check_folder
from lotlip.evaluation.make_sets import held_out_items, scene_items, write_evalset, write_public_set
from lotlip.params import Params, PublishedEvalset, ScenesEvalset, entry, load_params
from lotlip.records import write_json
from lotlip.validation.texts import open_token_counter
from stages import run


def main(name: str) -> None:
    params = load_params()
    folder = Path("data/evalsets") / name
    report = _write(name, params, folder)
    if report.get("num_texts"):
        count_tokens = open_token_counter(params.validate_.tokenizer, params.validate_.tokenizer_revision)
        found = dataset_statistics((one.texts for one in read_layout("jsonl", folder)), count_tokens)
        report["tokens_per_text"] = found["tokens_per_text"]
    write_json(Path("reports/evalset") / f"{name}.json", report)
    print(f"evalset {name}: " + ", ".join(f"{key} {value}" for key, value in report.items()))


def _write(name: str, params: Params, folder: Path) -> dict[str, Any]:
    evalset = entry(params.evalsets, "evaluation set", name)
    if isinstance(evalset, ScenesEvalset):
        return write_evalset(folder, evalset.texts, scene_items(evalset))
    if isinstance(evalset, PublishedEvalset):
        check = check_folder(evalset.dataset, evalset.path, evalset.images, evalset.normalize_long)
        report = write_public_set(folder, check, evalset.allow_missing)
        print("\n".join(check.lines()))
        return report
    return write_evalset(folder, "raw", held_out_items(evalset.path, params.sources[evalset.source].held_out_share))


if __name__ == "__main__":
    run(main)
