"""Models for timm: ``timm.create_model('mobilevig_m')``.

Importing this module registers them. ``import mobilevig_det`` imports it if timm has
been imported before. timm defines the interface of the model; its
``efficientformer_v2.py`` also has two classifiers.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from mmengine.model import initialize
from torch import Tensor, nn

from .backbones import AdaptViG, GreedyViG, MobileViG, MobileViGv2, RapidNet
from .backbones.base import KAIMING, BaseBackbone
from .backbones.layers import ConvNormAct
from .checkpoints import find_file, read_checkpoint
from .checkpoints.key_mapping import from_authors, is_authors_layout, with_parts
from .checkpoints.reading import both_weights
from .checkpoints.sibling_keys import with_unfolded_positions
from .checkpoints.weights import name_of
from .classification.classifier import ClassifierHead, DistilledHead
from .custom_op import scriptable
from .errors import UserError

try:
    from timm.models import (
        build_model_with_cfg,
        generate_default_cfgs,
        register_model,
        resolve_pretrained_cfg,
    )
    from timm.models._features import FeatureGetterNet, feature_take_indices
except ImportError as error:
    raise UserError(
        f'MobileViG in timm needs timm 1.0 or newer, which cannot be imported '
        f'({error}): pip install "mobilevig_det[imagenet]"'
    ) from error

POOLS = ('avg', '')


class Family(NamedTuple):
    """A backbone, the width of the classifier of each size, and its sources."""

    backbone: type[BaseBackbone]
    hidden_channels: dict[str, int]
    code: str
    paper: str


_MOBILEVIG_HEADS = dict(ti=512, s=512, m=768, b=768)
_VIG_HEADS = dict(s=768, m=768, b=768)
_V2_HEADS = dict(ti=512, s=512, m=512, b=768)
FAMILIES = dict(
    mobilevig=Family(MobileViG, _MOBILEVIG_HEADS, 'SLDGroup/MobileViG', '2307.00395'),
    mobilevigv2=Family(MobileViGv2, _V2_HEADS, 'SLDGroup/MobileViGv2', '2406.05850'),
    greedyvig=Family(GreedyViG, _VIG_HEADS, 'SLDGroup/GreedyViG', '2405.06849'),
    rapidnet=Family(RapidNet, _V2_HEADS, 'mmunir127/RapidNet-Official', '2412.10995'),
    adaptvig=Family(AdaptViG, _VIG_HEADS, 'mmunir127/AdaptViG', '2511.09942'),
)


class Head(DistilledHead):
    """Head whose classifiers can be removed and replaced, as timm allows."""

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        # Skip ClassifierHead's check, as timm omits classifiers of other classes.
        super(ClassifierHead, self)._load_from_state_dict(*args, **kwargs)


class TimmMobileViG(nn.Module):
    """MobileViG or a sibling with its classifier, with the interface of timm's models.

    It loads the authors' ImageNet files. Its weights have the same names as those of
    :class:`.ImageClassifier`, so that each can load the other's checkpoints.

    Args:
        arch (str): 'ti', 's', 'm' or 'b'; GreedyViG and AdaptViG have no 'ti'.
        num_classes (int): Number of classes; 0 removes the classifiers. Defaults to
            1000.
        in_chans (int): Channels of the images. Defaults to 3.
        global_pool (str): 'avg', or '' for feature maps instead of vectors. Defaults
            to 'avg'.
        drop_rate (float): Dropout rate before the classifiers. Defaults to 0.
        drop_path_rate (float): Stochastic depth rate of the last block. Defaults to 0,
            as in all of timm's models. The authors trained with 0.1.
        device (torch.device, optional): Device. Defaults to None: the default device.
        dtype (torch.dtype, optional): Type of the weights. Defaults to None: the
            default type.
        family (str): One of :data:`FAMILIES`. Defaults to 'mobilevig'.

    Raises:
        UserError: If an argument is out of range.
    """

    def __init__(
        self,
        arch: str,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        family: str = 'mobilevig',
    ) -> None:
        super().__init__()
        parts = FAMILIES[family]
        self.backbone = parts.backbone(arch, drop_path_rate=drop_path_rate)
        channels = self.backbone.out_channels(arch)
        self.in_chans = in_chans
        if in_chans != 3:
            first = cast(ConvNormAct, self.backbone.get_submodule('stem.0'))
            first.conv = nn.Conv2d(
                in_chans, first.conv.out_channels, 3, stride=2, padding=1
            )
        self.num_features = channels[-1]
        self.head_hidden_size = parts.hidden_channels[arch]
        self.head = Head(channels[-1], self.head_hidden_size, 1, drop_rate)
        initialize(self, KAIMING)
        self.to(device=device, dtype=dtype)
        self.reset_classifier(num_classes, global_pool)
        self.distilled_training = False
        # Hooks need modules that are called, which are blocks instead of stages.
        self.feature_info = [
            dict(
                num_chs=width,
                reduction=2 ** (i + 2),
                module=f'backbone.stages.{i}.{len(list(stage.children())) - 1}',
            )
            for i, (width, stage) in enumerate(zip(channels, self.backbone.stages))
        ]

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Compute logits of shape (B, num_classes) for images (B, in_chans, H, W)."""
        return self.forward_head(self.forward_features(x))

    def __prepare_scriptable__(self) -> nn.Module:
        """Return the module that ``torch.jit.script`` compiles."""
        return scriptable(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last map, of shape (B, C, ceil(H / 32), ceil(W / 32))."""
        return self.backbone(x)[-1]

    def forward_head(
        self, x: Tensor, pre_logits: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Compute the logits from the last feature map.

        Args:
            x (Tensor): Feature map of shape (B, num_features, H, W).
            pre_logits (bool): Whether to return the input of the classifiers, of shape
                (B, head_hidden_size), instead. Defaults to False.

        Returns:
            Tensor | tuple[Tensor, Tensor]: The mean of both classifiers, of shape
            (B, num_classes), or, in training with ``set_distilled_training``, both.
            Without pooling, they are maps of shape (B, num_classes, H, W).
        """
        pool = self.global_pool == 'avg'
        x = self.head.prediction(x) if pool else self.head.prediction[1:](x)
        if pre_logits:
            return x.flatten(1) if pool else x
        first, second = self.head.head(x), self.head.dist_head(x)
        if pool:
            first, second = first.flatten(1), second.flatten(1)
        if self.distilled_training and self.training:
            return first, second
        return (first + second) / 2

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Compute the last feature map and those of some stages.

        Args:
            x (Tensor): Images of shape (B, in_chans, H, W).
            indices (int | list[int], optional): Stages, or a number n for the last n
                stages. Defaults to None: all.
            norm (bool): Ignored, because no stage ends with a normalization.
            stop_early (bool): Whether the map of the last of ``indices`` is returned as
                the last map.
            output_fmt (str): Must be 'NCHW'.
            intermediates_only (bool): Whether to return only the list of maps.

        Returns:
            list[Tensor] | tuple[Tensor, list[Tensor]]: The last map, and the maps of
            the stages in ascending order.

        Raises:
            UserError: If ``output_fmt`` is not 'NCHW'.
        """
        if output_fmt != 'NCHW':
            raise UserError(f"output_fmt must be 'NCHW', but is {output_fmt!r}.")
        taken, last = feature_take_indices(len(self.backbone.stages), indices)
        maps = self.backbone(x)
        chosen = [feature for i, feature in enumerate(maps) if i in taken]
        if intermediates_only:
            return chosen
        return maps[last if stop_early else -1], chosen

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Remove the stages after the last of ``indices``, and the classifier.

        Args:
            indices (int | list[int]): See :meth:`forward_intermediates`.
            prune_norm (bool): Ignored, because no stage ends with a normalization.
            prune_head (bool): Whether to remove the classifier in any case.

        Returns:
            list[int]: The indices, counted from 0.
        """
        stages = len(self.backbone.stages)
        taken, last = feature_take_indices(stages, indices)
        if last < stages - 1:
            self.backbone.stages = self.backbone.stages[: last + 1]
            self.backbone.downsamples = self.backbone.downsamples[:last]
            self.backbone.out_indices = tuple(range(last + 1))
        if prune_head or last < stages - 1:
            self.num_features = self.feature_info[last]['num_chs']
            self.head_hidden_size = self.num_features
            self.head.prediction = nn.Sequential(nn.AdaptiveAvgPool2d(1))
            self.reset_classifier(0, '')
        return taken

    def get_classifier(self) -> tuple[nn.Module, nn.Module]:
        """Return both classifiers."""
        return self.head.head, self.head.dist_head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None):
        """Replace the classifiers with new ones.

        Args:
            num_classes (int): Number of classes; 0 removes the classifiers.
            global_pool (str, optional): 'avg' or ''. Defaults to None: unchanged.

        Raises:
            UserError: If ``global_pool`` is unknown.
        """
        if global_pool is not None:
            if global_pool not in POOLS:
                raise UserError(
                    f"global_pool must be 'avg' or '', but is {global_pool!r}."
                )
            self.global_pool = global_pool
        self.num_classes = self.head.num_classes = num_classes
        like = next(self.backbone.parameters())
        for name in ('head', 'dist_head'):
            new: nn.Module = nn.Identity()
            if num_classes > 0:
                new = nn.Conv2d(self.head_hidden_size, num_classes, 1)
                initialize(new, KAIMING)
            setattr(self.head, name, new.to(like).train(self.training))

    def set_distilled_training(self, enable: bool = True) -> None:
        """Set whether ``forward`` returns both classifiers' logits in training."""
        self.distilled_training = enable

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Set whether blocks are recomputed in the backward pass to save memory."""
        self.backbone.with_cp = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return patterns that group layers by depth, for layer-wise learning rates.

        Args:
            coarse (bool): Whether to group by stages, each with the downsampling after
                it, instead of by blocks and downsamplings. Defaults to False.
        """
        stages = r'^backbone\.(?:stages|downsamples)\.(\d+)'
        after = 999  # sorts the downsampling after the last block of its stage
        blocks: Any = [
            (r'^backbone\.stages\.(\d+)\.(\d+)', None),
            (r'^backbone\.downsamples\.(\d+)', (after,)),
        ]
        return dict(stem=r'^backbone\.stem', blocks=stages if coarse else blocks)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args, **kwargs
    ) -> None:
        keys = [key for key in state_dict if key.startswith(prefix)]
        weights = {key[len(prefix) :]: state_dict.pop(key) for key in keys}
        for key, value in checkpoint_filter_fn(weights).items():
            state_dict[prefix + key] = value
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def checkpoint_filter_fn(
    state_dict: Mapping[str, Any], model: nn.Module | None = None
) -> dict[str, Tensor]:
    """Convert a checkpoint to weights under the model's names.

    As in timm, averaged weights are preferred.

    Args:
        state_dict (Mapping): A checkpoint or bare weights, in the authors' layout or
            ours.
        model (nn.Module, optional): Ignored; timm passes it.

    Returns:
        dict[str, Tensor]: The weights.
    """
    both = both_weights(state_dict)
    weights = dict(both.raw if both.averaged is None else both.averaged)
    if not is_authors_layout(weights):
        return weights
    return with_parts(with_unfolded_positions(from_authors(weights)))


