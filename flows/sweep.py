"""The methods of tables, trained with several seeds, as DVC experiments: one a table and seed, a Prefect task each.

`python -m flows.sweep corner_tokens` runs one table of ablations.yaml, `all` every table.
"""
# mypy: disable-error-code="untyped-decorator"

import argparse
import os
import signal
import sys
from pathlib import Path
from threading import Lock
from typing import Any

from prefect import State, allow_failure, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.environment import start_server
from flows.experiments import Experiment, committed, make_data, open_clone, run_experiment, track_experiment
from flows.repro import only_run, stopping_commands
from lotlip import tracking
from lotlip.errors import LotlipError
from lotlip.evaluation.poster.ablations import Ablations, read_ablations
from lotlip.evaluation.poster.runs import read_lines, record_runs
from lotlip.params import load_params

RUNS = Path("docs/results/runs.jsonl")
CLONES = Path(".work/sweep")
_one_at_a_time = Lock()  # in the file of runs, and in MLflow's SQLite


def _run_name() -> str:
    """What a run is called on Prefect's pages: its tables."""
    return " ".join(flow_run.parameters["tables"])


@flow(name="sweep", flow_run_name=_run_name)
def sweep(tables: list[str], seeds: list[int], threads: int, track: bool) -> Any:
    """Train and evaluate the methods of some tables with every seed, and write down what came out (`RUNS`).

    Args:
        tables: names of tables in ablations.yaml.
        seeds: `train.seed` of each experiment; each seed has a clone of its own.
        threads: of each process that trains or evaluates.
        track: log every experiment to MLflow.

    Returns:
        A state; it is failed, with a message for the user, when an experiment failed. The others go on.
    """
    root = Path.cwd()
    ablations = read_ablations()
    commit = committed(root)
    clones = {seed: CLONES / f"seed{seed}" for seed in seeds}
    for clone in clones.values():
        open_clone(root, clone, commit)
    methods = [method for table in tables for method in ablations.table(table).rows.values()]
    make_data(clones[seeds[0]], ablations.overlays, methods, get_run_logger().info)
    uri = _open_store(root) if track else None
    before: dict[int, list[PrefectFuture[Any]]] = {seed: [] for seed in seeds}
    futures = []
    with stopping_commands():  # Prefect would wait for their end
        for table in tables:
            for seed in seeds:
                experiment = _experiment(ablations, table, seed)
                run = run_one.with_options(task_run_name=experiment.name)
                after = [allow_failure(future) for future in before[seed]]  # one at a time in a clone
                before[seed] = [run.submit(clones[seed], experiment, threads, uri, wait_for=after)]
                futures += before[seed]
        states: list[State[Any]] = [future.wait() or future.state for future in futures]
    failed = [state for state in states if not state.is_completed()]
    if failed:
        return Failed(message=f"{len(failed)} of {len(states)} experiments failed, first: {failed[0].message}")
    return Completed(message=f"{len(states)} experiments: their runs are in {RUNS}, `dvc exp show` lists them")


@task(name="experiment", persist_result=False, cache_policy=NO_CACHE)
def run_one(clone: Path, experiment: Experiment, threads: int, uri: str | None) -> Any:
    """Run an experiment in a clone, with its lines in the task's log."""
    log = get_run_logger().info
    found = run_experiment(Path.cwd(), clone, experiment, log, threads)
    with _one_at_a_time:
        record_runs(RUNS, found)
        if uri is not None:
            _track(clone, experiment.name, uri)
    return Completed(message=f"{experiment.name}: {len(found)} methods")


def _open_store(root: Path) -> str | None:
    """The MLflow store, which a sweep does without where it does not answer."""
    try:
        return tracking.connect(root, load_params().tracking.experiment).uri
    except tracking.TrackingError as error:
        get_run_logger().warning("nothing is tracked: %s", error)
        return None


def _track(clone: Path, name: str, uri: str) -> None:
    log = get_run_logger()
    try:
        track_experiment(clone, name, uri, log.info)
    except LotlipError as error:
        log.warning("%s", error)


def _experiment(ablations: Ablations, table: str, seed: int) -> Experiment:
    methods = tuple(ablations.table(table).rows.values())
    return Experiment(f"{table}-seed{seed}", seed, methods, tuple(ablations.overlays))


def main() -> int:
    """Parse the command line and run the flow; 0 when every experiment is done."""
    parser = argparse.ArgumentParser(prog="python -m flows.sweep", description=__doc__)
    parser.add_argument("tables", nargs="+", metavar="TABLE", help="of ablations.yaml; `all`: every one")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="default: those of ablations.yaml")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="experiments at the same time; default: 1")
    parser.add_argument("--no-track", action="store_true", help="do not log the experiments to MLflow")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}; expected at least 1")
    if options.seeds and (min(options.seeds) < 0 or len(set(options.seeds)) < len(options.seeds)):
        parser.error(f"--seeds are {options.seeds}; expected different numbers from 0 on")
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job starts with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    try:
        ablations = read_ablations()
        tables = list(ablations.tables) if options.tables == ["all"] else list(dict.fromkeys(options.tables))
        for table in tables:
            ablations.table(table)
        committed(Path.cwd())
        read_lines(RUNS)  # what cannot be added to is said before the work
        threads = max(1, (os.cpu_count() or 1) // options.jobs)
        run = sweep.with_options(task_runner=ThreadPoolTaskRunner(max_workers=options.jobs))
        with only_run(CLONES):
            start_server()
            seeds = options.seeds or ablations.seeds
            state = run(tables, seeds, threads, not options.no_track, return_state=True)
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept, the same command goes on", file=sys.stderr)
        return 130
    except LotlipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if state.is_completed():
        print(state.message, flush=True)
        return 0
    print(f"error: {state.message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
