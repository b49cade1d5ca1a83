"""The training loop. One step:

    the gradient of the mean loss over `accumulation_steps` batches  ->  clip  ->  stop if it is not finite
    ->  optimizer step at this step's learning rate  ->  a row in the history
and around it: evaluation, early stopping, callbacks, and a checkpoint from which a killed run goes on bit for bit.
A step reads loss and gradient norm once from the device; on a GPU that is the only wait in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from lora_course.adapters.optimizers import make_optimizer
from lora_course.device import seed_everything
from lora_course.training.batching import IGNORED, example_lengths, length_bucketed_batches
from lora_course.training.bookkeeping import (
    as_numbers,
    check_run,
    describe_run,
    diverged,
    evaluation_due,
    evaluations_since_best,
    learning_rate_factors,
    size_of,
    summarise,
)
from lora_course.training.checkpoint import (
    copy_of,
    identity,
    load_checkpoint,
    put_back,
    random_state,
    restore_random_state,
    save_checkpoint,
    snapshot,
)
from lora_course.training.config import TrainingConfig, warmup_then_decay
from lora_course.training.history import EvaluationRow, History, StepRow
from lora_course.training.losses import Loss, model_loss
from lora_course.training.metrics import in_mode, reset_peak_memory


class TrainingDiverged(FloatingPointError):
    """The loss or its gradient became NaN or infinite. `history` holds the run up to the step before."""

    def __init__(self, message: str, history: History):
        super().__init__(message)
        self.history = history


def fit(
    model: nn.Module,
    train_data: Sequence,
    collate: Callable[[list], Mapping[str, Tensor]],
    config: TrainingConfig,
    *,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: Callable[[int, int, int, str], float] | None = None,
    loss: Loss = model_loss,
    monitor: str = "accuracy",
    checkpoint_path: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
    callbacks: Iterable[Callable[[StepRow], object]] = (),
    name: str | None = None,
    dataset: str = "unnamed",
) -> History:
    """Train `model` in place, on the device its parameters are on. Seeds every generator with config.seed.

    train_data: examples by index; collate(list of examples) -> keyword arguments of the model, `labels` among them.
    evaluate(model) -> metrics: called in eval mode; `monitor` names the one that early stopping goes by: the lower the
        better for "loss" and "perplexity", the higher the better for any other.
    optimizer: `default_optimizer(model, config)` if None. schedule: a function like `warmup_then_decay`.
    loss(model, batch) -> mean loss over the batch's targets: the model's own, or one of `training.losses`.
    checkpoint_path: one file for one run. If it is there and `resume`, the run goes on from it; a finished run comes
        back as it ended. It is written at each evaluation or end of an epoch, every
        config.checkpoint_every steps, and at the end.
    callbacks: each is called with every StepRow, the gradients of the step still there; one that returns "stop" ends
        the run cleanly, and a list of LayerRows goes into the history. One that has a state_dict, such as a
        RankController, goes into the checkpoint too; one that has a method `evaluated` gets every EvaluationRow
        through it.
    name, dataset: what the history calls the run and the data.

    Raises ValueError for data, optimizer, schedule or metrics that do not fit, CheckpointError for a checkpoint that is
    damaged or of another run, TrainingDiverged if the loss or gradient is not finite: the step is not taken, so model
    and checkpoint keep the last good parameters.
    """
    lengths = example_lengths(train_data)
    steps_per_epoch = math.ceil(math.ceil(len(lengths) / config.batch_size) / config.accumulation_steps)
    total_steps = config.epochs * steps_per_epoch
    seed_everything(config.seed)
    optimizer = optimizer or default_optimizer(model, config)
    check_run(model, lengths, optimizer, evaluate, config)
    factors = learning_rate_factors(schedule or warmup_then_decay, total_steps, config)
    scheduler = LambdaLR(optimizer, lambda step: factors[step])
    callbacks, device = [*callbacks], optimizer.param_groups[0]["params"][0].device
    history, step, best, stop = History(describe_run(model, config, device, name, dataset)), 0, None, None

    path = Path(checkpoint_path) if checkpoint_path is not None else None
    loss_name = getattr(loss, "__name__", "unnamed")
    this_run = identity(model, optimizer, config, lengths, factors, monitor, loss_name, callbacks) if path else {}
    if path and resume and path.exists():
        saved = load_checkpoint(path, this_run)
        put_back(model, callbacks, saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        restore_random_state(saved["random"], device)
        history, step, best, stop = History.from_dict(saved["history"]), saved["step"], saved["best"], saved["stop"]
        if stop is None:
            history.resumed_at.append(step)
            history.summary = None  # of a run that a callback had stopped

    def save() -> None:
        save_checkpoint(
            path,
            {
                "identity": this_run,
                "model": snapshot(model, callbacks),
                "step": step,
                "best": best,
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "random": random_state(device),
                "history": history.to_dict(),
                "stop": None if stop == "callback" else stop,
            },
        )

    optimizer.zero_grad()  # what an interrupted run or an experiment left in .grad is no part of the first step
    reset_peak_memory(device)
    began = perf_counter() - (history.steps[-1].seconds if history.steps else 0.0)
    ahead = () if stop else windows(lengths, config, after=step)
    with in_mode(model, training=True), progress_bar(total_steps, step, progress) as bar:
        for step, window in ahead:
            batches = [collate([train_data[i] for i in indices]) for indices in window]
            lr = optimizer.param_groups[0]["lr"]
            mean_loss = backward(model, batches, device, loss)
            trained = [p for group in optimizer.param_groups for p in group["params"]]  # resize_rank makes new ones
            norm = nn.utils.clip_grad_norm_(trained, config.max_grad_norm or math.inf)
            mean_loss, norm = torch.stack([mean_loss.float(), norm.float()]).tolist()  # the one wait for the device
            if not (math.isfinite(mean_loss) and math.isfinite(norm)):
                optimizer.zero_grad()
                raise TrainingDiverged(diverged(step, mean_loss, norm, lr, path), history)
            optimizer.step()
            scheduler.step()

            epoch, seconds = step / steps_per_epoch, perf_counter() - began
            row = StepRow(step, epoch, mean_loss, lr, norm, *size_of(batches), seconds)
            history.steps.append(row)
            bar.set_postfix(loss=f"{mean_loss:.4f}", refresh=False)
            bar.update()
            for answer in [callback(row) for callback in callbacks]:
                if answer == "stop":
                    stop = "callback"
                elif isinstance(answer, list):
                    history.layers += answer
            optimizer.zero_grad()  # only now: callbacks see the gradients
            if step == total_steps:
                stop = "finished"

            due = evaluation_due(step, steps_per_epoch, config.evaluations_per_epoch if evaluate else 1)
            if evaluate and due:
                started = perf_counter()
                with in_mode(model, training=False):
                    metrics = as_numbers(evaluate(model), monitor, config.patience)
                took = perf_counter() - started
                began += took
                history.evaluations.append(EvaluationRow(step, epoch, seconds, took, metrics))
                for callback in callbacks:
                    getattr(callback, "evaluated", lambda row: None)(history.evaluations[-1])
                since_best = evaluations_since_best(history, monitor)
                if config.patience is not None and since_best == 0:
                    best = copy_of(snapshot(model, callbacks))
                if config.patience is not None and since_best >= config.patience:
                    stop = stop or "early stopping"
            if stop:
                break
            if path and (due or (config.checkpoint_every and step % config.checkpoint_every == 0)):
                save()

    if history.summary is None:
        if path and stop == "callback":  # before the best is put back: a resumed run goes on from where it stopped
            save()
        if best is not None:
            put_back(model, callbacks, best)
        history.summary = summarise(history, stop, monitor if best is not None else None, device)
        if path and stop != "callback":
            save()
    return history


def default_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters; 1-D ones (biases, norms) are not decayed."""
    return make_optimizer(model, config.learning_rate, weight_decay=config.weight_decay)


