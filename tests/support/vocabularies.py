"""Tokenizers of two kinds, trained on a text that stays as it is, and tiny models that have them."""

import json
from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT = [
    *Path(__file__).with_name("vocabulary.txt").read_text(encoding="utf-8").split("\n"),
    *["Grüße aus Köln, où l'été est déjà fini; mañana será otro día."] * 5,
    "Привет, как дела? Сегодня хорошая погода в Москве.",
    "今日はいい天気ですね。",
]
KINDS = ("bytes", "sentencepiece")
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}assistant:"
ROWS = 1300  # more than there are tokens, as in published models


def trained(kind: str) -> Tokenizer:
    special = [AddedToken(text, special=True) for text in ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")]
    if kind == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=1200, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
    else:
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        special += [AddedToken(f"<0x{byte:02X}>", special=False) for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=1200, special_tokens=special)
    made.train_from_iterator(TEXT, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", made.token_to_id("<s>"))]
    )
    return made


def write_model(kind: str, folder: Path, *, tied: bool = True) -> Path:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained(kind), bos_token="<s>", eos_token="<|im_end|>", unk_token="<unk>",
        chat_template=TEMPLATE,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=ROWS, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, bos_token_id=1, eos_token_id=[2, tokenizer.eos_token_id], tie_word_embeddings=tied,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def gguf_of(folder: Path, file: Path) -> Path:
    """The model of a folder as llama.cpp's converter writes it, with byte-level merges."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    data, config = json.loads((folder / "tokenizer.json").read_text()), model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(ROWS)
    special = {entry["id"] for entry in data["added_tokens"]}
    tokens = {token: text for text, token in tokenizer.get_vocab().items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokens.get(token, f"[PAD{token}]") for token in range(ROWS)])
    writer.add_token_types([3 if token in special else 1 if token in tokens else 5 for token in range(ROWS)])
    writer.add_token_merges([" ".join(merge) for merge in data["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(TEMPLATE)
    names = {"embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    names |= {"model.layers": "blk", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    names |= {f"self_attn.{one}_proj": f"attn_{one}" for one in "qkv"} | {"self_attn.o_proj": "attn_output"}
    names |= {f"mlp.{one}_proj": f"ffn_{one}" for one in ("gate", "up", "down")}
    for name, tensor in model.state_dict().items():
        for before, after in names.items():
            name = name.replace(before, after)
        name, values = name.removeprefix("model."), tensor.float().numpy()
        if not (name == "output.weight" and config.tie_word_embeddings):
            is_table = name in ("token_embd.weight", "output.weight")
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(values, kind) if is_table else values,
                              raw_dtype=kind if is_table else None)  # fmt: skip
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
