"""Run jobs over processes of this machine, with a progress bar.

    results = run_jobs(write_shard, jobs, num_processes=4)

A job that fails or whose process is killed does not take the others with it: they are finished, and the error at the
end names it. Jobs that write files (one file each, renamed when whole) can then simply be run again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import pickle
import signal
import sys
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
    job: Any
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
    results: dict[int, Result] = {}
    with progress(description, len(jobs)) as advance:

        def finished(index: int, result: Result | None, failed: bool = False) -> None:
            advance(1)
            if not failed:
                results[index] = result  # type: ignore[assignment]  # a result, unless the job failed
                if on_result is not None:
                    on_result(results[index])

        if min(num_processes, len(jobs)) <= 1:
            failures = _run_here(function, jobs, finished)
        else:
            failures = _Pool(function, jobs, min(num_processes, len(jobs)), finished).run()
    if failures:
        listed = "\n".join(f"  {failure.job}: {failure.reason}" for failure in failures[:10])
        more = f"\n  and {len(failures) - 10} more" if len(failures) > 10 else ""
        raise JobsFailedError(
            f"{len(failures)} of {len(jobs)} jobs failed, the others are finished:\n{listed}{more}\n"
            "Run the same command again to do only these."
        )
    return [results[index] for index in range(len(jobs))]


def _run_here(function: Callable[[Any], Any], jobs: Sequence[Any], finished: Callable[..., None]) -> list[_Failure]:
    failures = []
    for index, job in enumerate(jobs):
        try:
            result = function(job)
        except VocableError:
            raise
        except Exception as error:
            failures.append(_Failure(job, _last_lines(error)))
            finished(index, None, failed=True)
        else:
            finished(index, result)
    return failures


class _Worker(NamedTuple):
    process: multiprocessing.process.BaseProcess
    pipe: multiprocessing.connection.Connection


class _Pool:
    """Processes that are given one job at a time; one that dies is replaced.

    concurrent.futures will not do: when one process dies it gives up all jobs, and does not say whose process it was.
    """

    def __init__(self, function: Callable, jobs: Sequence[Any], num_processes: int, finished: Callable[..., None]):
        # spawn: torch's threads and CUDA do not survive a fork
        self._context = multiprocessing.get_context("spawn")
        self._function = pickle.dumps(function)
        self._jobs, self._finished = jobs, finished
        self._num_processes = num_processes
        self._waiting = list(range(len(jobs)))[::-1]
        self._running: dict[int, tuple[_Worker, int]] = {}  # by the sentinel of the process: worker, index of its job
        self._failures: list[_Failure] = []
        self._user_error: VocableError | None = None

    def run(self) -> list[_Failure]:
        try:
            for _ in range(self._num_processes):
                self._hand_out(self._start())
            while self._running:
                sentinels: dict[Any, int] = {sentinel: sentinel for sentinel in self._running}
                sentinels |= {worker.pipe: sentinel for sentinel, (worker, _) in self._running.items()}
                for ready in multiprocessing.connection.wait(list(sentinels)):
                    sentinel = sentinels[ready]
                    if sentinel in self._running:  # pipe and sentinel may both be ready
                        self._attend_to(*self._running.pop(sentinel))
        finally:
            for worker, _ in self._running.values():
                worker.process.terminate()
        if self._user_error is not None:
            raise self._user_error
        return self._failures

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        threads = max(_num_cores() // self._num_processes, 1)
        process = self._context.Process(target=_work, args=(theirs, self._function, threads), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _hand_out(self, worker: _Worker) -> None:
        if not self._waiting or self._user_error is not None:
            worker.pipe.close()  # the worker reads the end and leaves
            worker.process.join()
            return
        index = self._waiting.pop()
        self._running[worker.process.sentinel] = (worker, index)
        with contextlib.suppress(OSError):  # if it died just now, its sentinel says so
            worker.pipe.send(self._jobs[index])

    def _attend_to(self, worker: _Worker, index: int) -> None:
        try:
            kind, payload = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            self._failures.append(_Failure(self._jobs[index], _how_it_died(worker.process.exitcode)))
            self._finished(index, None, failed=True)
            if self._waiting and self._user_error is None:
                self._hand_out(self._start())
            return
        if kind == "result":
            self._finished(index, payload)
        else:
            self._finished(index, None, failed=True)
            if kind == "user error":
                self._user_error = payload
            else:
                self._failures.append(_Failure(self._jobs[index], payload))
        self._hand_out(worker)


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
            message = ("result", function(job))
        except VocableError as error:
            message = ("user error", error)
        except Exception as error:
            message = ("failure", _last_lines(error))
        try:
            pipe.send(message)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            pipe.send(("failure", f"what the job returned or raised cannot be sent back: {error}"))
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
