"""Tasks on a Ray cluster; one whose worker dies is started again, elsewhere. Optional: ``pip install ray``.

The cluster is the one that RAY_ADDRESS names or that runs on this machine (`ray start --head`), else one made for the
call. Its machines must see this installation and the files of the tasks under the same paths.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from layer_folding.errors import CheckError, InputError

Value = TypeVar("Value")

RETRIES = 5  # of a task whose worker died; a task that kills its worker each time, by its memory say, must end


def each(function: Callable[..., Value], tasks: Mapping[str, tuple[Any, ...]]) -> dict[str, Value]:
    """The values of ``function(*arguments)`` for the arguments of each of ``tasks``, under the same names.

    As many run at a time as the cluster has cores, or GPUs if it has any.
    Raises what a task raises, InputError where there is no Ray or no cluster, CheckError for a task whose workers died
    again and again. Prints on stderr only: what the tasks and Ray say.
    """
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # lines that differ in their numbers only are what we want to see
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report them to its makers
    try:
        import ray
    except ModuleNotFoundError as error:
        raise InputError("--engine ray: Ray is not installed; pip install ray") from error
    with contextlib.redirect_stdout(sys.stderr):
        try:
            ray.init(include_dashboard=False, logging_level=logging.WARNING)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"--engine ray: no cluster: {error}; see RAY_ADDRESS") from error
        try:
            gpus = min(1, ray.cluster_resources().get("GPU", 0))
            task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(function)
            waiting = [task.options(name=name).remote(*arguments) for name, arguments in tasks.items()]
            return dict(zip(tasks, ray.get(waiting), strict=True))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            raise CheckError(f"--engine ray: {error}; the same command goes on from the last finished step") from error
        finally:
            ray.shutdown()
