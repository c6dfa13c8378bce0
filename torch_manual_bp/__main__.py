"""`python -m torch_manual_bp`: the command line, or a plain word about what it needs and does not find."""

import io
import os
import sys

_EXTRA = ("typer", "rich", "sklearn", "matplotlib")


def main() -> None:
    """Run the command line; the process's exit status is the outcome."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler tells the terminal of every start and stop
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without φ shows "?" in its place
    try:
        from .cli import app

        app()
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _EXTRA:
            raise
        extra = "curvature" if sys.argv[1:2] == ["curvature"] else "train"
        print(f'{error.name} is missing: pip install "torch_manual_bp[{extra}]"', file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # while modules are still being loaded
        print("Interrupted; nothing was written.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
