"""Numbers of the programs in the pods, taken from their text: they are no modules of ours."""

from __future__ import annotations

import ast
from pathlib import Path

_PROGRAMS = Path(__file__).parent / "programs"


def read_number(program: str, name: str) -> int:
    """The integer that a program gives to ``name`` at its top; KeyError when it does not."""
    for statement in ast.parse((_PROGRAMS / program).read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            return int(ast.literal_eval(statement.value))
    raise KeyError(name)


BLOCK_COUNT = read_number("blocks.py", "BLOCKS")
