"""`sys.stdout` and `sys.stderr`, line by line into the log of the bundle that
writes. `sys.__stdout__` and `sys.__stderr__` stay the process's own."""

import _menagerie
import io
import sys


class _Bytes(io.RawIOBase):
    """What `sys.stdout.buffer` is."""

    def __init__(self, text):
        self._text = text

    def writable(self):
        return True

    def write(self, data):
        data = bytes(data)
        self._text.write(data.decode("utf-8", "replace"))
        return len(data)

    def flush(self):
        self._text.flush()


class _Stream(io.TextIOBase):
    encoding = "utf-8"
    # For lone surrogates, which no log can hold.
    errors = "backslashreplace"
    newlines = None

    def __init__(self, name, fd):
        self.name = f"<{name}>"
        self.mode = "w"
        self._which = fd - 1
        self._fd = fd
        self.buffer = _Bytes(self)

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        _menagerie.write(self._which, text)
        return len(text)

    def flush(self):
        _menagerie.flush(self._which)

    def close(self):
        """It stays open: other bundles write to it as well."""

    def writable(self):
        return True

    def isatty(self):
        return False

    def fileno(self):
        return self._fd


sys.stdout = _Stream("stdout", 1)
sys.stderr = _Stream("stderr", 2)
