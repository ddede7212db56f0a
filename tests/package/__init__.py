"""The Debian packages, installed, used, upgraded and purged in a clean root: ``python -m tests.package``.

Not a part of the tests that ``make test`` runs: it takes root on Debian, and a minute or two.
"""
