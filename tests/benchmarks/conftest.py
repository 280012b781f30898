from tests.fold.conftest import one_thread  # noqa: F401, it is used by all tests here
