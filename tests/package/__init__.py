"""Debian in a clean root: the packages, installed, used, upgraded and purged there (``python -m tests.package``), and the
programs of another release (``python -m tests.package.peers``).

Not a part of the tests that ``make test`` runs: it takes root on Debian, and a minute or two.
"""
