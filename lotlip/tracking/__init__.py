"""MLflow tracking: the only room that imports mlflow, and never before it is needed (it takes seconds).

Training never waits for it. A stage appends events to a file; a process of its own copies them live
(`follow_training`), and `track` logs a whole pipeline state from its reports afterwards, filling in whatever
a dead server missed. Logging the same state twice adds nothing.
"""

from lotlip.tracking.errors import TrackingError
from lotlip.tracking.live import events_path, follow_training
from lotlip.tracking.log_state import track
from lotlip.tracking.store import connect, default_uri, tracking_uri
from lotlip.tracking.summary import TrackSummary
from lotlip.tracking.view import methods_page

__all__ = [
    "TrackSummary",
    "TrackingError",
    "connect",
    "default_uri",
    "events_path",
    "follow_training",
    "methods_page",
    "track",
    "tracking_uri",
]
