"""A scope of our own, which MMEngine asks for when a config inherits one of
ours by name: ``_base_ = 'mobilevig_det::mask_rcnn/mobilevig_m_fpn_1x.py'``.

It adds nothing to MMDetection's scope: each registry here passes every
question on to the one it stands for.
"""

import mmdet.registry
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import Registry

# A module of ours, not the distribution: MMEngine would look for an editable
# installation of that in site-packages, where it is not.
MODULE2PACKAGE['mobilevig_det'] = __name__
for _parent in list(vars(mmdet.registry).values()):
    if isinstance(_parent, Registry):
        Registry(
            _parent.name,
            parent=_parent,
            scope='mobilevig_det',
            # Asked first, so they must import what the parent would; MMEngine's
            # have none, and without any it warns of a package not installed.
            locations=_parent._locations or [__package__],
        )
