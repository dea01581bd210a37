"""A fake device, 'fakegpu', whose tensors hold their values on the CPU.

It finds without a GPU what fails or is slow on one: operations on tensors of two
devices, and places where the CPU waits for the device. It changes the whole process, so
tests run it in a separate one (fake_device_run.py).
"""

import linecache
import sys
from collections import Counter

import torch
from mmengine.structures import instance_data
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

aten = torch.ops.aten
NAME = 'fakegpu'
PACKAGES = 'mobilevig_det', 'mmdet', 'mmcv', 'mmengine'
# The size of the result depends on the values, so the CPU waits for it.
COUNTING = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor,
    aten.bincount.default,
}
# Their indices may be on the CPU and are copied.
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.float16, torch.bfloat16]


class FakeDeviceTensor(torch.Tensor):
    """A tensor on the fake device; ``value`` is on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, value):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            value.size(),
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=torch.device(NAME, 0),
        )

    def __init__(self, value):
        self.value = value

    def __repr__(self):
        return f'{self.value!r} {NAME}'

    def tolist(self):  # PyTorch refuses it to subclasses
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


class FakeDevice(TorchDispatchMode):
    """Mode in which the fake device can be used.

    ``waits`` counts how often each line of Python made the CPU wait for the device, and
    by which operation.
    """

    active: 'FakeDevice'

    def __init__(self):
        super().__init__()
        self.waits = Counter()
        FakeDevice.active = self

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})

    def wait(self, kind):
        """Count a wait for the innermost line of our code or OpenMMLab's."""
        frame = sys._getframe()
        while frame is not None:
            path, number = frame.f_code.co_filename, frame.f_lineno
            parts = path.split('/')
            package = next((part for part in PACKAGES if part in parts), None)
            if package:
                line = linecache.getline(path, number).strip()
                path = '/'.join(parts[parts.index(package) :])
                self.waits[f'{path} {kind}: {line}'] += 1
                return
            frame = frame.f_back
        self.waits[f'PyTorch {kind}'] += 1


def _is_fake(device):
    return device is not None and torch.device(device).type == NAME


def _value(tensor):
    return tensor.value if isinstance(tensor, FakeDeviceTensor) else tensor


def _run(function, args, kwargs):
    with FakeDevice.active:
        if function.namespace == 'mobilevig_det':  # to see the operations inside
            op = torch._library.custom_ops.OPDEFS[function._schema.name]
            return op._init_fn(*args, **kwargs)
        out = function.decompose(*args, **kwargs)  # composite operations below autograd
        if out is not NotImplemented:
            return out
    wait = FakeDevice.active.wait
    if function is aten._copy_from.default:
        function, args = aten.copy_.default, (args[1], args[0])
    leaves, spec = tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    there = [t for t in tensors if isinstance(t, FakeDeviceTensor)]
    device = kwargs.get('device')
    if function is aten.copy_.default and len(there) == 1:
        wait(
            'to the device' if isinstance(args[0], FakeDeviceTensor) else 'to the host'
        )
        _value(args[0]).copy_(_value(args[1]))
        return args[0]
    if function is aten._to_copy.default and device is not None:
        if _is_fake(device) != bool(there):
            wait('to the host' if there else 'to the device')
        value = function(_value(args[0]), **{**kwargs, 'device': 'cpu'})
        return FakeDeviceTensor(value) if _is_fake(device) else value
    if not there and not _is_fake(device):
        return function(*args, **kwargs)
    _check_devices(function, args, tensors, wait)
    if function is aten._local_scalar_dense.default:
        wait('item')
    elif function in COUNTING:
        wait('nonzero')
    inner_args, inner_kwargs = tree_unflatten([_value(leaf) for leaf in leaves], spec)
    if device is not None:
        inner_kwargs['device'] = 'cpu'
    out = tree_map(
        lambda leaf: FakeDeviceTensor(leaf) if isinstance(leaf, torch.Tensor) else leaf,
        function(*inner_args, **inner_kwargs),
    )
    return return_and_correct_aliasing(function, args, kwargs, out)


def _check_devices(function, args, tensors, wait):
    """Check as CUDA does: a tensor on the CPU may only be a scalar or an index."""
    foreign = [t for t in tensors if not isinstance(t, FakeDeviceTensor)]
    scalars_may = torch.Tag.pointwise in function.tags
    if function in INDEXING:
        indices = [index for index in args[1] if index is not None]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            wait('nonzero')
        for index in indices:
            if not isinstance(index, FakeDeviceTensor):
                wait('to the device')
        foreign = [t for t in foreign if not any(t is index for index in indices)]
        scalars_may = True
    if any(t.dim() or not scalars_may for t in foreign):
        raise RuntimeError(
            f'{function}: tensors of two devices, '
            + ', '.join(f'{t.device} {tuple(t.shape)}' for t in tensors)
        )


class _Booleans(type):
    def __instancecheck__(cls, tensor):
        return isinstance(tensor, torch.Tensor) and tensor.dtype == torch.bool


class _BoolTensor(metaclass=_Booleans):
    pass


_LIBRARY = torch.library.Library('aten', 'IMPL')


def register():
    """Register the device in this process."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    # PyTorch calls these below the modes, to make an index from a list.
    for overload in (
        aten.empty_strided.default,
        aten.empty.memory_format,
        aten._copy_from.default,
        aten.copy_.default,
    ):
        _LIBRARY.impl(
            overload.name().removeprefix('aten::'),
            lambda *args, f=overload, **kwargs: _run(f, args, kwargs),
            'PrivateUse1',
        )
    # MMEngine checks the types of the tensors that it accepts as an index.
    instance_data.IndexType = instance_data.IndexType | torch.Tensor
    instance_data.BoolTypeTensor = _BoolTensor | torch.cuda.BoolTensor
