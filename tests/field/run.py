#!/usr/bin/env python3
"""Runs the cases of this folder: inputs that spreadsheets, phones, browsers and WhatsApp really produce.

    cargo build
    tests/field/run.py [part of a name …]

Each file holds one kind of input; each function `case_…` is a case. A file with `SETTINGS` runs on a node of its own with
these environment variables; the others share one. The binary is `$RELEVO_BIN`, or `target/debug/relevo`. Exits with 1
when a case fails. Python 3.11 or newer, nothing but its library.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

from world import Failure, World, new_world

FOLDER = Path(__file__).parent
NOT_CASES = {"run", "world"}


def cases_of(module: ModuleType, wanted: list[str]) -> list[str]:
    names = [name for name in vars(module) if name.startswith("case_")]
    full = {name: f"{module.__name__}.{name.removeprefix('case_')}" for name in names}
    return [name for name in names if not wanted or any(part in full[name] for part in wanted)]


def run_module(module: ModuleType, names: list[str], world: World) -> list[str]:
    """Runs the cases of a file. Returns the names of those that failed."""
    failed = []
    for name in names:
        title = f"{module.__name__}.{name.removeprefix('case_')}"
        try:
            getattr(module, name)(world)
            print(f"ok     {title}", flush=True)
        except Failure as failure:
            print(f"FAILED {title}: {failure}", flush=True)
            failed.append(title)
        except Exception:  # Any exception is a failed case.
            print(f"FAILED {title}\n{traceback.format_exc()}", flush=True)
            failed.append(title)
    return failed


def main(wanted: list[str]) -> int:
    binary = Path(os.environ.get("RELEVO_BIN", "target/debug/relevo")).absolute()
    stems = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in NOT_CASES)
    modules = [importlib.import_module(stem) for stem in stems]
    chosen = {module: names for module in modules if (names := cases_of(module, wanted))}
    failed: list[str] = []
    shared = [module for module in chosen if not hasattr(module, "SETTINGS")]
    if shared:
        with new_world(binary) as world:
            for module in shared:
                failed += run_module(module, chosen[module], world)
    for module in chosen:
        if hasattr(module, "SETTINGS"):
            with new_world(binary, module.SETTINGS) as world:
                failed += run_module(module, chosen[module], world)
    total = sum(map(len, chosen.values()))
    print(f"{total - len(failed)} of {total} cases hold")
    return 1 if failed or not total else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
