"""Greets people."""

import menagerie


@menagerie.export("greeter@1")
def greet(name: str) -> str:
    return f"Hello, {name}"


@menagerie.export("greeter@1")
def greet_all(names: list[str]) -> list[str]:
    return [greet(name) for name in names]