default_cfgs = generate_default_cfgs(
    {
        f'{family}_{arch}': dict(
            url='',
            num_classes=1000,
            input_size=(3, 224, 224),
            pool_size=(7, 7),
            crop_pct=0.9,
            interpolation='bicubic',
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            first_conv='backbone.stem.0.conv',
            classifier=('head.head', 'head.dist_head'),
            origin_url=f'https://github.com/{parts.code}',
            paper_ids=f'arXiv:{parts.paper}',
        )
        for family, parts in FAMILIES.items()
        for arch in parts.hidden_channels
    }
)


def _create(family: str, arch: str, pretrained: bool, **kwargs) -> nn.Module:
    """Build a model.

    ``pretrained`` loads the file in ``pretrained_cfg_overlay=dict(file=…)``,
    or else the published one. It is read here, because timm's reader checks less.
    """
    name = f'{family}_{arch}'
    if pretrained:
        overlay = dict(kwargs.get('pretrained_cfg_overlay') or {})
        cfg = resolve_pretrained_cfg(name, kwargs.get('pretrained_cfg'), overlay)
        file = cfg.file
        if not cfg.has_weights and not cfg.state_dict:
            try:
                file = str(find_file(f'mobilevig://{name_of(family, arch)}'))
            except UserError as error:
                raise UserError(
                    f'{error} In timm, pass pretrained_cfg_overlay=dict(file=…) to '
                    'name a file, or pretrained=False for random weights.'
                ) from error
        if file and not cfg.source and not cfg.state_dict:
            weights = checkpoint_filter_fn(read_checkpoint(file))
            overlay.update(file=file, state_dict=weights)
            kwargs['pretrained_cfg_overlay'] = overlay
    model = build_model_with_cfg(
        TimmMobileViG,
        name,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls=FeatureGetterNet),
        arch=arch,
        family=family,
        **kwargs,
    )
    for module in model.modules():  # timm keeps a second copy of the weights there
        getattr(module, 'pretrained_cfg', {}).pop('state_dict', None)
    return model


def _register(family: str, arch: str) -> None:
    """Register an entry point, which timm finds by the function's name."""

    def create(pretrained: bool = False, **kwargs) -> nn.Module:
        return _create(family, arch, pretrained, **kwargs)

    create.__name__ = create.__qualname__ = f'{family}_{arch}'
    create.__doc__ = f'{family}_{arch}, with both classifiers.'
    globals()[create.__name__] = register_model(create)


for _family, _parts in FAMILIES.items():
    for _arch in _parts.hidden_channels:
        _register(_family, _arch)
