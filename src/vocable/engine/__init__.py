"""A map over jobs: in this process, or over processes of this machine."""

from vocable.engine.local import JobsFailedError, run_jobs

__all__ = ["JobsFailedError", "run_jobs"]
