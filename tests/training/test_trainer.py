"""The same injected model under transformers.Trainer: learns, changes adapters only, saves, resumes."""

import pytest
import torch

from lora_course import load_adapter, save_adapter
from tests.training import tiny

pytest.importorskip("accelerate", reason="transformers.Trainer needs accelerate")


def trainer(model, folder, steps, **options):
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        logging_steps=1,
        save_steps=20,
        report_to=[],
        seed=0,
        use_cpu=True,
        disable_tqdm=True,
        lr_scheduler_type="constant",
        **options,
    )
    return Trainer(model=model, args=arguments, train_dataset=tiny.data(), data_collator=tiny.collate)


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
def test_trainer(tmp_path):
    model = tiny.model()
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    first = trainer(model, tmp_path / "a", 40)
    first.train()
    losses = [row["loss"] for row in first.state.log_history if "loss" in row]
    assert sum(losses[-8:]) < 0.6 * sum(losses[:8])
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if not p.requires_grad)

    resumed = tiny.model()
    trainer(resumed, tmp_path / "b", 40).train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-20"))
    for name, p in tiny.trained(resumed).items():
        torch.testing.assert_close(p, tiny.trained(model)[name], rtol=0, atol=1e-6)

    save_adapter(model, tmp_path / "adapter")
    from transformers import BertForSequenceClassification

    torch.manual_seed(0)
    fresh = load_adapter(BertForSequenceClassification(model.config), tmp_path / "adapter")
    batch = tiny.collate(tiny.data(5))
    fresh.load_state_dict(
        {n: t for n, t in model.state_dict().items() if "base_layer" in n or "embed" in n}, strict=False
    )
    assert torch.equal(fresh.eval()(**batch).logits, model.eval()(**batch).logits)
