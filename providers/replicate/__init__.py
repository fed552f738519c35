"""Replicate: hosted training jobs, their weights, and predictions."""
