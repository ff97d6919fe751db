from tests.training.conftest import one_thread  # noqa: F401  (as in the processes that these tests start)
