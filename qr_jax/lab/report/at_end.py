"""A run's report, written at its end."""

from pathlib import Path

from qr_jax.lab import null_control
from qr_jax.lab.report import charts, page
from qr_jax.run import runs


def write(run: runs.Run) -> Path:
    """Write the run's report, beside the null control if it can be played, and return its file."""
    null = null_control.null_or_reason(run.folder, runs.kinds, points=charts.RATE_BINS, own=True)
    if "reason" in null:
        run.detail(null["reason"])
    return page.write(run.folder, null=null)
