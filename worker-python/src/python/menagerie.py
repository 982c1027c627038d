"""What a bundle written in Python sees of Menagerie.

    import menagerie

    @menagerie.export("greeter@1")
    def greet(name: str) -> str:
        return f"Hello, {name}"
"""

import _menagerie

__all__ = [
    "CallError", "Cancelled", "Context", "RemoteError", "call", "call_async", "export", "log",
]


class RemoteError:
    """What the callee's own code raised, in its own words.

    `code`, `help` and `url` are None where it gave none; `causes` are such
    errors too, outermost first.
    """

    __slots__ = ("type", "message", "stack", "code", "help", "url", "causes")

    def __init__(self, type, message, stack="", code=None, help=None, url=None, causes=()):
        self.type = type
        self.message = message
        self.stack = stack
        self.code = code
        self.help = help
        self.url = url
        self.causes = list(causes)


class CallError(Exception):
    """A call to another contract that ended without a value.

    `kind` says how: "Guest" for an error that the callee's own code raised,
    else the failure's name, such as "NoSuchContract" or "DeadlineExceeded".
    For "Guest", `remote` is that error, a `RemoteError`, and `remote_type`,
    `remote_message` and `remote_stack` are its; otherwise they are None. Who
    lets it through passes it on, as the cause of this one.
    """

    def __init__(self, kind, message, remote=None):
        super().__init__(message)
        self.kind = kind
        self.code = kind
        self.message = message
        self.remote = remote
        self.remote_type = None if remote is None else remote.type
        self.remote_message = None if remote is None else remote.message
        self.remote_stack = None if remote is None else remote.stack


class Cancelled(BaseException):
    """Raised in a call whose caller gave up, or whose deadline passed.

    Like KeyboardInterrupt it is no Exception, so that `except Exception` does
    not stop it on its way out.
    """


class Context:
    """What `on_load` is given. `dir` is the bundle's folder, or None if the bundle came
    from memory."""

    __slots__ = ("bundle", "generation", "state", "dir")

    def __init__(self, bundle, generation, state, dir):
        self.bundle = bundle
        self.generation = generation
        self.state = state
        self.dir = dir


def export(contract):
    """Exports the decorated function, under its own name, as part of `contract`."""
    if not isinstance(contract, str):
        raise TypeError('export takes the contract\'s name: @menagerie.export("name@1")')

    def register(function):
        _menagerie.export(contract, function.__name__, function)
        return function

    return register


def call(contract, function, *args):
    """Calls a function of another bundle's contract, or the host's, and waits."""
    return _menagerie.call(contract, function, args)


def call_async(contract, function, *args):
    """Begins such a call, and returns a future of the running event loop."""
    return _menagerie.internal("tasks").call(contract, function, args)


def log(level, message):
    """Writes to the bundle's log; `level` is trace, debug, info, warn or error."""
    _menagerie.log(level, "log", str(message))
