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

# What every exception has, whatever a class of the guest's makes of the attribute.
_cause = BaseException.__cause__.__get__
_context = BaseException.__context__.__get__
_is_suppressed = BaseException.__suppress_context__.__get__
_traceback = BaseException.__traceback__.__get__
_parts = BaseExceptionGroup.exceptions.__get__
_module = type.__dict__["__module__"].__get__
_qualname = type.__dict__["__qualname__"].__get__


def describe(error, prefix):
    """None for a cancellation, else a tuple of type, message, stack, code,
    help, url and a list of such tuples for the causes."""
    # Another thread may just be importing it, and has not come to this name.
    asyncio_cancelled = getattr(sys.modules.get("asyncio"), "CancelledError", ())
    if _is(error, asyncio_cancelled) or _is_cancelled(error):
        return None
    return _Teller(prefix + ".").tell(error, _MAX_DEPTH)


def _is(error, kind):
    """`isinstance`, by what it is and not by what it says that it is."""
    return issubclass(type(error), kind)


def _guarded(default, tell, *args):
    """One part of an error. The guest's code may run in there, and raise anything; the
    other parts are told nevertheless, unless the call was asked to stop."""
    try:
        return tell(*args)
    except sys.modules["menagerie"].Cancelled:
        raise
    except BaseException:
        return default


def _is_cancelled(error):
    """Whether it is a `menagerie.Cancelled`, or a group with one: of a task group, one of
    whose tasks was stopped."""
    left, seen = [error], set()
    while left:
        error = left.pop()
        if _is(error, sys.modules["menagerie"].Cancelled):
            return True
        if _is(error, BaseExceptionGroup) and id(error) not in seen:
            seen.add(id(error))
            left.extend(_parts(error))
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
        if _is(error, sys.modules["menagerie"].CallError):
            # The callee's error, in its own words.
            self._causes(told, [_guarded(None, getattr, error, "remote")], self._pass_on, depth)
        self._causes(told, _causes(error), self.tell, depth)
        return told

    def _pass_on(self, remote, depth):
        def text(name):
            return _guarded("", lambda: _plain(getattr(remote, name)))

        told = (
            _shorten(text("type"), _MAX_NAME),
            self._cut(text("message")),
            self._cut_front(text("stack")),
            self._attribute(remote, "code"),
            self._attribute(remote, "help"),
            self._attribute(remote, "url"),
            [],
        )
        causes = _guarded((), lambda: list(remote.causes))
        self._causes(told, causes, self._pass_on, depth)
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
        value = _guarded(None, getattr, error, name, None)
        if name == "code" and _is(value, int):
            value = _guarded(None, str, value) or _guarded(None, int.__repr__, value)
        return self._cut(_plain(value)) if _is(value, str) else None


def _shorten(text, length):
    return text if len(text) <= length else text[:length] + _CUT


def _plain(text):
    """A str as it is, whatever a class of the guest's makes of its methods."""
    return str.__str__(text)


def _causes(error):
    """What it is told to come from; what it carries, if it is a group."""
    if _is(error, BaseExceptionGroup):
        return _parts(error)
    if _cause(error) is not None:
        return (_cause(error),)
    return () if _is_suppressed(error) else (_context(error),)


def _type_name(kind, prefix):
    # It may be gone, or anything.
    module = _guarded(None, lambda: _plain(_module(kind)))
    if module in (None, "builtins", "__main__"):
        return _qualname(kind)
    return f"{module}.{_qualname(kind)}".removeprefix(prefix)


def _text(error):
    try:
        return _plain(str(error))
    except sys.modules["menagerie"].Cancelled:
        raise
    except BaseException as again:
        return f"<its __str__ raised {_qualname(type(again))}>"


def _stack(error, length):
    """As the interpreter prints it, with what it comes from if that are not too many; of
    each message the first."""
    if _are_few(error):
        stack = _guarded(None, _whole_stack, error, length)
        if stack is not None:
            return stack
    # `TracebackException` would look at all of them, at shared ones again and again; or
    # one of the guest's attributes raised.
    last = f"{_type_name(type(error), '')}: {_shorten(_text(error), length)}\n"
    frames = _guarded((), _frames, error)
    return "".join(["Traceback (most recent call last):\n", *frames, last])


def _whole_stack(error, length):
    told = traceback.TracebackException.from_exception(error, compact=True)
    _prepare(told, length, set())
    return "".join(told.format())


def _frames(error):
    frames = traceback.extract_tb(_traceback(error))
    return traceback.format_list([frame for frame in frames if _is_theirs(frame)])


def _are_few(error):
    """Whether `TracebackException` would tell no more than `_MAX_ERRORS` errors."""
    seen, left, count = {id(error)}, [error], 0
    while left:
        error = left.pop()
        count += 1
        if count > _MAX_ERRORS:
            return False
        for other in (_cause(error), _context(error)):
            if other is not None and id(other) not in seen:
                seen.add(id(other))
                left.append(other)
        if _is(error, BaseExceptionGroup):
            left.extend(_parts(error)[:_MAX_ERRORS])
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
