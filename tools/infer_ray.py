#!/usr/bin/env python
"""The same as ``python -m mobilevig_det infer-ray``."""

from mobilevig_det.cli.infer_ray import main

if __name__ == '__main__':
    main()
