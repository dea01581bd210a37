"""Detectors that compute in int8, and what that costs in AP."""

from .write import check_int8, write_int8

__all__ = ['check_int8', 'write_int8']
