"""Tells an exception in the terms of a `GuestError`."""

import sys
import traceback

# Causes of causes beyond these are told in the stack's text only.
_MAX_DEPTH = 8
# How many errors are told in all: some are their own causes, in more than one way at
# each level.
_MAX_ERRORS = 64
# How many characters of text an error takes in all, about.
_MAX_TEXT = 1 << 20
_MAX_NAME = 1 << 10
# What stands for the rest.
_CUT = "… (too large to be told whole)"


def describe(error, prefix):
    """None for a cancellation, else a tuple of type, message, stack, code,
    help, url and a list of such tuples for the causes."""
    # Another thread may just be importing it, and has not come to this name.
    asyncio_cancelled = getattr(sys.modules.get("asyncio"), "CancelledError", ())
    if isinstance(error, asyncio_cancelled) or _is_cancelled(error):
        return None
    return _Teller(prefix + ".").tell(error, _MAX_DEPTH)


def _is_cancelled(error):
    """Whether it is a `menagerie.Cancelled`, or a group with one: of a task group, one of
    whose tasks was stopped."""
    left, seen = [error], set()
    while left:
        error = left.pop()
        if isinstance(error, sys.modules["menagerie"].Cancelled):
            return True
        if isinstance(error, BaseExceptionGroup) and id(error) not in seen:
            seen.add(id(error))
            left.extend(error.exceptions)
    return False


class _Teller:
    def __init__(self, prefix):
        self._prefix = prefix
        self._errors = _MAX_ERRORS - 1
        self._text = _MAX_TEXT

    def tell(self, error, depth):
        told = (
            _shorten(_type_name(type(error), self._prefix), _MAX_NAME),
            self._cut(self._own(_text(error))),
            self._cut_front(self._own(_stack(error, self._text // 16))),
            self._attribute(error, "code"),
            self._attribute(error, "help"),
            self._attribute(error, "url"),
            [],
        )
        if isinstance(error, sys.modules["menagerie"].CallError):
            # The callee's error, in its own words.
            self._causes(told, [error.remote], self._pass_on, depth)
        self._causes(told, _causes(error), self.tell, depth)
        return told

    def _pass_on(self, remote, depth):
        told = (
            _shorten(remote.type, _MAX_NAME),
            self._cut(remote.message),
            self._cut_front(remote.stack),
            self._attribute(remote, "code"),
            self._attribute(remote, "help"),
            self._attribute(remote, "url"),
            [],
        )
        self._causes(told, remote.causes, self._pass_on, depth)
        return told

    def _causes(self, told, causes, tell, depth):
        for cause in causes if depth > 0 else ():
            if cause is None or self._errors == 0:
                break
            self._errors -= 1
            told[-1].append(tell(cause, depth - 1))

    def _own(self, text):
        """Without the package's name, which is ours."""
        return text.replace(self._prefix, "")

    def _cut(self, text):
        """The first of it. A text takes half of what is left, so that there is some for
        the causes."""
        text = _shorten(text, self._text // 2)
        self._text = max(self._text - len(text), 0)
        return text

    def _cut_front(self, stack):
        """The last of it, which is where the error was raised."""
        if len(stack) > self._text // 2:
            stack = "…" + stack[len(stack) - self._text // 2 :]
        self._text = max(self._text - len(stack), 0)
        return stack

    def _attribute(self, error, name):
        try:
            value = getattr(error, name, None)
        except Exception:
            return None
        if name == "code" and isinstance(value, int):
            value = str(value)
        return self._cut(value) if isinstance(value, str) else None


def _shorten(text, length):
    return text if len(text) <= length else text[:length] + _CUT


def _causes(error):
    """What it is told to come from; what it carries, if it is a group."""
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions
    if error.__cause__ is not None:
        return (error.__cause__,)
    return () if error.__suppress_context__ else (error.__context__,)


def _type_name(kind, prefix):
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix(prefix)


def _text(error):
    try:
        return str(error)
    except Exception as again:
        return f"<its __str__ raised {type(again).__name__}>"


def _stack(error, length):
    """As the interpreter prints it, with what it comes from if that are not too many; of
    each message the first."""
    try:
        if _are_few(error):
            told = traceback.TracebackException.from_exception(error, compact=True)
            _prepare(told, length, set())
            return "".join(told.format())
        # `TracebackException` would look at all of them, at shared ones again and again.
        frames = traceback.extract_tb(error.__traceback__)
        lines = traceback.format_list([frame for frame in frames if _is_theirs(frame)])
        last = f"{_type_name(type(error), '')}: {_shorten(_text(error), length)}\n"
        return "".join(["Traceback (most recent call last):\n", *lines, last])
    except Exception as again:
        return f"{type(error).__name__} (formatting its stack raised {type(again).__name__})"


def _are_few(error):
    """Whether `TracebackException` would tell no more than `_MAX_ERRORS` errors."""
    seen, left, count = {id(error)}, [error], 0
    while left:
        error = left.pop()
        count += 1
        if count > _MAX_ERRORS:
            return False
        for other in (error.__cause__, error.__context__):
            if other is not None and id(other) not in seen:
                seen.add(id(other))
                left.append(other)
        if isinstance(error, BaseExceptionGroup):
            left.extend(error.exceptions[:_MAX_ERRORS])
    return True


def _prepare(told, length, seen):
    """Removes the frames of the worker and of the import machinery, and cuts messages."""
    if told is None or id(told) in seen:
        return
    seen.add(id(told))
    told.stack[:] = [frame for frame in told.stack if _is_theirs(frame)]
    # Not public, and in every version so far.
    if isinstance(getattr(told, "_str", None), str):
        told._str = _shorten(told._str, length)
    _prepare(told.__cause__, length, seen)
    _prepare(told.__context__, length, seen)
    for part in getattr(told, "exceptions", None) or ():
        _prepare(part, length, seen)


def _is_theirs(frame):
    return not frame.filename.startswith(("<menagerie>", "<frozen importlib"))
