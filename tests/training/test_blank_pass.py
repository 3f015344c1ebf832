from dataclasses import replace

import pytest
import torch

from cutmix_zoo.training.blank_pass import blank_pass, settle_exchange
from cutmix_zoo.training.job import make_job
from cutmix_zoo.training.launch import make_accelerator
from cutmix_zoo.training.settings import Recipe, RegularizeSettings
from tests.conftest import global_states


def test_a_job_is_as_it_was(tiny_recipe: Recipe) -> None:
    recipe = replace(tiny_recipe, regularize=RegularizeSettings(shakedrop_prob=0.5, drop_rate=0.5))
    job = make_job(recipe, make_accelerator())
    before = {key: value.clone() for key, value in job.network.state_dict().items()}
    state, seen = global_states(), []
    handle = job.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    blank_pass(job, job.model, 6)
    handle.remove()
    assert seen == [(6, 1, 28, 28)]
    assert all(torch.equal(value, before[key]) for key, value in job.network.state_dict().items())
    assert all(parameter.grad is None for parameter in job.network.parameters())
    assert global_states() == state


def test_one_process_has_nothing_to_settle(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutmix_zoo.training.blank_pass.blank_pass", None)
    settle_exchange(make_job(tiny_recipe, make_accelerator()))
