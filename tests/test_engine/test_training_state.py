"""States of the random number generators, saved and restored."""

import pickle
import random

from mobilevig_det.engine.training_state import (
    get_random_states,
    preserve_random_states,
    set_random_states,
)

import numpy as np
import torch


def draw():
    return (
        random.random(),
        random.gauss(0, 1),
        np.random.rand(),
        np.random.standard_normal(),
        torch.rand(1).item(),
    )


def test_restored_states_continue_the_same_sequence():
    draw()  # gauss and standard_normal now hold back a second number
    states = get_random_states()
    first = draw()
    set_random_states(pickle.loads(pickle.dumps(states)))
    assert draw() == first


def test_states_are_restored_after_the_block():
    states = get_random_states()
    with preserve_random_states():
        first = draw()
    assert draw() == first
    set_random_states(states)
