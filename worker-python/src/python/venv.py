"""Puts a virtual environment's packages in front of the interpreter's own."""

import os
import site
import sys


def activate(folder):
    """None, or a sentence that says why the environment cannot be used."""
    config = os.path.join(folder, "pyvenv.cfg")
    if not os.path.isfile(config):
        return f"{folder} is no virtual environment: it has no pyvenv.cfg"
    settings = {}
    with open(config, encoding="utf-8") as lines:
        for line in lines:
            key, equals, value = line.partition("=")
            if equals:
                settings[key.strip().lower()] = value.strip()
    ours = "{}.{}".format(*sys.version_info[:2])
    written = settings.get("version_info") or settings.get("version") or ""
    theirs = ".".join(written.split(".")[:2])
    if theirs and theirs != ours:
        return (
            f"the virtual environment {folder} was made by Python {theirs}, and this worker "
            f"is built with Python {ours}"
        )
    packages = os.path.join(folder, "lib", f"python{ours}", "site-packages")
    if not os.path.isdir(packages):
        return f"the virtual environment {folder} has no {packages}"

    own = set(site.getsitepackages())
    if site.ENABLE_USER_SITE:
        own.add(site.getusersitepackages())
    before = list(sys.path)
    site.addsitedir(packages)
    added = [entry for entry in sys.path if entry not in before]
    rest = [entry for entry in before if entry not in own]
    if settings.get("include-system-site-packages", "false").lower() == "true":
        added += [entry for entry in before if entry in own]
    sys.path[:] = rest + added
    sys.prefix = sys.exec_prefix = folder
    return None
