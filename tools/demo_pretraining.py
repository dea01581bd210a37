#!/usr/bin/env python
"""The same as ``python -m mobilevig_det demo-pretraining``."""

from mobilevig_det.cli.demo_pretraining import main

if __name__ == '__main__':
    main()
