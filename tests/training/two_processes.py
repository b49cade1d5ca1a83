"""What test_two_processes.py compares, run by one process and by two: the same fine-tunes under transformers.Trainer.

    python -m torch.distributed.run --standalone --nproc_per_node=2 tests/training/two_processes.py FOLDER
leaves FOLDER/rank0.pt and rank1.pt, what each process ended with, and FOLDER/NAME/, what was saved.
"""

import os
import sys
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # torchrun puts this folder on the path, not the root

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainingArguments

from lora_course import AdapterConfig, inject, make_optimizer, save_adapter
from lora_course.adapters import fused
from lora_course.adapters.adalora import AdaLoRA
from lora_course.adapters.delta_lora import DeltaUpdate
from lora_course.adapters.rank_allocator import RankAllocator
from tests.adapters import models
from tests.training import tiny

STEPS, BATCH = 12, 8
RUNS = {  # name: (architecture, method, batches accumulated in a step)
    "lora": ("bert", "lora", 1),
    "causal": ("llama", "lora", 2),
    "delta_lora": ("bert", "delta_lora", 1),
    "adalora": ("bert", "adalora", 2),
}


def model_of(architecture: str, method: str, dropout: float = 0.0) -> torch.nn.Module:
    """In float64, so that a tolerance can be small."""
    torch.manual_seed(0)
    head = ["classifier"] if architecture == "bert" else []
    config = AdapterConfig(method, rank=4, alpha=8, trainable=head, dropout=dropout)
    return inject(getattr(models, architecture)().double(), config)


def examples_of(architecture: str) -> list[dict]:
    """64 of them; those of the language model have from 3 to 11 targets."""
    examples = tiny.data(64)
    return examples if architecture == "bert" else [{**e, "labels": e["input_ids"]} for e in examples]


def train(name: str, folder: Path, processes: int) -> dict:
    architecture, method, accumulation = RUNS[name]
    model = model_of(architecture, method)
    if architecture == "bert":
        model.accepts_loss_kwargs = False  # its loss is a mean over its own batch, whatever num_items_in_batch says
    optimizer = make_optimizer(model, 5e-3)
    if method == "delta_lora":
        DeltaUpdate(model, optimizer, lam=0.5, start=4)
    if method == "adalora":
        RankAllocator(model, optimizer, target_rank=2, total_steps=STEPS, warmup=2, final=3)
    arguments = TrainingArguments(
        output_dir=str(folder / name),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH // processes,
        gradient_accumulation_steps=accumulation,
        max_grad_norm=0.5,
        logging_steps=1,
        save_steps=STEPS,
        seed=0,
        use_cpu=True,
        ddp_backend="gloo" if processes > 1 else None,
        ddp_broadcast_buffers=False,  # else masks would agree because rank 0's are handed out before every step
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to=[],
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=examples_of(architecture),
        data_collator=tiny.collate,
        optimizers=(optimizer, None),
    )
    trainer.train()
    if trainer.is_world_process_zero():
        save_adapter(model, folder / name / "adapter")
    return {
        "wrapped": type(trainer.model_wrapped).__name__,
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
        "norms": [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row],
        "parameters": tiny.trained(model),
        "buffers": {n: b.clone() for n, b in model.named_buffers()},
        "masks": {n: m.kept.tolist() for n, m in model.named_modules() if isinstance(m, AdaLoRA)},
    }


def gradients(method: str, dropout: float, rank: int, wrap) -> dict[str, torch.Tensor]:
    """Of one step of `wrap(model)` on this rank's half of a batch, with masks of this rank's own."""
    model = model_of("bert", method, dropout).train()
    wrapped = wrap(model)
    torch.manual_seed(100 + rank)
    wrapped(**tiny.collate(tiny.data(16)[8 * rank : 8 * rank + 8])).loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


def compare_gradients(rank: int) -> dict[str, bool]:
    """Method -> whether the hand-written step ran under DistributedDataParallel, and left the mean of both ranks'
    gradients, bit for bit. q, k and v of a layer share one dropped x.
    """
    steps = {"lora": fused.LoRAStep, "lora_fa": fused.LoRAStep, "dora": fused.DoRAStep, "vera": fused.VeRAStep}
    same = {}
    for method, step in steps.items():
        alone = gradients(method, 0.3, rank, lambda model: model)
        for gradient in alone.values():
            dist.all_reduce(gradient.div_(2))
        with patch.object(step, "apply", wraps=step.apply) as applied:
            together = gradients(method, 0.3, rank, DistributedDataParallel)
        same[method] = applied.called and all(torch.equal(alone[name], together[name]) for name in alone)
    return same


def shard(method: str, folder: Path, rank: int) -> dict:
    """Four steps of a model whose blocks FSDP cuts in two, beside the same steps of a whole one in this process."""
    whole, model = model_of("llama", method).train(), model_of("llama", method).train()
    for block in model.model.layers:
        fully_shard(block)
    fully_shard(model)
    refused = {}
    for what, make in {"delta_lora": DeltaUpdate, "adalora": lambda *two: RankAllocator(*two, 2, STEPS)}.items():
        if method == what:
            refused[what] = message_of(make, model, make_optimizer(model, 5e-3))
    batch = tiny.collate([{"input_ids": [3, i % 30, 5, 7], "labels": [9, 8, i % 30, 6]} for i in range(16)])
    half = {key: tensor[8 * rank : 8 * rank + 8] for key, tensor in batch.items()}
    losses = {"whole": [], "sharded": []}
    for kind, trained, seen in (("whole", whole, batch), ("sharded", model, half)):
        optimizer = make_optimizer(trained, 5e-3)
        for _ in range(4 if not refused else 0):
            loss = trained(**seen).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[kind].append(loss.item())
    refused["save_adapter"] = message_of(save_adapter, model, folder / f"fsdp_{method}")
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    gathered = get_model_state_dict(model, options=options)  # on rank 0; empty elsewhere
    if rank == 0:
        saved = model_of("llama", method)
        saved.load_state_dict(gathered, strict=False)
        gathered = tiny.trained(saved)
    return {"refused": refused, "losses": losses, "gathered": gathered, "whole": tiny.trained(whole)}


def message_of(run, *arguments) -> str:
    try:
        run(*arguments)
    except ValueError as error:
        return str(error)
    return ""


def main(folder: Path) -> None:
    rank, written = int(os.environ["RANK"]), []

    def note(event: str, arguments: tuple) -> None:
        writes = event in ("os.mkdir", "os.rename", "os.remove", "tempfile.mkstemp")
        writes = writes or (event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"))
        if writes and str(folder) in str(arguments[0]):
            written.append(str(arguments[0]))

    sys.addaudithook(note)
    results = {name: train(name, folder, processes=2) for name in RUNS}
    results["gradients"] = compare_gradients(rank)
    results["fsdp"] = {m: shard(m, folder, rank) for m in ("lora", "dora", "delta_lora", "adalora")}
    results["written"] = [*written]
    torch.save(results, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
    dist.destroy_process_group()
