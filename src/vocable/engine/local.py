"""Run jobs over processes of this machine, with a progress bar.

    results = run_jobs(write_shard, jobs, num_processes=4)

A job that fails or whose process is killed does not take the others with it: they are finished, and the error at the
end names it. Jobs that write files (one file each, renamed when whole) can then simply be run again.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from vocable.errors import ConfigError, VocableError
from vocable.progress import progress

Job = TypeVar("Job")
Result = TypeVar("Result")


class JobsFailedError(VocableError, RuntimeError):
    """Some jobs failed or were killed; the message names them. The others are finished."""


class _Failure(NamedTuple):
    reason: str


def run_jobs(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    num_processes: int = 1,
    description: str = "",
    on_result: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Return `[function(job) for job in jobs]`, computed by several processes.

    Every process gets an equal share of the cores for its threads. A `VocableError` of a job (something the user has to
    mend, such as a full disk) stops the handing out of jobs, and is raised once the running ones are finished.

    Args:
        function: A function of a module, or a `functools.partial` of one: it must be picklable for other processes.
        jobs: What to call it with; `str(job)` names a job in messages.
        num_processes: 1 runs the jobs in this process.
        description: Stands before the progress bar; empty shows no bar.
        on_result: Called in this process with every result, in the order in which they come.

    Raises:
        ConfigError: `num_processes` is below 1.
        JobsFailedError: jobs failed, or their processes died; the others are finished.
        VocableError: raised by a job.
    """
    if num_processes < 1:
        raise ConfigError(f"num_processes is {num_processes}; it must be at least 1.")
    failures: list[str] = []
    with progress(description, len(jobs)) as advance:

        def finished(job: Job, outcome: Any) -> Any:
            advance(1)
            if isinstance(outcome, _Failure):
                failures.append(f"{job}: {outcome.reason}")
            elif on_result is not None:
                on_result(outcome)
            return outcome

        if min(num_processes, len(jobs)) <= 1:
            results = [finished(job, _attempt(function, job)) for job in jobs]
        else:
            results = _run_in_processes(function, jobs, min(num_processes, len(jobs)), finished)
    if failures:
        listed = "\n".join(f"  {failure}" for failure in failures[:10])
        more = f"\n  and {len(failures) - 10} more" if len(failures) > 10 else ""
        raise JobsFailedError(
            f"{len(failures)} of {len(jobs)} jobs failed, the others are finished:\n{listed}{more}\n"
            "Run the same command again to do only these."
        )
    return results


def _attempt(function: Callable[[Any], Any], job: Any) -> Any:
    """Return the result, or what is wrong where our own errors, which are the user's to mend, are not raised."""
    try:
        return function(job)
    except VocableError:
        raise
    except Exception as error:
        return _Failure(_last_lines(error))


def _run_in_processes(
    function: Callable[[Any], Any], jobs: Sequence[Any], num_processes: int, finished: Callable[[Any, Any], Any]
) -> list[Any]:
    """Let each of some threads have a process of its own, which does one job at a time and is replaced when it dies.

    concurrent.futures alone will not do: when one process dies it gives up all jobs, and does not say whose it was.
    """
    threads = max(_num_cores() // num_processes, 1)
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    started: list[_Worker] = []
    stopped = threading.Event()

    def do(job: Any) -> Any:
        if stopped.is_set():
            raise concurrent.futures.CancelledError  # nothing new is begun after an error of the user's
        try:
            worker = idle.get_nowait()
        except queue.Empty:
            worker = _Worker(function, threads)
            started.append(worker)
        outcome = worker.do(job)
        if worker.process.is_alive():
            idle.put(worker)
        if isinstance(outcome, VocableError):
            stopped.set()
            raise outcome
        return outcome

    with concurrent.futures.ThreadPoolExecutor(num_processes) as pool:
        try:
            futures = {pool.submit(do, job): job for job in jobs}
            for future in concurrent.futures.as_completed(futures):
                if future.exception() is None:
                    finished(futures[future], future.result())
            return [future.result() for future in futures]
        finally:
            stopped.set()
            for worker in started:
                worker.process.terminate()


class _Worker:
    """Another process, and the pipe to it."""

    def __init__(self, function: Callable[[Any], Any], num_threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # torch's threads and CUDA do not survive a fork
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, pickle.dumps(function), num_threads), daemon=True)
        self.process.start()
        theirs.close()

    def do(self, job: Any) -> Any:
        """Return the result, an error of ours, or a failure."""
        try:
            self.pipe.send(job)
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return _Failure(_how_it_died(self.process.exitcode))


def _work(pipe: multiprocessing.connection.Connection, pickled_function: bytes, num_threads: int) -> None:
    """Do jobs until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which stops the workers
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(num_threads)
    function = None
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            if function is None:
                function = pickle.loads(pickled_function)
                if "torch" in sys.modules:
                    sys.modules["torch"].set_num_threads(num_threads)
            outcome = _attempt(function, job)
        except Exception as error:  # of ours, or of what comes with the function
            outcome = error if isinstance(error, VocableError) else _Failure(_last_lines(error))
        try:
            pipe.send(outcome)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            pipe.send(_Failure(f"what the job returned or raised cannot be sent back: {error}"))
        except OSError:
            return  # the parent is gone


def _last_lines(error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"


def _how_it_died(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = "; the system kills when memory runs out" if name == "SIGKILL" else ""
        return f"its process was killed by {name}{hint}"
    return f"its process ended with exit code {exit_code}"


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
