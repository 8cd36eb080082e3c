"""Turns of programs that are compared: all stay alive, one runs at a time.

The driver writes FOLDER/turn.<k> = {"who", "steps"}; the program of that name runs so many steps and answers with FOLDER/done.<k>
(JSON); "end" ends all. Those whose turn it is not sleep. Files appear whole, by a rename.
"""

import json
import os
import pathlib
import time


def write(path, value):
    pathlib.Path(f"{path}.new").write_text(json.dumps(value))
    os.rename(f"{path}.new", path)


def take_turns(folder, name, run, answers):
    """Calls run(steps) whenever it is `name`'s turn; the rank that `answers` writes what it returned."""
    turn = 0
    while True:
        path = pathlib.Path(folder) / f"turn.{turn}"
        while not path.exists():
            time.sleep(0.001)
        order = json.loads(path.read_text())
        if order["who"] == "end":
            return
        if order["who"] == name:
            result = run(order["steps"])
            if answers:
                write(pathlib.Path(folder) / f"done.{turn}", result)
        turn += 1


class Turns:
    """The driver's side."""

    def __init__(self, folder, alive):
        self.folder, self.turn, self.alive = pathlib.Path(folder), 0, alive

    def wait(self, path):
        while not path.exists():
            self.alive()
            time.sleep(0.002)

    def give(self, who, steps=0):
        write(self.folder / f"turn.{self.turn}", {"who": who, "steps": steps})
        done = self.folder / f"done.{self.turn}"
        self.turn += 1
        if who == "end":
            return None
        self.wait(done)
        return json.loads(done.read_text())
