"""``python -m hmacfs.cli``, where the command itself isn't installed."""

from __future__ import annotations

import sys

from hmacfs.cli import main

sys.exit(main())
