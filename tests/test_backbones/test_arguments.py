"""Whatever MobileViG is given: a model that runs, or an error that says which."""

from mobilevig_det import MobileViG
from mobilevig_det.errors import UserError

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

SMALL = dict(channels=(4, 4, 6, 8), blocks=(1, 1, 1, 1))
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.sampled_from([10**9, 10**30, -(10**30)]),
    st.floats(),  # NaN and infinite too
    st.complex_numbers(),
    st.text(max_size=3),
    st.sampled_from(['act', 'm', 'BN', b'act', torch.zeros(2), object(), len]),
    st.lists(st.integers(-1, 5) | st.floats() | st.booleans(), max_size=5),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.tuples(st.sampled_from([0, 1, 2, 3]), st.sampled_from([1.0, True, 2, 3])),
)
NUMBERS = st.lists(
    st.one_of(st.integers(0, 6), st.sampled_from([True, 10**12, -1, 2.0, None, '4'])),
    min_size=3,
    max_size=5,
)
ARCHES = st.one_of(
    ODD,
    st.fixed_dictionaries(
        dict(channels=NUMBERS | ODD, blocks=st.just((1, 1, 1, 1)) | ODD)
    ),
    st.fixed_dictionaries(dict(channels=st.just((4, 4, 6, 8)), blocks=NUMBERS)),
)
ARGUMENTS = ('out_indices', 'graph_stride', 'drop_path_rate', 'layer_scale_init_value',
             'norm_cfg', 'act_cfg', 'norm_eval', 'frozen_stages', 'with_cp',
             'compile_cfg', 'init_cfg', 'triton')  # fmt: skip


def builds_and_runs(name, **arguments):
    try:
        model = MobileViG(**{'arch': SMALL, **arguments})
    except UserError as error:
        assert name in str(error)
        return
    if arguments.get('compile_cfg') is not None:
        return  # compiling takes long
    model.init_weights()
    outs = model.train()(torch.rand(2, 3, 64, 64))
    assert len(outs) == len(model.out_indices)
    sum(out.sum() for out in outs).backward()
    assert all(out.isfinite().all() for out in outs)


@pytest.mark.parametrize('name', ARGUMENTS)
@settings(deadline=None, max_examples=40, derandomize=True)
@given(value=ODD)
@example(value=1)
@example(value=1.0)
@example(value=float('nan'))
@example(value='0.1')
@example(value=None)
@example(value={})
@example(value=torch.zeros(2))
@example(value=10**30)
def test_any_argument_runs_or_is_refused(name, value):
    if name == 'compile_cfg' and value == {}:
        return  # right, but it imports the compiler
    builds_and_runs(name, **{name: value})


@settings(deadline=None, max_examples=120, derandomize=True)
@given(arch=ARCHES)
@example(arch=dict(channels=(1, 1, 1, 1), blocks=(1, 1, 1, 1)))
@example(arch=dict(channels=(2, 1, 1, 1), blocks=(1, 1, 1, 1)))
@example(arch=dict(channels=(4, 4, 4, 10**12), blocks=(1, 1, 1, 1)))
@example(arch=dict(channels=(4, 4, 4, 4), blocks=(True, 1, 1, 1)))
def test_any_arch_runs_or_is_refused(arch):
    builds_and_runs('arch', arch=arch)
