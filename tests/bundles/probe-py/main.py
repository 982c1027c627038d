"""Does what a plugin may do, the bad things too, so that tests can watch."""

import asyncio
import logging
import os
import sys
from typing import Any

import menagerie

_given: Any = None
_kept: Any = None
_dir: str | None = None


def on_load(context: menagerie.Context) -> None:
    global _given, _dir
    _given = context.state
    _dir = context.dir


def on_unload() -> Any:
    return _kept


@menagerie.export("probe@1")
def inc(n: int) -> int:
    return n + 1


@menagerie.export("probe@1")
def echo(value: Any) -> Any:
    return value


@menagerie.export("probe@1")
def fail(message: str) -> None:
    raise ValueError(message)


@menagerie.export("probe@1")
def crash() -> None:
    os.abort()


@menagerie.export("probe@1")
def spin() -> None:
    while True:
        pass


@menagerie.export("probe@1")
async def sleep_ms(n: int) -> None:
    await asyncio.sleep(n / 1000)


@menagerie.export("probe@1")
def null() -> None:
    pass


@menagerie.export("probe@1")
def blob(n: int) -> bytes:
    return b"\xab" * n


@menagerie.export("probe@1")
def call(contract: str, function: str, args: list) -> Any:
    return menagerie.call(contract, function, *args)


@menagerie.export("probe@1")
def caught(contract: str, function: str, args: list) -> Any:
    """How the call failed, or None if it did not."""
    try:
        menagerie.call(contract, function, *args)
    except menagerie.CallError as error:
        return error.kind
    return None


@menagerie.export("probe@1")
def state() -> Any:
    return _given


@menagerie.export("probe@1")
def dir() -> str | None:
    return _dir


@menagerie.export("probe@1")
def set_state(value: Any) -> None:
    global _kept
    _kept = value


@menagerie.export("probe@1")
def misfit() -> Any:
    # A result that cannot leave.
    return object()


@menagerie.export("probe@1")
def say(text: str) -> None:
    print(text, "on stdout")
    print(text, "on stderr", file=sys.stderr)
    logging.getLogger("probe").error("%s by logging", text)
    menagerie.log("warn", f"{text} in the log")
