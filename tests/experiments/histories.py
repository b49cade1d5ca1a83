"""Histories made up by hand, for pictures and verdicts."""

from lora_course.training.history import EvaluationRow, History, LayerRow, Run, StepRow

KINDS = ("attention.self.query", "intermediate.dense")


def history(name="lora", seed=0, rank=8, rate=2e-3, accuracy=0.75, loss=0.5, trained=1000, peak=50, **measured):
    adapter = None if name.startswith("full") else {"method": name.split()[0], "rank": rank}
    config = {"training": {"learning_rate": rate}, "adapter": adapter}
    data = "toy, 640 for training"
    run = Run(name, name.split()[0], "Bert", data, "CPU", seed, config, trained, 10_000, {"torch": "2"})
    found = {"test_accuracy": accuracy, "test_loss": 1 - accuracy, "test_samples": 800}
    found |= {"peak_bytes": peak * 2**20, "state_bytes": 12 * trained, "saved_bytes": 7}
    return History(run, evaluations=[EvaluationRow(40, 1.0, 1.0, 0.1, {"loss": loss})], measured=found | measured)


def trained_history(steps=12):
    found = history("LoRA, rank 8")
    found.steps = [StepRow(i, i / steps, 0.7 - 0.02 * i, 1e-3, 1.0, 8, 80, 0.1 * i) for i in range(1, steps + 1)]
    found.layers = [
        LayerRow(
            step,
            f"bert.encoder.layer.{depth}.{kind}",
            0.0 if step == 1 else 0.3 + depth,
            2.0 + depth,
            [] if step == 1 else [step * (1.0 + depth), 0.5 * step] if kind == KINDS[0] else [0.1 * step],
        )
        for step in range(1, steps + 1, 4)
        for depth in range(3)
        for kind in KINDS
    ]
    return found
