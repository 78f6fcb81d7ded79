"""The language model's table in benchmarks/README.md is that of the CSV, and the text gives what the model is said to have.

Must not train: that takes minutes.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from benchmarks import results, train_lm
from benchmarks.table import replaced


def test_table_is_that_of_the_csv():
    text = train_lm.README.read_text(encoding="utf-8")
    assert replaced(text, train_lm.markdown(results.read(train_lm.FIGURES)), train_lm.BEGIN, train_lm.END) == text


def test_every_word_of_the_vocabulary_has_a_row():
    """A pair numbered beyond the vocabulary would be a target out of range; a batch too short, other logits than timed."""
    batches = train_lm.batches()
    assert {tuple(batch.shape) for batch in batches} == {(train_lm.SEQUENCES, train_lm.LENGTH + 1)}
    assert min(int(batch.min()) for batch in batches) >= 0
    assert 4000 < max(int(batch.max()) for batch in batches) < train_lm.VOCABULARY
