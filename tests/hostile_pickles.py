"""Pickles that do something when they are loaded."""


class Bomb:
    """Loading its pickle creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")
