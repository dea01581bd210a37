"""Compare an exported file, in its runtime, with the PyTorch model."""

from .verify import verify_backbone, verify_detector

__all__ = ['verify_backbone', 'verify_detector']
