"""Any model of timm with maps at strides 4 to 32 as a backbone of MMDetection."""

import difflib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from ..checkpoints import through_scheme
from ..checkpoints.diagnosis import describe_misfits, find_misfits
from ..custom_op import is_traced
from ..errors import UserError
from .arguments import check_arguments, parse_out_indices
from .base import FusableBackbone
from .layers import recomputed

STRIDES = (4, 8, 16, 32)
# Not the square that a model of a fixed size is built for.
TRIAL_SIZE = (64, 96)
# Arguments that let some models of a fixed size take other sizes, and whether any.
SIZE_ARGUMENTS: tuple[tuple[dict, str], ...] = (
    (dict(strict_img_size=False), 'add strict_img_size=False, then it takes any size'),
    (
        dict(img_size=TRIAL_SIZE),
        'add img_size=(HEIGHT, WIDTH), then it takes images of that size and no others',
    ),
)


def import_timm() -> ModuleType:
    """Import timm, which is optional.

    Raises:
        UserError: If it cannot be imported.
    """
    try:
        import timm
        import timm.utils
    except ImportError as error:
        raise UserError(
            f'TimmBackbone needs timm 1.0 or newer, which cannot be imported ({error}):'
            ' pip install "mobilevig_det[imagenet]"'
        ) from error
    return timm


@contextmanager
def _explained(model_name: str) -> Iterator[None]:
    """Turn what timm raises for wrong arguments into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # timm checks by assertions, torch by RuntimeErrors
        raise UserError(
            f'timm cannot build {model_name!r} with these arguments: '
            f'{type(error).__name__}: {error}'
        ) from error


def _check_name(model_name: str) -> None:
    timm = import_timm()
    name = model_name.partition('.')[0]
    if timm.is_model(name):
        return
    near = difflib.get_close_matches(name, timm.list_models(), 3)
    hint = f' Did you mean {", ".join(map(repr, near))}?' if near else ''
    raise UserError(
        f'timm {timm.__version__} has no model {model_name!r}.{hint} '
        'timm.list_models() lists them.'
    )


def _build_features(model_name: str, levels: Sequence[int] | None, args: dict):
    kwargs = args if levels is None else dict(args, out_indices=tuple(levels))
    with _explained(model_name):
        return import_timm().create_model(model_name, features_only=True, **kwargs)


def _find_levels(
    model_name: str, out_indices: Sequence[int], args: dict
) -> tuple[list[int], list[int]]:
    """Find timm's levels of the wanted strides, which models count differently."""
    _check_name(model_name)
    with torch.device('meta'):
        info = _build_features(model_name, None, args).feature_info
    found = {level['reduction']: i for i, level in enumerate(info.info)}
    wanted = [STRIDES[i] for i in out_indices]
    if not set(wanted) <= set(found):
        raise UserError(
            f'{model_name} has maps at the strides {sorted(found)}, but a backbone '
            f'with out_indices={tuple(out_indices)} needs {wanted}. Choose a model '
            'with stages at strides 4, 8, 16 and 32, such as resnet50, convnext_tiny, '
            'repvit_m1_1 or pvt_v2_b1.'
        )
    levels = [found[stride] for stride in wanted]
    return levels, [info.info[i]['num_chs'] for i in levels]


def _maps_of(body: nn.Module, x: Tensor) -> list[Tensor]:
    """Run timm's model; its maps as (B, C, H, W), contiguous."""
    maps = body(x)
    if str(getattr(body, 'output_fmt', '')).endswith('NHWC'):
        maps = [feature.permute(0, 3, 1, 2) for feature in maps]
    return [feature.contiguous() for feature in maps]


def _check_sizes(model_name: str, levels: Sequence[int], args: dict) -> None:
    """Refuse a model that takes images of one size only, unless it was asked for."""

    def failure(size: Sequence[int], **more: Any) -> Exception | None:
        try:
            with torch.device('meta'), torch.no_grad():
                body = _build_features(model_name, levels, args | more).eval()
                _maps_of(body, torch.empty(1, args.get('in_chans', 3), *size))
        except Exception as error:
            return error
        return None

    reason = failure(TRIAL_SIZE)
    if reason is None:
        return
    size = args.get('img_size')
    if size and failure((size, size) if isinstance(size, int) else size) is None:
        return
    default = import_timm().get_pretrained_cfg(model_name).input_size[1:]
    works = (way for more, way in SIZE_ARGUMENTS if not failure(TRIAL_SIZE, **more))
    raise UserError(
        f'{model_name} does not take images of {TRIAL_SIZE[0]} x {TRIAL_SIZE[1]} '
        f'pixels, as it is built for {default[0]} x {default[1]} ({reason}): '
        f'{next(works, "no argument changes that; choose another model")}.'
    )


