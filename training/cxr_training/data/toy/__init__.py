"""Synthetic chest films."""
