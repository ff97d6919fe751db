"""Walk the DVC graph as a Prefect flow: one task a stage, with its log, retries and metrics.

`python -m flows.pipeline [--targets STAGE ...]` runs it here and now.
"""
# mypy: disable-error-code="untyped-decorator"

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from prefect import State, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.artifacts import VALIDATE, comparison_artifact, stage_artifacts, validation_artifact
from flows.environment import start_server
from flows.graph import Stage, read_stages
from flows.repro import Outcome, StageError, only_run, reproduce
from lotlip import tracking
from lotlip.errors import LotlipError
from lotlip.params import Pipeline, load_params

UNCHANGED = "Unchanged"
_STATE_NAMES: dict[Outcome, str] = {"ran": "Completed", "restored": "Restored", "unchanged": UNCHANGED}
States = dict[str, State[Any]]


def _run_name() -> str:
    """What a run is called on Prefect's pages: the stages it was asked for."""
    parameters: dict[str, Any] = flow_run.parameters
    return " ".join(parameters.get("targets") or ["all stages"]) + (" (forced)" if parameters.get("force") else "")


@flow(name="pipeline", flow_run_name=_run_name)
def pipeline(targets: list[str] | None = None, force: bool = False, track: bool = True) -> Any:
    """Bring the DVC pipeline of the current folder up to date.

    Args:
        targets: stages to bring up to date with all they need; all stages by default.
        force: run every stage, changed or not.
        track: log the resulting state to MLflow at the end.

    Returns:
        A state; it is failed, with a message for the user, when another run works in this folder, dvc.yaml
        cannot be read or has no such target, or a stage failed after its retries (with the end of its log).
    """
    root = Path.cwd()
    try:
        with only_run(root):
            stages = read_stages(root, targets or [], force)
            states = _run_stages(stages, force, load_params().pipeline)
            failed = [state for state in states.values() if not state.is_completed()]
            return Failed(message=failed[0].message) if failed else _finish(root, states, track)
    except LotlipError as error:
        return Failed(message=str(error))


def _finish(root: Path, states: States, track: bool) -> State[Any]:
    is_tracked = not track or track_state(return_state=True).is_completed()
    comparison_artifact(root)
    return Completed(message=_summary(states) + ("" if is_tracked else "; not tracked: run `lotlip track`"))


def _run_stages(stages: list[Stage], force: bool, settings: Pipeline) -> States:
    """Run stages in order until one fails; a stage that nothing touched costs no DVC process."""
    run = run_stage.with_options(retries=settings.retries, retry_delay_seconds=settings.retry_delay_s)
    states: States = {}
    for stage in stages:
        needed = [states[name] for name in stage.needs]
        is_touched = stage.is_changed or any(state.name != UNCHANGED for state in needed)
        chosen = (run if is_touched else skip_stage).with_options(task_run_name=stage.name)
        states[stage.name] = chosen(stage, force, wait_for=needed, return_state=True)
        if not states[stage.name].is_completed():
            break
    return states


@task(name="stage", persist_result=False, cache_policy=NO_CACHE)
def run_stage(stage: Stage, force: bool) -> Any:
    """Bring one stage up to date with `dvc repro`, its lines going to the task's log."""
    started = time.time()
    try:
        outcome = reproduce(stage.name, Path.cwd(), get_run_logger().info, force)
    except StageError:
        if stage.name == VALIDATE:  # what fails it is in its summary
            for path in stage.metrics:
                validation_artifact(path, since=started)
        raise
    stage_artifacts(stage)
    return Completed(name=_STATE_NAMES[outcome], message=f"{stage.name}: {outcome}")


@task(name="unchanged stage", persist_result=False, cache_policy=NO_CACHE)
def skip_stage(stage: Stage, force: bool) -> Any:
    """Note that a stage did not change."""
    get_run_logger().info("Stage '%s' didn't change, skipping", stage.name)
    stage_artifacts(stage)
    return Completed(name=UNCHANGED, message=f"{stage.name}: didn't change")


@task(name="track", task_run_name="track", persist_result=False, cache_policy=NO_CACHE)
def track_state() -> None:
    """Log the state to MLflow, as `lotlip track` does; its failure is no failure of the pipeline."""
    get_run_logger().info("%s", tracking.track(Path.cwd()))


def main() -> int:
    """Parse the command line and run the flow; 0 when every stage is up to date."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description=__doc__)
    parser.add_argument("--targets", nargs="+", metavar="STAGE", help="default: all stages")
    parser.add_argument("--force", action="store_true", help="run every stage, changed or not")
    parser.add_argument("--no-track", action="store_true", help="do not log the state to MLflow at the end")
    options = parser.parse_args()
    try:
        with only_run(Path.cwd()):
            load_params()  # what is wrong is said at once, not after Prefect's start
    except LotlipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    start_server()
    state = pipeline(options.targets, options.force, not options.no_track, return_state=True)
    if state.is_completed():
        print(state.message, flush=True)
        return 0
    print(f"error: {state.message}", file=sys.stderr)
    return 1


def _summary(states: States) -> str:
    names = [state.name for state in states.values()]
    counts = {name: names.count(name) for name in _STATE_NAMES.values() if name in names}
    return f"{len(names)} stages: " + ", ".join(f"{count} {name.lower()}" for name, count in counts.items())


if __name__ == "__main__":
    sys.exit(main())
