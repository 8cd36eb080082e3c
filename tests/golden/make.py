#!/usr/bin/env python3
"""Writes the golden files that tests compare kernels with: make.py [name ...], all of them without a name.

Values come from PyTorch on the CPU in float64. Every module listed below has a dictionary FILES = {name: function}; the function
adds cases to the Golden that it is given. Inputs are decided by their names, so the files are the same wherever this runs.
"""

import importlib
import sys

from common import FOLDER, Golden

files = {}
for module in ["rows", "vendor", "gpt"]:
    if (FOLDER / f"{module}.py").exists():
        files.update(importlib.import_module(module).FILES)
names = sys.argv[1:] or list(files)
unknown = [n for n in names if n not in files]
if unknown:
    sys.exit(f"no golden file named {', '.join(unknown)}; there are {', '.join(files)}")
for name in names:
    golden = Golden(name)
    files[name](golden)
    golden.write()
