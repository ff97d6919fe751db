"""A Ray cluster of this machine, with two workers, for the tests of one module."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ray_cluster() -> Iterator[None]:
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, logging_level="error")
    yield
    ray.shutdown()
