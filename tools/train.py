#!/usr/bin/env python
"""The same as ``python -m mobilevig_det train``."""

from mobilevig_det.cli.train import main

if __name__ == '__main__':
    main()
