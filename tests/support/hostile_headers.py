"""Headers of model files that lie: of GGUF and of safetensors, by name. Each must be refused in one line."""

import json
import struct
from typing import Any

U32, F32, STRING, ARRAY, U64, BOOL = 4, 6, 8, 9, 10, 7
LONG = "x" * 10**6


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def field(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str | bytes = "a", sizes: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    head = text(name) + struct.pack("<I", len(sizes))
    return head + struct.pack(f"<{len(sizes)}Q", *sizes) + struct.pack("<IQ", kind, offset)


def gguf(*fields: bytes, tensors: tuple[bytes, ...] = (tensor(),), version: int = 3, **counts: int) -> bytes:
    """A file with an architecture, these fields and tensors of 32 numbers."""
    every = (field("general.architecture", STRING, text("llama")), *fields)
    num_tensors, num_fields = counts.get("tensors_said", len(tensors)), counts.get("fields_said", len(every))
    head = b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_fields)
    data = head + b"".join(every) + b"".join(tensors)
    return data + bytes(-len(data) % 32) + bytes(4 * 32)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


_NUMBERS = ("llama.block_count", "split.count", "general.alignment", "tokenizer.ggml.eos_token_id",
            "tokenizer.ggml.bos_token_id", "llama.nextn_predict_layers")  # fmt: skip
_TEXTS = ("general.name", "general.license", "tokenizer.ggml.pre", "general.architecture")
GGUF: dict[str, bytes] = {
    "empty": b"",
    "a magic alone": b"GGUF",
    "another magic": b"GGUX" + bytes(60),
    "zeros": bytes(400),
    "an old version": gguf(version=1),
    "a far version": gguf(version=2**31),
    "big-endian": gguf(version=3 << 24),
    "many fields said": gguf(fields_said=2**63),
    "few fields said": gguf(field("a", U32, u32(1)), fields_said=1),
    "many tensors said": gguf(tensors_said=2**63),
    "no tensors": gguf(tensors=()),
    "no architecture": gguf().replace(b"general.architecture", b"general.architectura"),
    "an unknown type": gguf(field("a", 99, u32(1))),
    "an array of unknown type": gguf(field("a", ARRAY, array(99, 1))),
    "a long array of unknown type": gguf(field("a", ARRAY, array(99, 2**40))),
    "a long array of numbers": gguf(field("a", ARRAY, array(U32, 2**62))),
    "an array longer than any vocabulary": gguf(field("a", ARRAY, array(BOOL, 2**24 + 1, bytes(2**24 + 1)))),
    "a long array of texts": gguf(field("a", ARRAY, array(STRING, 2**62))),
    "a long array of arrays": gguf(field("a", ARRAY, array(ARRAY, 2**62))),
    "deep arrays": gguf(field("a", ARRAY, array(ARRAY, 1) * 5000 + array(U32, 1, u32(1)))),
    "deep long arrays": gguf(field("a", ARRAY, array(ARRAY, 10**5) * 5000)),
    "a text without end": gguf(field("a", STRING, struct.pack("<Q", 2**63))),
    "a key without end": gguf(struct.pack("<Q", 2**64 - 1)),
    "a text that is no UTF-8": gguf(field("a", STRING, text(b"\xff\xfe"))),
    "a key that is no UTF-8": gguf(field(b"\xff", U32, u32(1))),
    "a tensor's name that is no UTF-8": gguf(tensors=(tensor(b"\xff"),)),
    "many dimensions": gguf(tensors=(tensor(sizes=(1,) * 1000),)),
    "many dimensions said": gguf(tensors=(text("a") + struct.pack("<I", 2**32 - 1),)),
    "a huge dimension": gguf(tensors=(tensor(sizes=(2**63,)),)),
    "huge dimensions": gguf(tensors=(tensor(sizes=(2**64 - 1,) * 4),)),
    "an unknown ggml type": gguf(tensors=(tensor(kind=12345),)),
    "a far offset": gguf(tensors=(tensor(offset=2**64 - 32),)),
    "a huge alignment": gguf(field("general.alignment", U32, u32(2**32 - 1))),
    "alignment 0": gguf(field("general.alignment", U32, u32(0))),
    "a tensor's long name": gguf(tensors=(tensor(LONG, kind=12345),)),
    "a long architecture": gguf(field("general.architecture", STRING, text(LONG))),
    "a terminal's architecture": gguf(field("general.architecture", STRING, text("\x1b[2J\n"))),
    "an empty architecture": gguf(field("general.architecture", STRING, text(""))),
    "many layers": gguf(field("llama.block_count", U32, u32(2**31))),
    "no layers": gguf(field("llama.block_count", U32, u32(0))),
    "one of many parts": gguf(field("split.count", U32, u32(9))),
    **{f"{key} is a text": gguf(field(key, STRING, text("x"))) for key in _NUMBERS},
    **{f"{key} is a long text": gguf(field(key, STRING, text(LONG))) for key in _NUMBERS},
    **{f"{key} is a fraction": gguf(field(key, F32, struct.pack("<f", 1.5))) for key in _NUMBERS},
    **{f"{key} is infinite": gguf(field(key, F32, struct.pack("<f", float("inf")))) for key in _NUMBERS},
    **{f"{key} is a truth": gguf(field(key, BOOL, b"\1")) for key in _NUMBERS},
    **{f"{key} is huge": gguf(field(key, U64, struct.pack("<Q", 2**64 - 1))) for key in _NUMBERS},
    **{f"{key} is negative": gguf(field(key, 5, struct.pack("<i", -1))) for key in _NUMBERS},
    **{f"{key} is a number": gguf(field(key, U32, u32(7))) for key in _TEXTS},
    **{f"{key} is a fraction": gguf(field(key, F32, struct.pack("<f", 1.5))) for key in _TEXTS},
}


