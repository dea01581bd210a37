#!/usr/bin/env python
"""The same as ``python -m mobilevig_det check-data``."""

from mobilevig_det.cli.check_data import main

if __name__ == '__main__':
    main()
