"""A disk that loses power: of a folder, it keeps only what was flushed (fsync), as the least careful file system would."""

import os
import threading
from pathlib import Path


class SimulatedDisk:
    """Records the content of a folder at each `os.fsync`; the power may fail after each of them and after each rename.

    Parameters
    ----------
    folder : Path
        An existing folder; what it holds counts as flushed.
    monkeypatch : pytest.MonkeyPatch

    Attributes
    ----------
    events : int
        Number of flushes and renames so far.
    """

    def __init__(self, folder, monkeypatch):
        self.folder, self.events = folder, 0
        self._content, self._names = {}, {}  # flushed so far, by inode: bytes of files, names and inodes in folders
        self._held = {}  # kept open, so that their inodes are not reused
        self._lock = threading.Lock()
        self._fail_at, self._left, self._names_first = 0, None, False
        fsync, replace, rename = os.fsync, Path.replace, Path.rename

        def synced(handle):
            fsync(handle)
            with self._lock:
                inode = os.fstat(handle).st_ino
                if inode not in self._held:
                    self._held[inode] = os.dup(handle)
                self._keep(inode)
                self._event()

        def named(how, path, target):
            with self._lock:
                result = how(path, target)
                self._event()
                return result

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(Path, "replace", lambda path, target: named(replace, path, target))
        monkeypatch.setattr(Path, "rename", lambda path, target: named(rename, path, target))
        self._keep(folder.stat().st_ino)

    def close(self):
        while self._held:
            os.close(self._held.popitem()[1])

    def fail(self, event, left, *, names_first):
        """Let the power fail after ``event`` more events: copy what the disk would hold then to the folder ``left``.

        With ``names_first``, new names are on disk at once and before the content of their files, as on some file systems.
        """
        self._fail_at, self._left, self._names_first = self.events + event, left, names_first

    def _keep(self, inode):
        for path in (self.folder, *self.folder.rglob("*")):
            try:
                if path.stat().st_ino != inode:
                    continue
                if path.is_dir():
                    self._names[inode] = _names(path)
                else:
                    self._content[inode] = path.read_bytes()
            except FileNotFoundError:  # removed meanwhile
                continue
            return

    def _event(self):
        self.events += 1
        if self.events == self._fail_at:
            self._restore(self.folder.stat().st_ino, self.folder, self._left)

    def _restore(self, inode, now, into):
        into.mkdir()
        names = _names(now) if self._names_first and now.is_dir() else self._names.get(inode, {})
        for name, (each, is_folder) in names.items():
            if is_folder:
                self._restore(each, now / name, into / name)
            else:
                (into / name).write_bytes(self._content.get(each, b""))


def _names(folder):
    return {each.name: (each.stat().st_ino, each.is_dir()) for each in folder.iterdir()}
