#!/usr/bin/env python
"""The same as ``python -m mobilevig_det infer``."""

from mobilevig_det.cli.infer import main

if __name__ == '__main__':
    main()
