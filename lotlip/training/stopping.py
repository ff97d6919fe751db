"""SIGTERM and SIGINT while training: noted, and obeyed when the step is done and its checkpoint written."""

import signal
import sys
import threading
from types import FrameType
from typing import Any


class StopSignals:
    """Within the block the two signals only set `received`; `obey` then ends the process as they would have.

    With `insist` a second one ends it at once, as when data do not come; processes that torchrun has started get one
    from the terminal and one from it. Elsewhere than in the main thread signals are left alone.
    """

    def __init__(self, insist: bool = True) -> None:
        self._insist = insist
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._note) for each in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def obey(self) -> None:
        """End the process, as another one's signal may ask for, too.

        Raises:
            KeyboardInterrupt: for SIGINT.
            SystemExit: for SIGTERM, with status 143 as the shell gives it.
        """
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + signal.SIGTERM)

    def _note(self, number: int, _: FrameType | None) -> None:
        is_second, self.received = self.received is not None, signal.Signals(number)
        if self._insist and is_second:
            self.obey()
