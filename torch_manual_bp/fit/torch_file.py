"""Files of tensors, numbers and strings, as `torch.save` writes them; reading one runs no code from it."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch


def to_bytes(content: dict[str, Any]) -> bytes:
    """The file's content."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def read(path: Path, what: str) -> dict[str, Any]:
    """What was saved in a file, its tensors on the CPU.

    Args:
        path: the file.
        what: what it should be, for the message.

    Raises:
        FileNotFoundError: no such file.
        ValueError: something else is in it, be it by one bit.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:  # torch.load does not look at the checksums
                broken = archive.testzip()
            if broken:
                raise ValueError(f"the checksum of {broken} is wrong")
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # bytes that are no pickle can raise anything
            raise ValueError(f"{path}: expected {what} written by training, got something else") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected {what} written by training, got a {type(content).__name__}")
    return content
