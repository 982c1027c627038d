"""Python's own way: a process of multiprocessing, and a pipe to it.

Reads lines `null|echo LENGTH BATCHES BATCH`, answers with nanoseconds a call.
"""

import multiprocessing
import sys
import time


def serve(pipe):
    functions = {"null": lambda: None, "echo": lambda data: data}
    while True:
        try:
            name, args = pipe.recv()
        except EOFError:
            return
        pipe.send(functions[name](*args))


def main():
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    context.Process(target=serve, args=(theirs,), daemon=True).start()
    for line in sys.stdin:
        name, length, batches, batch = line.split()
        data = b"\x5a" * int(length)
        args = (data,) if name == "echo" else ()
        expected = data if name == "echo" else None
        times = []
        for _ in range(int(batches)):
            started = time.perf_counter_ns()
            for _ in range(int(batch)):
                ours.send((name, args))
                answer = ours.recv()
            times.append((time.perf_counter_ns() - started) / int(batch))
            assert answer == expected
        print(*times, flush=True)


main()
