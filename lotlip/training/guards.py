"""What training watches: steps that are not finite, and a loss that jumps. Its state is kept in checkpoints."""

import math
import statistics
from dataclasses import dataclass, field

from lotlip.errors import ModelError
from lotlip.params import Guards
from lotlip.training.step import StepResult

WINDOW = 100  # finite steps whose losses are the measure of the next one
MIN_WINDOW = 20  # fewer say too little


@dataclass
class Watch:
    """`skipped_in_row` steps that were not finite end with the last one; `losses` of the latest finite steps."""

    skipped_in_row: int = 0
    skipped: int = 0
    rollbacks: int = 0
    lost_steps: int = 0
    spikes: int = 0
    losses: list[float] = field(default_factory=list)

    def see(self, result: StepResult, guards: Guards) -> str | None:
        """Take note of a step; returns an alarm in words where its loss jumped."""
        if result.skipped:
            self.skipped_in_row += 1
            self.skipped += 1
            return None
        self.skipped_in_row = 0
        alarm = self._alarm(result.loss, guards.spike_deviations)
        self.losses = [*self.losses[1 - WINDOW :], result.loss]
        return alarm

    def must_roll_back(self, guards: Guards) -> bool:
        """Whether too many steps in a row were skipped."""
        return self.skipped_in_row >= guards.max_skipped_steps

    def rolled_back(self, step: int, to_step: int, guards: Guards) -> None:
        """Take note that the weights of `to_step` are back at step `step`.

        Raises:
            ModelError: that happened too often.
        """
        if self.rollbacks >= guards.max_rollbacks:
            raise ModelError(
                f"Loss or gradient of {self.skipped_in_row} steps in a row, up to step {step}, were not finite, after "
                f"{self.rollbacks} returns to earlier checkpoints: lower train.learning_rate, and look for broken "
                "images or weights."
            )
        self.rollbacks += 1
        self.lost_steps += step - self.skipped_in_row - to_step
        self.skipped_in_row = 0
        self.losses = []

    def _alarm(self, loss: float, deviations: float) -> str | None:
        if len(self.losses) < MIN_WINDOW:
            return None
        mean, deviation = statistics.fmean(self.losses), statistics.stdev(self.losses)
        if loss <= mean + deviations * deviation or math.isclose(loss, mean):
            return None
        self.spikes += 1
        return f"loss {loss:.3f} is far above the {mean:.3f} ± {deviation:.3f} of the {len(self.losses)} steps before"
