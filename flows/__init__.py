"""Prefect: schedule, retries, pages and artifacts around dvc.yaml's graph. Nothing else imports prefect.

Prefect reads its settings when it is first imported, so they are put into the environment here, before that.
"""

from flows.environment import set_defaults

set_defaults()
