"""How the figures of a document are made, in a sentence each."""

from __future__ import annotations

from collections.abc import Iterable

from mmdit_cli.output.quantities import Path, label

MADE = {  # by the first or the last key of a path
    "parameters": "All parameters of the model, those without a gradient too.",
    "weight_bytes": "Bytes of the weights alone.",
    "flops": "2 FLOPs a multiply-add; matrix products and attention, counted by torch's counter on the meta device.",
    "forward_flops": "2 FLOPs a multiply-add; matrix products and attention, counted by torch's counter on the meta "
    "device.",
    "backward_flops": "Model FLOPs: attention's backward counts twice its forward.",
    "step_flops": "Forward and backward.",
    "executed_step_flops": "What runs: fused attention computes its scores again in backward (2.5 times its forward), "
    "and checkpointed activations are computed twice.",
    "arithmetic_intensity": "Forward FLOPs over the bytes of weights, inputs and outputs, each moved once.",
    "latency_ms": "The median of calls timed one by one, in rounds of all configs in random order, with its 95 % "
    "interval; p10 and p90 are of single calls.",
    "ratio": "The median ratio to the first config, of calls of the same round.",
    "phases_ms": "Parts of the same calls.",
    "samples_per_s": "The batch over the median latency.",
    "tokens_per_s": "All tokens of the batch, the padding included, over the median latency.",
    "valid_tokens_per_s": "Tokens that are no padding, over the median latency.",
    "achieved_flops_per_s": "FLOPs over the median latency.",
    "ceiling": "The best matrix product at this dtype, and the best stream through memory, as measured here.",
    "utilization": "Achieved FLOP/s over the ceiling of products.",
    "bound": "Least time: the larger of FLOPs over the one ceiling and bytes over the other (weights, inputs and "
    "outputs once). Of the limit: the least time over the measured one.",
    "memory_bytes": "The most that torch's allocator held at once during a call, the inputs apart, and its parts.",
    "components": "Of calls of their own with hooks in the same rounds, or on a GPU of its kernels' own times.",
    "ranks": "Of each process: what steps under torch's profiler take; bytes that it sends, as a ring does.",
    "growth": "Least squares on logarithms; tokens are those of all modalities.",
    "baseline": "Against an earlier document. Noise: the intervals say neither worse nor better.",
    "conditions": "What else the machine did meanwhile.",
    "fits": "Estimated under fake tensors, without building the model.",
    "ok": "Every shape of every layer, run on the meta device.",
    "verified": "Loaded again, and compared with what was written.",
    "max_abs_diff": "The largest difference between outputs before and after.",
    "loss": "The mean of the run's last steps. With ±: the standard deviation over seeds.",
    "accuracy": "The share of samples from which an oracle reads back every attribute of the caption.",
    "held_out": "The same for captions that training never showed.",
    "chance": "The accuracy of guessing.",
    "oracle_real": "What the oracle reads of real data, which it was not fitted on.",
    "oracle_noise": "What the oracle reads of noise.",
    "agreement": "The share of samples that are right in every modality at once.",
    "per_attribute": "The share of samples that show this attribute as asked for.",
    "any_to_any": "The share of samples that go with the caption, or with one another.",
    "steps_per_s": "Training steps alone, without evaluations and checkpoints.",
    "step_seconds": "The runs' median, of training steps alone.",
    "to_target": "When every modality had the target accuracy: medians over the runs that got there, interpolated "
    "between evaluations.",
    "differences": "Paired by seed, with Student's 95 % interval of their mean; told apart where it leaves out 0. Of "
    "many rows, one in twenty does so by chance.",
    "plans": "A process's memory by really cutting the model under fake tensors, its bytes by counting what it sends; "
    "time by arithmetic, from the stated utilization and bandwidths.",
    "card_hours": "run.batch_size samples a step, all cards together; model FLOPs over peak and utilization.",
}


def how_made(paths: Iterable[Path]) -> list[tuple[str, str]]:
    """What the figures of these paths are, and how each was made; nothing of those that explain themselves."""
    keys = dict.fromkeys(key for path in paths for key in (path[0], path[-1]) if key in MADE)
    return [(label((key,)), MADE[key]) for key in keys]
