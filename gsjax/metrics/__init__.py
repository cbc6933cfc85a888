"""Mergeable metrics: states of (sum, count) that add across batches and hosts."""
