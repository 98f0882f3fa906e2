"""Formats errors in one line, for the log."""

from __future__ import annotations

from pagemerge.linux.text import plain


def told(error: BaseException) -> str:
    """Format an error in one line: its class, its message, and where it was raised."""
    trace, where = error.__traceback__, ""
    while trace is not None:
        code = trace.tb_frame.f_code
        where = f" ({code.co_filename.rpartition('/')[2]}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return f"{type(error).__name__}: {plain(str(error), 300)}{where}"
