"""What an exported function takes, told once, when its bundle is loaded."""

import sys
import types
from collections import abc

# The bits are those of `Kinds` in function.rs.
NONE, BOOL, INT, FLOAT, STR, BYTES, LIST, MAP = (1 << n for n in range(8))
ANY = 255

_KINDS = {
    None: NONE,
    type(None): NONE,
    bool: BOOL,
    int: INT,
    float: FLOAT | INT,
    str: STR,
    bytes: BYTES,
    bytearray: BYTES,
    memoryview: BYTES,
    list: LIST,
    tuple: LIST,
    dict: MAP,
    abc.Mapping: MAP,
    abc.MutableMapping: MAP,
    abc.MutableSequence: LIST,
    abc.Sequence: LIST | STR | BYTES,
    abc.Collection: LIST | STR | BYTES | MAP,
    abc.Iterable: LIST | STR | BYTES | MAP,
}


def describe(function):
    """The least and the most number of arguments (-1 for any), and for each
    parameter its name and the kinds that it takes; a `*args` comes last."""
    parameters = _plain(function) if type(function) is types.FunctionType else None
    if parameters is None:
        parameters = _inspected(function)
    space = getattr(function, "__globals__", {})
    least, most, told = 0, 0, []
    for name, annotation, required, rest in parameters:
        told.append((name, _kinds(annotation, space) if annotation is not _NOTHING else ANY))
        if rest:
            most = -1
        else:
            most += 1
            least += required
    return least, most, told


_NOTHING = object()


def _plain(function):
    """The parameters of an ordinary function, without importing `inspect`."""
    if hasattr(function, "__wrapped__") or hasattr(function, "__signature__"):
        return None
    code = function.__code__
    annotations = _annotations(function)
    keyword_only = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    for name in keyword_only:
        if name not in (function.__kwdefaults__ or {}):
            raise _keyword_only(function, name)
    required = code.co_argcount - len(function.__defaults__ or ())
    parameters = [
        (name, annotations.get(name, _NOTHING), index < required, False)
        for index, name in enumerate(code.co_varnames[: code.co_argcount])
    ]
    if code.co_flags & 0x04:  # CO_VARARGS
        name = code.co_varnames[code.co_argcount + code.co_kwonlyargcount]
        parameters.append((name, annotations.get(name, _NOTHING), False, True))
    return parameters


def _inspected(function):
    """The parameters of whatever else can be called."""
    import inspect

    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return [("args", _NOTHING, False, True)]
    parameters = []
    for parameter in signature.parameters.values():
        required = parameter.default is parameter.empty
        annotation = parameter.annotation
        if annotation is parameter.empty:
            annotation = _NOTHING
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            parameters.append((parameter.name, annotation, required, False))
        elif parameter.kind is parameter.VAR_POSITIONAL:
            parameters.append((parameter.name, annotation, False, True))
        elif parameter.kind is parameter.KEYWORD_ONLY and required:
            raise _keyword_only(function, parameter.name)
    return parameters


def _keyword_only(function, name):
    return TypeError(
        f"{function.__name__}() cannot be exported: its argument {name!r} can only be given by "
        "keyword, and calls of a contract give arguments by position"
    )


def _annotations(function):
    try:
        return function.__annotations__
    except Exception:
        # From Python 3.14 on they are evaluated here, and may name things that
        # exist for type checkers only.
        return {}


def _kinds(annotation, space):
    """The kinds that an annotation admits: whatever is not understood, any."""
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, space)
        except Exception:
            return ANY
    try:
        if annotation in _KINDS:
            return _KINDS[annotation]
    except TypeError:
        return ANY
    origin = getattr(annotation, "__origin__", None)
    typing = sys.modules.get("typing")
    is_union = isinstance(annotation, types.UnionType)
    if is_union or (typing is not None and origin is typing.Union):
        kinds = 0
        for part in annotation.__args__:
            kinds |= _kinds(part, space)
        return kinds
    if origin is not None:
        return _kinds(origin, space)
    supertype = getattr(annotation, "__supertype__", None)  # typing.NewType
    return ANY if supertype is None else _kinds(supertype, space)
