"""Hooks: what is done between the iterations."""

from .finite_numbers import FiniteNumbersHook

__all__ = ['FiniteNumbersHook']
