"""Check that trimmed tokenizers write covered texts as before, and how much longer other texts become.

    python benchmarks/vocabularies.py TOKENIZER_FOLDER ... --texts FILE ... [--out FILE]

Each folder holds a tokenizer.json. Kept are the tokens of ``ascii``, of ``latin``, and of ``--sets`` random sets that
are closed under their merges. Every text is tokenised with all tokens and with those that stay. Prints for each
tokenizer how many texts are covered, how many of these differ (none may), how many other texts do not decode to what
was written, and for each file how many more tokens its texts take under ``ascii`` and ``latin``.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

from tokenizers import Tokenizer

from layercut.selection.vocabulary import texts_in_file, vocabulary_of
from layercut.surgery.channels import Vocabulary
from layercut.surgery.trimming import tokens_of_folder, trim_token_files


def draw_vocabulary(folder: Path, seed: int) -> Vocabulary:
    """A random set of tokens, closed under their merges."""
    tokens, size = tokens_of_folder(folder), num_tokens(folder)
    draw = random.Random(seed)
    wanted = draw.sample(sorted(tokens.texts), k=round(draw.uniform(0.05, 0.8) * len(tokens.texts)))
    return Vocabulary(name=f"random:{seed}", size=size, kept=tuple(sorted(tokens.close(wanted))))


def num_tokens(folder: Path) -> int:
    return 1 + max(Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab().values())


def check_tokenizer(folder: Path, texts: dict[str, list[str]], num_sets: int) -> dict[str, object]:
    """Counts for one tokenizer over all sets and texts."""
    before = Tokenizer.from_file(str(folder / "tokenizer.json"))
    named = [vocabulary_of(tokens_of_folder(folder), name, num_tokens(folder), ()) for name in ("ascii", "latin")]
    covered = different = lost = 0
    longer: dict[str, dict[str, float]] = {}
    for vocabulary in [*named, *(draw_vocabulary(folder, seed) for seed in range(num_sets))]:
        after = Tokenizer.from_str(json.dumps(trim_token_files(folder, vocabulary)["tokenizer.json"]))
        for name, group in texts.items():
            old = [encoding.ids for encoding in before.encode_batch(group)]
            new = [encoding.ids for encoding in after.encode_batch(group)]
            for old_ids, new_ids in zip(old, new, strict=True):
                if all(token in vocabulary.new_ids for token in old_ids):
                    covered += 1
                    different += [vocabulary.new_ids[token] for token in old_ids] != new_ids
                else:
                    lost += before.decode(old_ids) != after.decode(new_ids)
            if vocabulary in named:
                share = sum(map(len, new)) / sum(map(len, old)) - 1
                longer.setdefault(vocabulary.name, {})[name] = round(share, 4)
    rows = {vocabulary.name: len(vocabulary.kept) for vocabulary in named}
    return {"tokens": named[0].size, **rows, "covered": covered, "different": different, "lost": lost, "longer": longer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--texts", nargs="+", type=Path, required=True, help="files of texts")
    parser.add_argument("--most", type=int, default=3000, help="texts of each file")
    parser.add_argument("--sets", type=int, default=5, help="random sets of tokens")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    texts = {file.stem: [text for text in texts_in_file(file) if text][: options.most] for file in options.texts}
    print({name: len(group) for name, group in texts.items()}, flush=True)
    results = {}
    for folder in options.folders:
        results[folder.name] = result = check_tokenizer(folder, texts, options.sets)
        print(folder.name, json.dumps(result), flush=True)
        if options.out:
            options.out.write_text(json.dumps(results, indent=2) + "\n")
    sys.exit(any(result["different"] or result["lost"] for result in results.values()))


if __name__ == "__main__":
    main()
