"""What the bundle {{name}} does."""

import menagerie


@menagerie.export("{{name}}@1")
def greet(name: str) -> str:
    return f"Hello, {name}"


@menagerie.export("{{name}}@1")
def add(a: int, b: int) -> int:
    return a + b
