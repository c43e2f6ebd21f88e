import functools
import os
import sys
from pathlib import Path

import pytest

from vocable.engine import JobsFailedError, run_jobs
from vocable.errors import ConfigError, OutputError

# the function has to be importable in the other processes, where this file is no module of a package
sys.path.insert(0, str(Path(__file__).parent))
import local_jobs


@pytest.mark.parametrize("num_processes", [1, 2])
def test_results_come_in_the_order_of_the_jobs(num_processes: int):
    seen: list[int] = []
    jobs = [5, 0, 3, 1]
    square = functools.partial(local_jobs.power, exponent=2)
    assert run_jobs(square, jobs, num_processes, on_result=seen.append) == [25, 0, 9, 1]
    assert sorted(seen) == [0, 1, 9, 25]


def test_no_jobs():
    assert run_jobs(local_jobs.power, [], num_processes=4) == []


def test_other_processes_get_their_share_of_threads():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = run_jobs(local_jobs.describe_process, [0, 1], num_processes=2)
    assert {threads for _, threads in found} == {str(max(cores // 2, 1))}
    assert os.getpid() not in {process for process, _ in found}
    assert run_jobs(local_jobs.describe_process, [0], num_processes=2)[0][0] == os.getpid()


def test_a_killed_process_is_named_and_the_others_finish(tmp_path: Path):
    jobs = [local_jobs.Touch(tmp_path / f"{i}", kill=i in (1, 2)) for i in range(6)]
    with pytest.raises(JobsFailedError) as error:
        run_jobs(local_jobs.touch, jobs, num_processes=2)
    assert "2 of 6 jobs failed, the others are finished" in str(error.value)
    assert "touch 1: its process was killed by SIGKILL; the system kills when memory" in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "3", "4", "5"]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_failing_job_is_named_and_the_others_finish(tmp_path: Path, num_processes: int):
    jobs = [local_jobs.Touch(tmp_path / f"{i}", error=ZeroDivisionError("oh") if i == 1 else None) for i in range(4)]
    with pytest.raises(
        JobsFailedError, match=r"1 of 4 jobs failed(.|\n)*touch 1: ZeroDivisionError: oh \(.*local_jobs"
    ):
        run_jobs(local_jobs.touch, jobs, num_processes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "2", "3"]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_an_error_for_the_user_stops_the_run(tmp_path: Path, num_processes: int):
    jobs = [local_jobs.Touch(tmp_path / f"{i}", first=True, error=OutputError("disk full")) for i in range(9)]
    with pytest.raises(OutputError, match="disk full"):
        run_jobs(local_jobs.touch, jobs, num_processes)
    assert len(list(tmp_path.iterdir())) <= num_processes  # what was running is finished; nothing new is begun


def test_a_result_that_cannot_be_sent_is_a_failure():
    with pytest.raises(JobsFailedError, match="cannot be sent back"):
        run_jobs(local_jobs.make_lambda, [0, 1], num_processes=2)


def test_num_processes_must_be_positive():
    with pytest.raises(ConfigError, match="num_processes is 0; it must be at least 1"):
        run_jobs(local_jobs.power, [1], num_processes=0)
