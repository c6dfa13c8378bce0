"""The folder of a run: its files appear together, whole, or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType


class RunFolder:
    """A folder into which a run writes its files at the end, over those of an earlier run.

    They are first written in full into a hidden folder inside it, then moved to their places, one rename each. The
    seal goes first and comes last: where it is, all files are of the run that it tells of. A file that is kept by
    itself (`keep`) stands beside them. Other files in the folder are left alone.

    Use it as a context: entering makes the folder and finds out at once whether it can be written to.

    Args:
        path: the folder; it and its parents are made where they are missing.
        seal: the name of the file that comes last.

    Raises:
        OSError: the folder cannot be made or written to.
    """

    def __init__(self, path: str | Path, seal: str) -> None:
        self.path, self.seal = Path(path), seal

    def __enter__(self) -> "RunFolder":
        self._new = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with self._staging():
                return self
        except BaseException:  # Ctrl-C too, which may come right behind the mkdir
            self._remove_if_new()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            self._remove_if_new()

    def _remove_if_new(self) -> None:
        if self._new:
            with suppress(OSError):  # something was written all the same: leave it
                self.path.rmdir()

    def write(self, files: Mapping[str, bytes]) -> list[Path]:
        """Put the files, by name, into the folder; the seal must be among them.

        Returns:
            Their paths, the seal's last.

        Raises:
            ValueError: the seal is missing.
            OSError: a file cannot be written; those that were there before stay then, unless renaming failed half way.
        """
        if self.seal not in files:
            raise ValueError(f"RunFolder.write: files must have the seal {self.seal!r}, got {', '.join(files)}")
        names = sorted(files, key=lambda name: name == self.seal)
        with self._staging() as staging:
            for name in names:
                _write_through(staging / name, files[name])
            (self.path / self.seal).unlink(missing_ok=True)
            for name in names:
                (staging / name).replace(self.path / name)
        return [self.path / name for name in names]

    def keep(self, name: str, content: bytes) -> Path:
        """Put one file into the folder, over an earlier one: at any moment it is the earlier one or this, and whole.

        Returns:
            Its path.

        Raises:
            OSError: it cannot be written; the earlier one stays then.
        """
        with self._staging() as staging:
            _write_through(staging / name, content)
            return (staging / name).replace(self.path / name)

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        staging = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=self.path))
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _write_through(path: Path, content: bytes) -> None:
    """Write a file that is on the disk, not on its way there, before it is renamed."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
