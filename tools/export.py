#!/usr/bin/env python
"""The same as ``python -m mobilevig_det export``."""

from mobilevig_det.cli.export import main

if __name__ == '__main__':
    main()
