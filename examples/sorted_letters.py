"""An encoder-decoder, T5's network of keras-hub, learns to sort the letters of words: two groups codistil it.

    pip install 'tf_codistill[hub]'
    python -m examples.sorted_letters

In training the decoder reads what it should have written so far; psi compares student and teacher letter by
letter. In the end each student writes by itself, the likeliest letter at a time, for words whose answers no
group has seen, whatever the order of their letters. A word counts only if all of its letters are right.
"""

import tempfile

import keras
import keras_hub
import numpy as np

import tf_codistill

NUM_LETTERS, WORD_LETTERS = 26, 6
START = NUM_LETTERS


def draw(number: int, seed: int) -> np.ndarray:
    """Draws words, int32 [number, WORD_LETTERS]."""
    return np.random.default_rng(seed).integers(0, NUM_LETTERS, (number, WORD_LETTERS), "int32")


def inputs(words: np.ndarray, written: np.ndarray) -> dict[str, np.ndarray]:
    """What the network reads: words, and what is written of their answers, behind a START."""
    before = np.concatenate([np.full((len(words), 1), START, "int32"), written[:, :-1]], axis=1)
    ids = {"encoder_token_ids": words, "decoder_token_ids": before}
    return {**ids, **{name.replace("token_ids", "padding_mask"): np.ones_like(words) for name in ids}}


def network() -> keras.Model:
    """Makes the student and each teacher; outputs are logits, [B, WORD_LETTERS, NUM_LETTERS]."""
    backbone = keras_hub.models.T5Backbone(
        vocabulary_size=NUM_LETTERS + 1,
        num_layers=1,
        num_heads=4,
        hidden_dim=64,
        intermediate_dim=128,
        dropout=0.0,
    )
    logits = keras.layers.Dense(NUM_LETTERS)(backbone.output["decoder_sequence_output"])
    return keras.Model(backbone.input, logits)


def answers(student: keras.Model, words: np.ndarray) -> np.ndarray:
    """Lets a student write, letter by letter."""
    written = np.zeros_like(words)
    for place in range(WORD_LETTERS):
        logits = student.predict(inputs(words, written), batch_size=500, verbose=0)
        written[:, place] = logits[:, place].argmax(axis=-1)
    return written


train, test = draw(20_000, seed=0), draw(1_000, seed=1)
targets = np.sort(train, axis=1)
test = test[[not (targets == answer).all(axis=1).any() for answer in np.sort(test, axis=1)]]
with tempfile.TemporaryDirectory() as exchange:
    models = []
    for group in range(2):
        peers = tf_codistill.PeerExchange(exchange, group, num_groups=2, every_steps=25)
        weight = tf_codistill.schedules.BurnIn(steps=50, weight=1.0)
        models.append(tf_codistill.CodistillationModel(network, peers, distillation_weight=weight))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        models[group].compile(keras.optimizers.Adam(0.002), loss, metrics=["accuracy"], jit_compile=False)
    for turn in range(4):
        models[turn % 2].fit(inputs(train, targets), targets, batch_size=100, verbose=2)

for group, model in enumerate(models):
    share = (answers(model.student, test) == np.sort(test, axis=1)).all(axis=1).mean()
    print(f"group {group}: accuracy {share:.3f} on {len(test)} words whose answers it has not seen")
