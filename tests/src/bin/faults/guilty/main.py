"""Commits every fault that Python can."""

import ctypes
import os
import signal
import socket
import sys
import threading
import time

import menagerie

WHEN = "never"

if WHEN == "init":
    os.abort()


def on_unload() -> None:
    if WHEN == "unload":
        os.abort()


def stack() -> None:
    sys.setrecursionlimit(1 << 30)

    def deeper() -> None:
        return [deeper() for _ in range(1)][0]

    deeper()


def thread() -> None:
    def raises() -> None:
        raise RuntimeError("in a thread")

    other = threading.Thread(target=raises)
    other.start()
    other.join()


def memory() -> None:
    kept = []
    while True:
        kept.append(b"x" * (16 << 20))


def spin() -> None:
    while True:
        pass


def deadlock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def garbage() -> None:
    for fd in range(3, 256):
        try:
            connection = socket.socket(fileno=os.dup(fd))
            connection.send(b"\xee" * 256, socket.MSG_DONTWAIT)
        except OSError:
            pass


def fork() -> None:
    if os.fork() == 0:
        time.sleep(3)
        os._exit(0)
    os._exit(1)


def stderr() -> None:
    line = b"x" * 65535 + b"\n"
    for _ in range(1600):
        os.write(2, line)


FAULTS = {
    "null": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "stack": stack,
    "exit0": lambda: os._exit(0),
    "exit1": lambda: os._exit(1),
    "thread": thread,
    "memory": memory,
    "spin": spin,
    "deadlock": deadlock,
    "sleep": lambda: time.sleep(600),
    "close": lambda: os.closerange(0, 1024),
    "garbage": garbage,
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "fork": fork,
    "stderr": stderr,
}


@menagerie.export("guilty@1")
def commit(fault: str) -> None:
    FAULTS[fault]()


@menagerie.export("guilty@1")
def inc(n: int) -> int:
    return n + 1
