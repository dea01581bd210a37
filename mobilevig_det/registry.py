"""The scope ``mobilevig_det`` of MMEngine's registries.

MMEngine needs it when a config inherits one of ours by name, as in
``_base_ = 'mobilevig_det::mask_rcnn/mobilevig_m_fpn_1x.py'``. Our classes are in
MMDetection's registries; each registry here looks them up there.
"""

import mmdet.registry
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import Registry

# This must be the name of a module. If it were that of the distribution, MMEngine would
# look in site-packages, which does not contain editable installations.
MODULE2PACKAGE['mobilevig_det'] = __name__
for _parent in list(vars(mmdet.registry).values()):
    if isinstance(_parent, Registry):
        Registry(
            _parent.name,
            parent=_parent,
            scope='mobilevig_det',
            # MMEngine imports the locations of this registry instead of the parent's.
            # Without any, it warns that the package is not installed.
            locations=_parent._locations or [__package__],
        )
