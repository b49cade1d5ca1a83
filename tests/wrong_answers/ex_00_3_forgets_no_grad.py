"""00.3
never comes
"""


def answer(model, batch):
    was_training = model.training
    model.eval()
    logits = model(**batch)
    model.train(was_training)
    return logits
