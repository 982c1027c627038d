"""The end of a process that a bundle has forked, and whose code came back to the
worker: it is a copy of the worker, and must not go on as a second one."""

import os
import sys
import traceback


def end(error):
    """Ends it as a script ends: by its exit status, or with a traceback."""
    status = 1
    try:
        if isinstance(error, SystemExit):
            if error.code is None or isinstance(error.code, int):
                status = (error.code or 0) & 0xFF
            else:
                print(error.code, file=sys.stderr)
        elif error is not None:
            traceback.print_exception(error)
        else:
            text = "came back from the function that had forked it, and was ended: use os._exit"
            print(f"the forked process {os.getpid()} {text}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)
