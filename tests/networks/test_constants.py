import gc
import weakref

import torch

from napari_histoad.networks.constants import on_device

ELSEWHERE = torch.device("meta")


def test_a_constant_is_copied_once_and_goes_with_its_original():
    constant = torch.arange(6.0).reshape(2, 3)
    assert on_device(constant, torch.device("cpu")) is constant
    copy = on_device(constant, ELSEWHERE)
    assert copy.device == ELSEWHERE
    assert copy.shape == (2, 3)
    assert on_device(constant, ELSEWHERE) is copy
    assert on_device(constant.clone(), ELSEWHERE) is not copy  # equal, but another one
    left = weakref.ref(copy)
    del constant, copy
    gc.collect()
    assert left() is None


def test_a_copy_made_while_scoring_can_be_trained_with():
    constant = torch.ones(3)
    with torch.inference_mode():
        assert not on_device(constant, ELSEWHERE).is_inference()
