"""Processes of our own: they import what this one does, wherever they are started.

``python -m`` and ``python -c`` look for modules in the current folder first: a ``numpy.py`` there
would be run, and in a checkout our own sources would be taken for the installed package. So a child
gets the import path of its parent before it imports anything. ``PYTHONHOME`` and the like are
left as they are. (``-P`` would do a part of it, but not on Python 3.10.)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from scope_cpp.errors import ScopeError

# argv: number of folders, the folders, module or file, its arguments
_START = (
    "import sys; n = int(sys.argv[1]) + 2; sys.path[:] = sys.argv[2:n]; del sys.argv[1:n]; "
    "import runpy; runpy."
)
_MODULE = _START + "run_module(sys.argv.pop(1), None, '__main__', True)"
_FILE = _START + "run_path(sys.argv.pop(1), None, '__main__')"

# attributes of sys.flags, and the switches that set them
_SWITCHES = {
    "isolated": "-I",
    "ignore_environment": "-E",
    "no_user_site": "-s",
    "no_site": "-S",
}


def command(target: str | Path, *args: object, site: bool = True) -> list[str]:
    """Return the command line of a child that runs a module, or a file, as its main program.

    Parameters
    ----------
    target
        Name of a module, or path of a Python file.
    args
        Its arguments.
    site
        Whether Python's site module runs there too; without it the start is faster.

    Raises
    ------
    ScopeError
        If Python does not know where it is itself.
    """
    if not sys.executable:
        raise ScopeError("this Python does not know its own path: it can't start a process")
    switches = [switch for name, switch in _SWITCHES.items() if getattr(sys.flags, name)]
    if not site and "-S" not in switches:
        switches.append("-S")
    path = [os.path.abspath(folder) for folder in sys.path]
    start = _FILE if isinstance(target, Path) else _MODULE
    words: Sequence[object] = (len(path), *path, target, *args)
    return [sys.executable, *switches, "-c", start, *map(str, words)]
