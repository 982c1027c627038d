"""Tries what a hostile bundle might, and tells what came of it."""

import ctypes
import errno
import fcntl
import os
import pathlib
import resource
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading

import menagerie

HERE = pathlib.Path(__file__).parent
LIBC = ctypes.CDLL(None, use_errno=True)
HOST = os.getppid()


def syscall(number, *args):
    result = LIBC.syscall(number, *args)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def read(path):
    with open(path, "rb") as file:
        return file.read(1) and "read"


def append(path):
    with open(path, "ab") as file:
        file.write(b"x")
    return "written"


def make(path):
    with open(path, "xb"):
        return "made"


def connect(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(path)
    return "connected"


def pair(kind):
    family, kind = map(int, kind.split())
    one, other = socket.socketpair(family, kind)
    return "a pair"


def is_socket(number):
    try:
        return stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError:
        return False


def by_own_sockets(path):
    """Sends to another program's socket by each that the worker's process has."""
    outcomes = set()
    for number in filter(is_socket, map(int, os.listdir("/proc/self/fd"))):
        with socket.socket(fileno=os.dup(number)) as one:
            try:
                one.sendto(b"x", socket.MSG_DONTWAIT, path)
                outcomes.add("sent")
            except OSError as error:
                outcomes.add(errno.errorcode[error.errno])
    return " ".join(sorted(outcomes))


def stream(_):
    one, other = socket.socketpair()
    one.sendall(b"x")
    return other.recv(1).decode()


def internet(_):
    with socket.socket(socket.AF_INET), socket.socket(socket.AF_INET6):
        return "sockets"


def raw(_):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP):
        return "a raw socket"


def tcp(port):
    with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as one:
        return one.recv(5).decode()


def in_thread(path):
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(attempt("read " + path)))
    thread.start()
    thread.join()
    return outcome[0]


def in_child(path):
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(theirs, attempt("read " + path).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    return os.read(ours, 100).decode()


def from_memory(_):
    """Executes a program that has no path."""
    memory = os.memfd_create("program")
    os.write(memory, b"#!/bin/sh\n")
    os.execve(memory, ["program"], {})


def temporary(_):
    with tempfile.NamedTemporaryFile(dir=None) as file:
        file.write(b"x")
        inside = pathlib.Path(file.name).parent == pathlib.Path.cwd()
    shutil.rmtree(tempfile.mkdtemp())
    return "in its scratch folder" if inside else file.name


def own(name):
    return read(HERE / (name or "main.py"))


def lower(_):
    resource.prlimit(HOST, resource.RLIMIT_NOFILE, (0, 0))


def own_limits(_):
    return resource.prlimit(0, resource.RLIMIT_NOFILE) and "told"


def link(paths):
    target, name = paths.split()
    os.symlink(target, name)
    return "linked"


def lease(path):
    with open(path, "rb") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    return "leased"


def attributes(what):
    path, command = what.split()
    with open(path, "rb") as file:
        fcntl.ioctl(file, int(command, 16), bytes(8))
    return "changed"


def call(numbers):
    """A system call by its number, with the arguments after it and else zeros."""
    number, *args = map(int, numbers.split())
    return syscall(number, *args, *[0] * (6 - len(args)))


WAYS = {
    "lease": lease,
    "attributes": attributes,
    "sibling": lambda number: syscall(int(number), 0x8000 | signal.SIGCHLD, 0, 0, 0, 0),
    "read": read,
    "append": append,
    "make": make,
    "remove": os.remove,
    "list": lambda path: os.listdir(path) and "listed",
    "chmod": lambda path: os.chmod(path, 0o777),
    "touch": lambda path: os.utime(path),
    "truncate": lambda path: os.truncate(path, 0),
    "xattrs": os.listxattr,
    "link": link,
    "connect": connect,
    "pair": pair,
    "by_own_sockets": by_own_sockets,
    "stream": stream,
    "internet": internet,
    "raw": raw,
    "tcp": tcp,
    "in_thread": in_thread,
    "in_child": in_child,
    "execute": lambda path: subprocess.run([path], check=True) and "executed",
    "from_memory": from_memory,
    "temporary": temporary,
    "own": own,
    "signal": lambda name: os.kill(HOST, getattr(signal, name)),
    "lower": lower,
    "own_limits": own_limits,
    "pin": lambda _: os.sched_setaffinity(HOST, {0}),
    "nice": lambda _: os.setpriority(os.PRIO_PROCESS, HOST, 19),
    "call": call,
    "namespace": lambda number: syscall(int(number), 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0),
}


@menagerie.export("spy@1")
def attempt(what: str):
    way, _, argument = what.partition(" ")
    try:
        return str(WAYS[way](argument))
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
