"""Turns of programs that are compared: all stay alive, one runs at a time, and nobody else takes any time of the cores.

Each rank of each program reads orders from a pipe of its own, FOLDER/orders.<program>.<rank>: a line with a number of steps. It runs them,
and rank 0 answers with a line of JSON in FOLDER/answers. Who waits sleeps in a read. (Programs that looked for a file every millisecond took
4 to 7 % of the speed of the one whose turn it was.) The end of its pipe ends a program, so that none outlives the driver.
"""

import json
import os
import pathlib
import select
import time


def write(path, value):
    """A file that appears whole."""
    pathlib.Path(f"{path}.new").write_text(json.dumps(value))
    os.rename(f"{path}.new", path)


def take_turns(folder, name, rank, run):
    """Calls run(steps) for every order to this rank of `name`; the first rank answers with what it returned."""
    with open(f"{folder}/orders.{name}.{rank}") as orders:
        while order := orders.readline():
            result = run(int(order))
            if rank == 0:
                with open(f"{folder}/answers", "w") as answers:
                    answers.write(json.dumps(result) + "\n")


class Turns:
    """The driver's side. `alive` is called while it waits, and does not return if a program has ended."""

    def __init__(self, folder, alive):
        self.folder, self.alive, self.orders = pathlib.Path(folder), alive, {}
        self.answers = self.pipe("answers")

    def pipe(self, name):
        os.mkfifo(self.folder / name)
        return os.open(self.folder / name, os.O_RDWR)  # has a reader and a writer whoever comes first

    def join(self, name, ranks):
        """To be called before the program starts."""
        self.orders[name] = [self.pipe(f"orders.{name}.{rank}") for rank in range(ranks)]

    def wait(self, path):
        while not path.exists():
            self.alive()
            time.sleep(0.002)

    def give(self, name, steps):
        for order in self.orders[name]:
            os.write(order, f"{steps}\n".encode())
        answer = b""
        while not answer.endswith(b"\n"):
            if select.select([self.answers], [], [], 1.0)[0]:
                answer += os.read(self.answers, 1 << 16)
            else:
                self.alive()
        return json.loads(answer)

    def end(self):
        for orders in self.orders.values():
            for order in orders:
                os.close(order)
        self.orders = {}
