#!/usr/bin/env python
"""The same as ``python -m mobilevig_det browse-data``."""

from mobilevig_det.cli.browse_data import main

if __name__ == '__main__':
    main()
