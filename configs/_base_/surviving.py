# Deprecated name of default_runtime.py; will be removed in 0.4.
_base_ = './default_runtime.py'
_deprecation_ = dict(expected='default_runtime.py', reference='docs/migration.md')
