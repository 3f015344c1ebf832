"""A pass forward and backward on images of nothing, which leaves a job as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from timm.loss import SoftTargetCrossEntropy

from cutmix_zoo.data.settings import input_spec
from cutmix_zoo.keys import Stream, isolated_rng

if TYPE_CHECKING:
    from torch import nn

    from cutmix_zoo.training.job import Job


def blank_pass(job: Job, model: nn.Module, size: int) -> None:
    """Go forward and backward on images of nothing.

    Args:
        job: what is trained; its weights, buffers and gradients are as they were afterwards.
        model: its network, bare or wrapped.
        size: images of the pass. The process's whole batch is there, however few of its images are in a pass.
    """
    buffers = [buffer.clone() for buffer in job.network.buffers()]
    job.train_mode()
    try:
        shape = (job.local_batch_size, *input_spec(job.recipe.data).input_size)
        batch = job.prepare(torch.zeros(shape, dtype=torch.uint8))
        with isolated_rng(job.recipe.seed, Stream.MODEL), job.accelerator.autocast():
            logits = model(batch[:size])
        SoftTargetCrossEntropy()(logits.float(), torch.zeros_like(logits, dtype=torch.float32)).backward()
    finally:
        job.network.zero_grad(set_to_none=True)
        for buffer, value in zip(job.network.buffers(), buffers, strict=True):
            buffer.copy_(value)


def settle_exchange(job: Job) -> None:
    """Let several processes exchange gradients from the first update on as they will from the second.

    After its first pass, torch groups gradients anew, in the order in which they came, and they are then added up in
    another order. Without this pass, the first update after a resume would differ from that of an uninterrupted run.
    """
    if job.accelerator.num_processes > 1:
        blank_pass(job, job.model, job.micro_batch or job.local_batch_size)