@MODELS.register_module()
class TimmBackbone(FusableBackbone):
    """A model of timm without its head, as a backbone of MMDetection.

    Args:
        model_name (str): Name in timm, such as 'repvit_m1_1', perhaps with the tag of
            its weights: 'resnet50.a1_in1k'.
        pretrained (bool): Whether to download timm's ImageNet weights when the weights
            are initialized, as a training does before it starts; not when a detector is
            built for testing. Defaults to False.
        out_indices (Sequence[int]): Stages to return, ascending, each in 0-3: strides
            4, 8, 16, 32. Later stages are left out. Defaults to (0, 1, 2, 3).
        frozen_stages (int): Stages to freeze (no gradients, eval mode). -1 freezes
            nothing, 0 what runs before the stage of stride 4, n also the first n
            stages. Defaults to -1.
        norm_eval (bool): Whether to keep BatchNorms in eval mode when training.
            Defaults to False.
        with_cp (bool): Activation checkpointing: recompute blocks in the backward, for
            less memory. Defaults to False.
        init_cfg (dict | list[dict], optional): Initialization config; with
            ``type='Pretrained'`` the ``checkpoint`` may be a classifier's, as timm
            writes and publishes them. Defaults to None: timm's own initialization.
        **timm_args: Further arguments of the model, such as ``drop_path_rate=0.1``.

    Raises:
        UserError: (a ``ValueError``) if timm is missing or doesn't know the model or an
            argument, if the model has no maps at these strides or takes images of one
            size only, when built; if a checkpoint is incomplete or another model's,
            when loaded.

    Examples:
        >>> import torch
        >>> from mobilevig_det import TimmBackbone
        >>> TimmBackbone.out_channels('resnet18')
        [64, 128, 256, 512]
        >>> TimmBackbone.normalization('resnet18')['mean']
        [123.675, 116.28, 103.53]
        >>> maps = TimmBackbone('resnet18').eval()(torch.rand(1, 3, 64, 96))
        >>> tuple(maps[3].shape)
        (1, 512, 2, 3)
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool = False,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        **timm_args: Any,
    ) -> None:
        check_arguments(
            pretrained=pretrained,
            norm_eval=norm_eval,
            frozen_stages=frozen_stages,
            init_cfg=init_cfg,
        )
        if not isinstance(with_cp, bool):
            raise UserError(f'with_cp must be True or False, but got {with_cp!r}.')
        super().__init__(None if init_cfg is None else through_scheme(init_cfg))
        self.model_name = model_name
        self.timm_args = timm_args
        self.out_indices = parse_out_indices(out_indices)
        self.pretrained = pretrained
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        levels, self.channels = _find_levels(model_name, self.out_indices, timm_args)
        self._check_weights()
        _check_sizes(model_name, levels, timm_args)
        self.body = _build_features(model_name, levels, timm_args)
        last = self.body.feature_info[levels[-1]]
        if isinstance(getattr(self.body, 'blocks', None), nn.Sequential):
            # The EfficientNet classes would run the later blocks.
            self.body.blocks = self.body.blocks[: last['stage']]
        if with_cp:
            self._recompute()
        self._freeze_stages()

    def _check_weights(self) -> None:
        if not self.pretrained:
            return
        if self.init_cfg is not None:
            raise UserError(
                f'pretrained=True and init_cfg={self.init_cfg!r} both name weights: '
                'set only one of them.'
            )
        if not import_timm().get_pretrained_cfg(self.model_name).has_weights:
            raise UserError(
                f'timm has no weights of {self.model_name!r} to download: set '
                "pretrained=False, or init_cfg=dict(type='Pretrained', "
                "checkpoint='FILE')."
            )

    @classmethod
    def out_channels(
        cls,
        model_name: str,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        **timm_args: Any,
    ) -> list[int]:
        """Return the channels of the returned stages: a neck's ``in_channels``."""
        return _find_levels(model_name, parse_out_indices(out_indices), timm_args)[1]

    @classmethod
    def normalization(cls, model_name: str) -> dict[str, list[float]]:
        """Return the ``mean`` and ``std`` of the model's images, from 0 to 255.

        They are values for ``data_preprocessor``, which also needs
        ``bgr_to_rgb=True``.
        """
        _check_name(model_name)
        with _explained(model_name):
            cfg = import_timm().get_pretrained_cfg(model_name)
        return {
            key: [round(255 * value, 4) for value in getattr(cfg, key)]
            for key in ('mean', 'std')
        }

    def extra_repr(self) -> str:
        """Describe the model in ``print(model)``."""
        strides = [STRIDES[i] for i in self.out_indices]
        return f'{self.model_name}, strides={strides}, out_channels={self.channels}'

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of the stages in ``out_indices``.

        Args:
            x (Tensor): Images of shape (B, 3, H, W).

        Returns:
            tuple[Tensor]: Contiguous maps of shape (B, C, h, w). Models round h = H /
            stride up or, some of them, down.
        """
        # CPUs convolve channels-last maps faster. Not in training: torch 2.13 corrupts
        # memory in the backward of a strided 1x1 convolution of an image.
        if x.device.type == 'cpu' and not (torch.is_grad_enabled() or is_traced()):
            x = x.contiguous(memory_format=torch.channels_last)
        return tuple(_maps_of(self.body, x))

    def init_weights(self) -> None:
        """Initialize the weights; with ``pretrained``, download timm's.

        Raises:
            UserError: If they cannot be downloaded, or a checkpoint does not fit.
        """
        if not self.pretrained:
            super().init_weights()
            return
        try:
            classifier = import_timm().create_model(
                self.model_name, pretrained=True, **self.timm_args
            )
        except Exception as error:  # of the Hub, the network, the file
            raise UserError(
                f'The weights of {self.model_name} cannot be downloaded: {error}. Give '
                "a file instead: pretrained=False, init_cfg=dict(type='Pretrained', "
                "checkpoint='FILE')."
            ) from error
        self.load_state_dict(classifier.state_dict())

    def _parts(self) -> Iterator[nn.Module]:
        """Yield what timm runs one after the other."""
        for child in self.body.children():
            yield from child if isinstance(child, nn.Sequential) else [child]

    def _recompute(self) -> None:
        if 'model' in self.body._modules:  # timm calls parts of it, not the whole
            self.body.model.set_grad_checkpointing()
            return
        # timm's own checkpointing would count a batch twice in running statistics.
        for part in self._parts():
            if any(True for _ in part.parameters()):  # not an activation in place
                part.forward = partial(recomputed, part.forward, part)

    def _frozen_modules(self) -> Iterator[nn.Module]:
        """Yield the modules that run before the first stage that is not frozen.

        timm relies on the order of the modules, too, and names the last of a level.
        """
        info = self.body.feature_info
        levels = {level['reduction']: i for i, level in enumerate(info.info)}
        number = min(max(self.frozen_stages, 1), self.out_indices[-1] + 1)
        end = _flat(info.info[levels[STRIDES[number - 1]]]['module'])
        modules = {_flat(name): m for name, m in self.body.named_modules() if name}
        if end not in modules:
            raise UserError(
                f'frozen_stages={self.frozen_stages}: timm does not tell where the '
                f'stages of {self.model_name} end; set frozen_stages=-1.'
            )
        for name, module in modules.items():
            reached = name == end
            if reached and self.frozen_stages == 0:
                return
            if not f'{end}_'.startswith(f'{name}_') or reached:
                yield module
            if reached:
                return

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        for module in self._frozen_modules():
            module.eval()
            module.requires_grad_(False)

    def _fuse(self) -> None:
        import_timm().utils.reparameterize_model(self.body, inplace=True)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args, **kwargs
    ) -> None:
        # Strict, whatever the caller asked for, as in BaseBackbone.
        weights = self._take_weights(state_dict, prefix)
        if not any(key.startswith('body.') for key in weights):
            weights = self._from_classifier(weights)
        misfits = find_misfits(weights, self.state_dict())
        if misfits:
            raise UserError(
                f'The checkpoint does not fit {self.model_name!r} of timm: it is '
                'incomplete, or of another model.\n' + describe_misfits(misfits)
            )
        state_dict.update((prefix + key, value) for key, value in weights.items())
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _from_classifier(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a classifier's weights to this model's, without those of the head."""
        with torch.device('meta'):
            classifier = import_timm().create_model(self.model_name, **self.timm_args)
        convert = getattr(
            sys.modules[type(classifier).__module__], 'checkpoint_filter_fn', None
        )
        if convert is not None and weights:
            try:
                weights = convert(dict(weights), classifier)
            except Exception as error:  # whatever another model's names lead to
                raise UserError(
                    f'The checkpoint does not fit {self.model_name!r} of timm, which '
                    f'cannot convert it: {type(error).__name__}: {error}. Its names '
                    f'begin with {", ".join(list(weights)[:4])}.'
                ) from error
        known = classifier.state_dict()
        names = {_flat(key.removeprefix('body.')): key for key in self.state_dict()}
        return {
            names.get(_flat(key), key): value
            for key, value in weights.items()
            if _flat(key) in names or key not in known
        }


def _flat(name: str) -> str:
    """Return a name that timm's classifier and its model without a head share."""
    return name.removeprefix('model.').replace('.', '_')
