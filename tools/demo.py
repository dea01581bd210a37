#!/usr/bin/env python
"""The same as ``python -m mobilevig_det demo``."""

from mobilevig_det.cli.demo import main

if __name__ == '__main__':
    main()
