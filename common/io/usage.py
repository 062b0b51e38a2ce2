"""What a run cost, for `run.jsonl`."""

import sys


def peak_mib() -> int | None:
    """The process's largest memory so far in MiB; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 2**20 if sys.platform == "darwin" else peak / 2**10)
