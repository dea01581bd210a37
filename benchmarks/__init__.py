"""Benchmarks of speed and memory, compared with other implementations.

The comparisons are with the authors' algorithms, MMDetection and models of timm. In a
clone of the repository, ``mobilevig_det benchmark`` runs them.
"""
