"""Shared parts of the tests of couplet-twisted."""