def windows(lengths: Sequence[int], config: TrainingConfig, after: int) -> Iterator[tuple[int, list[list[int]]]]:
    """(step, its batches of indices) for every optimizer step later than `after`, epoch by epoch."""
    step = 0
    for epoch in range(config.epochs):
        batches = length_bucketed_batches(lengths, config.batch_size, seed=config.seed, epoch=epoch)
        for start in range(0, len(batches), config.accumulation_steps):
            step += 1
            if step > after:
                yield step, batches[start : start + config.accumulation_steps]


def backward(
    model: nn.Module, batches: Sequence[Mapping[str, Tensor]], device: torch.device, loss: Loss = model_loss
) -> Tensor:
    """Leave in .grad the gradient of the mean loss over all targets of all batches; returns that loss, detached.

    `loss` is the mean over one batch. Weighting each by its number of targets makes the sum the mean over
    all of them, so that the pieces give the gradient of one big batch even if the last piece is smaller.
    Raises ValueError if a batch has no labels, or no batch has a target.
    """
    if any("labels" not in batch for batch in batches):
        raise ValueError(f"a batch has no labels, only {', '.join(batches[0])}: collate must give them")
    counts = [count_targets(model, batch["labels"]) for batch in batches]
    total = sum(counts)
    if not total:
        raise ValueError(f"nothing to learn from these batches: every label is {IGNORED}, which the loss leaves out")
    losses = []
    for batch, count in zip(batches, counts, strict=True):
        if not count:  # the mean over no targets is NaN
            continue
        share = loss(model, {name: tensor.to(device) for name, tensor in batch.items()}) * (count / total)
        share.backward()
        losses.append(share.detach())
    return torch.stack(losses).sum()


def count_targets(model: nn.Module, labels: Tensor) -> int:
    """How many labels the model's mean loss is over: a causal LM predicts from the second token on."""
    causal = hasattr(model, "generate") and not getattr(model.config, "is_encoder_decoder", False)
    labels = labels[:, 1:] if causal and labels.ndim == 2 else labels
    return int((labels != IGNORED).sum())


def progress_bar(total_steps: int, done: int, progress: bool) -> tqdm:
    return tqdm(total=total_steps, initial=done, disable=not progress, unit="step", mininterval=0.5)
