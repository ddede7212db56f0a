"""Fuzzing: generated requests, whole connections of them, and what the single parsers are given, against what must hold.

``python -m tests.fuzz --help`` runs it, ``tests/fuzz/test_fuzz.py`` a little of it with all the other tests. Every
example is made from a seed and its number alone, so that ``--replay SEED:NUMBER`` makes it again.
"""
