"""Evaluators that know a system only through its protocol."""
