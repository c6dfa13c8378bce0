"""What a net takes, planned and measured: ``python -m torch_manual_bp profile``, with pictures; see --help."""

import sys

from torch_manual_bp.__main__ import main

if __name__ == "__main__":
    sys.argv.insert(1, "profile")
    main()
