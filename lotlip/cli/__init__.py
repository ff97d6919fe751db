"""The command line `lotlip`: each command calls the function that a stage calls.

Heavy imports wait inside their command, so that `lotlip --help` answers at once.
"""

from lotlip.cli import captions, data, models, plan, project, results
from lotlip.cli.app import main

__all__ = ["captions", "data", "main", "models", "plan", "project", "results"]
