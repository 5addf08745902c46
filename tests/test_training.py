"""The training loop and the small model that it makes."""

import itertools

import pytest
import torch

from mechkit.errors import InputError, MechkitError
from mechkit.models import Decoder, DecoderConfig
from mechkit.models.files import cache_folder
from mechkit.tasks import ioi
from mechkit.training import Batch, SmallIOISettings, TrainingSettings, small_ioi, train_decoder, word_tokenizer
from mechkit.training.indirect_object import _batches
from mechkit.training.loop import weighted_loss

TINY = DecoderConfig(n_layers=1, n_heads=2, d_model=16, d_vocab=5, n_context=8)


def repeat_batches(seed=0):
    """The next token is the one before it."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        tokens = torch.randint(5, (16, 1), generator=generator).expand(-1, 6)
        yield Batch(tokens[:, :-1], tokens[:, 1:], torch.ones(16, 5))


def trained(steps=60):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = Decoder(TINY)
    return decoder, train_decoder(decoder, repeat_batches(), TrainingSettings(steps=steps, learning_rate=1e-2))


def test_the_loop_learns_and_repeats_itself_exactly():
    (first, losses), (second, again) = trained(), trained()
    assert losses[0] > 1.0 > 0.1 > losses[-1]
    assert losses == again
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not first.training


def test_running_out_of_batches_is_an_error():
    with pytest.raises(InputError, match="expected 5 batches, got 2"):
        train_decoder(Decoder(TINY), itertools.islice(repeat_batches(), 2), TrainingSettings(steps=5))


def test_the_loss_counts_each_target_by_its_weight():
    logits = torch.tensor([[[0.0, 0.0], [0.0, torch.tensor(3.0).log()], [9.0, -9.0]]])
    batch = Batch(torch.zeros(1, 3, dtype=torch.long), torch.tensor([[0, 1, 1]]), torch.tensor([[1.0, 3.0, 0.0]]))
    # -log 1/2 once, -log 3/4 three times, the last not at all
    expected = (torch.tensor(2.0).log() + 3 * torch.tensor(4 / 3).log()) / 4
    assert weighted_loss(logits, batch).item() == pytest.approx(expected.item(), abs=1e-6)


def test_the_rate_rises_then_falls():
    settings = TrainingSettings(steps=100, warm_up=10)
    rates = [settings.rate_at(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1.0 and rates[100] == 0.0
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_the_word_tokenizer_keeps_spaces_and_joins_back():
    text = "When Mary and John's cat left the store, John gave it to"
    tokenizer = word_tokenizer([text])
    tokens = tokenizer(text)["input_ids"]
    assert tokenizer.decode(tokens) == text
    assert tokenizer.convert_ids_to_tokens(tokens)[:3] == ["When", " Mary", " and"]
    assert tokenizer(" Zoe")["input_ids"] == [tokenizer.unk_token_id] == [0]


def test_batches_keep_the_sentence_and_change_its_names(word_tokenizer):
    settings = SmallIOISettings(batch=8)
    pairs = ioi(word_tokenizer, n=20, seed=0).pairs
    names = torch.tensor(word_tokenizer.convert_tokens_to_ids([" Mary", " John", " Paul"]))
    batch = next(_batches(pairs, names, settings))
    for tokens, targets, weights in zip(batch.tokens, batch.targets, batch.weights, strict=True):
        end = int(weights.argmax())
        used = [token for token in tokens[: end + 1].tolist() if token in names]
        io, subject = sorted(set(used), key=used.count)
        assert len(used) == 3 and targets[end] == io != subject
        assert weights[end] == 1.0 and not weights[end + 1 :].any()


def test_names_come_in_slowly():
    settings = SmallIOISettings()
    known = [settings.known_names(step, of=250) for step in range(0, 1200, 50)]
    assert known[0] == known[6] == 8 and known == sorted(known) and known[-1] == 250


def test_too_little_training_is_said(monkeypatch):
    settings = SmallIOISettings(prompts=50, training=TrainingSettings(steps=2))
    with pytest.raises(MechkitError, match="expected at least 99% right on held-out prompts"):
        small_ioi(cache=False, settings=settings)


def test_the_small_model_is_cached_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("MECHKIT_CACHE", str(tmp_path))
    monkeypatch.setattr("mechkit.training.indirect_object.ENOUGH", 0.0)
    settings = SmallIOISettings(prompts=50, training=TrainingSettings(steps=2))
    with monkeypatch.context() as broken:
        broken.setattr(Decoder, "save", lambda self, folder: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            small_ioi(settings=settings)
    assert list((cache_folder() / "trained").iterdir()) == []
    first = small_ioi(settings=settings)
    (folder,) = (cache_folder() / "trained").iterdir()
    written = (folder / "model.safetensors").stat().st_mtime_ns
    second = small_ioi(settings=settings)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert first.name == second.name == "small-ioi"
    assert first.provenance["weights_sha256"] == second.provenance["weights_sha256"]
    assert "small_ioi" in first.provenance["source"]
    prompt = first.to_tokens("When Mary and John went to the store, John gave a drink to")
    assert torch.equal(first.run(prompt).logits, second.run(prompt).logits)


def test_the_small_model_completes_sentences_it_has_not_seen():
    model = small_ioi()
    for corruption, most in (("swap", -5.0), ("random_s2", 2.0), ("abc", 2.0)):
        task = ioi(model, n=100, seed=12345, corruption=corruption)
        assert not task.dropped
        clean, corrupted = (
            task.metric(model.last_logits([list(p) for p in prompts]), task.pairs)
            for prompts in (task.pairs.clean, task.pairs.corrupted)
        )
        assert (clean > 0).double().mean() >= 0.98
        assert clean.mean() > 5 and corrupted.mean() < most
