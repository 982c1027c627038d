"""Tells an exception in the terms of a `GuestError`."""

import sys
import traceback

# Causes beyond these are told in the stack's text only.
_MAX_INNER = 8


def describe(error, prefix):
    """None for a cancellation, else a tuple of type, message, stack, code,
    help, url and a list of such tuples for the causes."""
    menagerie = sys.modules["menagerie"]
    if isinstance(error, menagerie.Cancelled):
        return None
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and isinstance(error, asyncio.CancelledError):
        return None
    return _describe(error, prefix + ".", _MAX_INNER)


def _describe(error, prefix, depth):
    inner = []
    if depth > 0:
        if isinstance(error, BaseExceptionGroup):
            inner = list(error.exceptions[:_MAX_INNER])
        elif error.__cause__ is not None:
            inner = [error.__cause__]
        elif error.__context__ is not None and not error.__suppress_context__:
            inner = [error.__context__]
    return (
        _type_name(type(error), prefix),
        _text(error).replace(prefix, ""),
        _stack(error).replace(prefix, ""),
        _attribute(error, "code"),
        _attribute(error, "help"),
        _attribute(error, "url"),
        _remote(error) + [_describe(cause, prefix, depth - 1) for cause in inner],
    )


def _remote(error):
    """The error of the callee that a `CallError` carries, in a list, or none."""
    menagerie = sys.modules["menagerie"]
    if not isinstance(error, menagerie.CallError):
        return []
    return [_told(error.remote)] if isinstance(error.remote, menagerie.RemoteError) else []


def _told(remote):
    """It came as such a tuple."""
    return (
        remote.type,
        remote.message,
        remote.stack,
        remote.code,
        remote.help,
        remote.url,
        [_told(cause) for cause in remote.causes],
    )


def _type_name(kind, prefix):
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix(prefix)


def _text(error):
    try:
        return str(error)
    except Exception as again:
        return f"<its __str__ raised {type(again).__name__}>"


def _stack(error):
    try:
        told = traceback.TracebackException.from_exception(error, compact=True)
        _hide_ourselves(told, set())
        return "".join(told.format())
    except Exception as again:
        return f"{type(error).__name__} (formatting its stack raised {type(again).__name__})"


def _hide_ourselves(told, seen):
    """Removes the frames of the worker and of the import machinery."""
    if told is None or id(told) in seen:
        return
    seen.add(id(told))
    ours = ("<menagerie>", "<frozen importlib")
    told.stack[:] = [frame for frame in told.stack if not frame.filename.startswith(ours)]
    _hide_ourselves(told.__cause__, seen)
    _hide_ourselves(told.__context__, seen)
    for part in getattr(told, "exceptions", None) or ():
        _hide_ourselves(part, seen)


def _attribute(error, name):
    try:
        value = getattr(error, name, None)
    except Exception:
        return None
    return value if isinstance(value, str) else None