def safetensors(header: Any, data: bytes = bytes(4)) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def one(**change: Any) -> bytes:
    return safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | change})


_ENTRY = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
_BAD: dict[str, tuple[Any, ...]] = {
    "dtype": ("F33", 3, None, [], {}, "", LONG, "\x1b[2J"),
    "shape": ("1", 1, None, {}, [1.5], ["1"], [None], [[1]], [-1], [True], [2**64], [10**300], [1] * 100, [2**62] * 9),
    "data_offsets": ("0", 4, None, {}, [], [0], [0, 4, 8], [4, 0], [0, 8], [-4, 0], [0.0, 4.0], ["0", "4"], [0, 2**70]),
}
SAFETENSORS: dict[str, bytes] = {
    "empty": b"",
    "short": b"\x00\x01",
    "zeros": bytes(64),
    "a length without end": b"\xff" * 8,
    "a longer header than file": struct.pack("<Q", 10**6) + b"{}",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\n",
    "no UTF-8": safetensors(b'{"\xff": ' + _ENTRY.encode() + b"}"),
    "torn": safetensors(b'{"a": '),
    "deep": safetensors(b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "deep objects": safetensors(b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "deep metadata": safetensors(b'{"__metadata__": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "half a pair": safetensors(b'{"\\ud83d": ' + _ENTRY.encode() + b"}"),
    "a long name": safetensors({"x" * 10**7: {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}),
    "a name with spaces": safetensors({"x " * 10**6: {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}),
    "a terminal's name": safetensors({"\x1b[2J\n": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}),
    "more bytes than said": one() + b"x",
    "fewer bytes than said": one()[:-1],
    **{f"header {value!r}": safetensors(value) for value in (None, [], [1], "a", 3, True)},
    **{f"tensor {value!r}": safetensors({"a": value}) for value in (None, [], "a", 3, {}, [[]])},
    **{
        f"metadata {value!r}": safetensors({"__metadata__": value, "a": json.loads(_ENTRY)})
        for value in ([1], "pt", 3, True, {"format": 3}, {"format": None}, {"format": {}}, [["format", "pt"]])
    },
    **{f"{key} {value!r:.30}": one(**{key: value}) for key, values in _BAD.items() for value in values},
}
_MAPS: tuple[Any, ...] = (
    None, [], 3, "a", {}, [["a", "b"]], {"a": 3}, {"a": None}, {"a": ""}, {"a": "../../etc/passwd"},
    {"a": "/etc/passwd"}, {"a": "a\x00b"}, {"a": LONG}, {LONG: "none"}, {"a": "\x1b[2J"}, {"a": ".."}, {"": ""},
)  # fmt: skip
INDEX: dict[str, bytes] = {
    "empty": b"",
    "torn": b'{"weight_map": ',
    "deep": b'{"weight_map": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"weight_map":' * 3000 + b"1" + b"}" * 3000,
    "no UTF-8": b'{"weight_map": {"\xff": "a"}}',
    **{f"{value!r}": json.dumps(value).encode() for value in (None, [], 3, "a", {}, True)},
    **{f"weight_map {value!r:.30}": json.dumps({"weight_map": value}).encode() for value in _MAPS},
}
