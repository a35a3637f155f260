# SPDX-License-Identifier: Apache-2.0
"""Strings and the ids that HuggingFace's tokenizers give them. Nothing that this wrote may be changed to make a test pass.

    pip install transformers tokenizers        (made with 5.23 and 0.23)
    python make_tokenizer.py                   (in this folder; writes tiny-opt.jsonl and variants.json)

tiny-opt.jsonl   hard cases and random strings over ../tiny-opt, as AutoTokenizer does it: "ids" with control tokens as text (split_special_tokens), "ids_special" by default
variants.json    the same of changes to tokenizer.json (JSON merge patches), as Tokenizer.from_str does it; "text_of_ids" is decode() without skipping anything
"""
import copy, json, random, unicodedata
from tokenizers import Tokenizer
from transformers import AutoTokenizer
R = random.Random(3)
H = ["", " ", "  ", "   ", "\n", "\n\n", " \n", "\n ", "\t", "\t\t x", "\r\n", "a\r\nb", "Hello world", " Hello world", "Hello  world", "Hello world ", "Hello world  ",
 "I'm I'll I've I'd you're it's don't", "I'M I'LL I'VE I'D YOU'RE IT'S DON'T", "'s 't 're 've 'm 'll 'd", "''s '' ' '", "x's's", "can’t won’t it’s",
 "1234567890", "3.14159", "1,000,000", "1st 2nd", "x1y2", "²³¹½¾", "Ⅷ Ⅻ", "١٢٣", "१२३", "𝟘𝟙𝟚", "a_b_c", "__init__", "foo.bar(baz)", "if (x<3) {return y;}", "<html><b>", "&amp;", "C++", "#include <a>",
 "é", "é", "naïve café", "Ångström", "ﬁ ﬂ", "İıſß", "ẞ", "Ω≈ç√∫", "→⇒", "…", "“quoted” ‘single’", "—–-", "日本語", "日本語 テスト", "中文，标点。", "한국어 조선글", "ไทย", "العربية", "עברית", "हिन्दी", "தமிழ்", "ქართული", "Ελληνικά", "Русский", "Việt",
 "🙂", "👩‍👩‍👧‍👦", "🇩🇪🇫🇷", "👍🏽", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "a🙂b", " 🙂", "🙂 🙂", " ", "a b", " x", " ", "  ", " ", "​", "‌‍", "⁠", "　", "a　b", "\u0085", "a\u0085b", "\u1680", "᠎", "﻿", "\ufeffBOM", "\x00", "a\x00b", "\x01\x02\x1f", "\x7f", "\x80", "\x9f", "\xad", "\u0300", "x\u0300\u0301", "\u0903", "\u20dd", "\ue000", "\uffff", "\ufdd0", "\U000e0001", "\U0010ffff", "\U0001d54f", "ǅ", "ʰ", "ª", "٠", "ↀ", "〇", "㊀", "①",
 "</s>", "<s>", "<pad>", "<unk>", "<mask>", "a</s>b", "a </s> b", " </s>", "</s></s>", "</s", "s>", "<pad><pad>x", "</S>", "< /s>", "madeupword0000", "a madeupword0001 b",
 "The quick brown fox jumps over the lazy dog.", "supercalifragilisticexpialidocious", "antidisestablishmentarianism", "a" * 300, "ab" * 200, " " * 100, "\n" * 50, "!" * 64, "=" * 80, "-" * 33, "." * 17, "ha" * 50, "é" * 40, "🙂" * 20,
 "https://example.org/a?b=c&d=%20#e", "user@example.org", "C:\\path\\file", "/usr/bin/env", "0xdeadbeef", "1e-5", "$100", "50%", "#tag @at", "a,b;c:d", "...", "?!", "(((", "\"'\"", "`code`", "```py\nx=1\n```", "* item\n  * sub\n", "|a|b|", "\\n\\t", "{\"a\": [1, 2]}", "\\u00e9",
 "x\u2028y", "x\u2029y", "x\x0by", "x\x0cy", "x\x1cy", " \t \n \t", "  a", " a", "a ", "a  ", "a\n", "a\n\n", "a \n b", "word\u200bword", "1 2", "1\n2", "１２３ ＡＢＣ", "℃ ℡ №", "ﷺ", "𐍈", "𒀀", "🀄", "Z̸̡̛͠a̵l̶g̷o̴"]
ranges = [(0x20, 0x7e), (0xa0, 0x17f), (0x370, 0x3ff), (0x400, 0x4ff), (0x590, 0x6ff), (0x900, 0x97f), (0x1e00, 0x1eff), (0x2000, 0x206f), (0x2070, 0x20cf), (0x2100, 0x218f), (0x2190, 0x27bf), (0x3000, 0x30ff), (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0xe000, 0xe0ff), (0xfe00, 0xffef), (0x1f300, 0x1faff), (0x10000, 0x10fff), (0x1d400, 0x1d7ff), (0, 0x1f), (0x300, 0x36f), (0xe0100, 0xe01ef)]
words = "the king and his lord shall speak unto thee with a heart of gold Warwick COMINIUS: sulphurous, o'er".split()
def piece():
    k = R.randrange(9)
    if k <= 2: return R.choice(words)
    if k == 3: return "".join(chr(R.randint(*R.choice(ranges))) for _ in range(R.randint(1, 6)))
    if k == 4: return R.choice([" ", "  ", "\n", "\t", "\r\n", "\u3000", "\u00a0", "\u2009", "\u0085", "\x0b"]) * R.randint(1, 4)
    if k == 5: return R.choice(["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "’s", "'", "''"])
    if k == 6: return str(R.randint(0, 10 ** R.randint(1, 12)))
    if k == 7: return R.choice(["</s>", "<pad>", "<s>", "<unk>", "<", ">", "/s"]) if R.random() < .4 else R.choice("!?.,;:()[]{}<>/\\|@#$%^&*-_=+~`\"'") * R.randint(1, 5)
    return chr(R.randint(0x20, 0x2ffff))
def clean(s):  # characters assigned in Unicode 14 or never to be: later versions of Unicode move others between classes
    ok = lambda c: not 0xd800 <= ord(c) <= 0xdfff and (unicodedata.category(c) != "Cn" or (ord(c) & 0xfffe) == 0xfffe or 0xfdd0 <= ord(c) <= 0xfdef)
    return "".join(c for c in s if ok(c))

def texts(n): return [clean("".join(piece() + R.choice(["", "", " "]) for _ in range(R.randint(1, 25)))) for _ in range(n)]

tok = AutoTokenizer.from_pretrained("../tiny-opt")
with open("tiny-opt.jsonl", "w") as f:
    for t in H + texts(100):
        a, p = tok(t).input_ids, tok(t, split_special_tokens=True).input_ids
        assert tok.decode(p[1:], skip_special_tokens=False, clean_up_tokenization_spaces=False) == t, repr(t)
        f.write(json.dumps({"text": t, "ids": p, "ids_special": a}, ensure_ascii=True) + "\n")

base = json.load(open("tokenizer.json"))
def added(content, i, **flags): return dict({"id": 512 + i, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}, **flags)
mixed = [added("[A]", 0, lstrip=True), added("[B]", 1, rstrip=True), added("[C]", 2, lstrip=True, rstrip=True, special=True), added("caf\u00e9", 3, single_word=True), added("the king", 4, normalized=True),
         added("king of", 5), added("  ", 6), added("    ", 7), added("abc", 8, special=True), added("bcd", 9), added("\u65e5\u672c", 10, single_word=True, normalized=True), added(" x ", 11, rstrip=True), added("bb", 12, normalized=True)]
byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
frame = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "</s>", "type_id": 0}}, {"SpecialToken": {"id": "both", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
         "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}, "both": {"id": "both", "ids": [1, 4], "tokens": ["<pad>", "!"]}}}
old_merges = [" ".join(m) for m in base["model"]["merges"]]
shuffled = copy.deepcopy(base["model"]["merges"]); R.shuffle(shuffled)  # ranks that no training would give: merges whose parts come later
twice = base["model"]["merges"] + base["model"]["merges"][:40]          # the later rank counts
variants = {
  "as it is": {},
  "merges as strings, no type": {"model": {"merges": old_merges, "type": None}},
  "shuffled merges": {"model": {"merges": shuffled}},
  "merges listed twice": {"model": {"merges": twice}},
  "ignore merges": {"model": {"merges": base["model"]["merges"][:60], "ignore_merges": True}},
  "few merges": {"model": {"merges": base["model"]["merges"][:60]}},
  "prefix space": {"pre_tokenizer": {"add_prefix_space": True}},
  "no split": {"pre_tokenizer": {"use_regex": False}},
  "no template": {"post_processor": byte_level},
  "template in a sequence": {"post_processor": {"type": "Sequence", "processors": [byte_level, frame], "single": None, "pair": None, "special_tokens": None}},
  "added tokens": {"added_tokens": base["added_tokens"] + mixed},
  "added tokens and prefix space": {"added_tokens": base["added_tokens"] + mixed, "pre_tokenizer": {"add_prefix_space": True}},
}
def patched(o, patch):
    if not isinstance(patch, dict): return patch
    o = dict(o) if isinstance(o, dict) else {}
    for k, v in patch.items():
        if v is None: o.pop(k, None)
        else: o[k] = patched(o.get(k), v)
    return o
A = ["", " ", "[A]", "x [A] y", "x  [B]  y", "x [C] y", "[A][B][C]", " [A] [B] [C] ", "\u3000[A]\u3000", "[B]\u0085\u2003x", "caf\u00e9", "caf\u00e9s", " caf\u00e9 ", "xcaf\u00e9", "caf\u00e9_", "caf\u00e9-caf\u00e9", "caf\u00e9\u0301", "caf\u00e9\u200d",
     "the king of", "the king", "the king of the king", "king of the king of", "   ", "     ", "      x", "abcd", "xbcd", "abbcd", "ab", "abcbcd", "bbb", "abbb", "\u65e5\u672c", "\u65e5\u672c\u8a9e", "(\u65e5\u672c)", "q x  x   x z", " x [A]", "[B]  x  [C]  x ", "</s>[A]", "[B] </s>", "a</s>b", "abc</s>abc", "\n[A]\n", "[A", "[[A]]"]
with open("variants.json", "w") as f:
    out = []
    for name, patch in variants.items():
        t = Tokenizer.from_str(json.dumps(patched(base, patch)))
        assert all(t.token_to_id(a["content"]) == a["id"] for a in patch.get("added_tokens", []))
        cases = []
        for text in A + texts(12) + ["aaaaaaa" * 30, "the the the  the", "I'll see the king's"]:
            t.encode_special_tokens = True
            ids = t.encode(text).ids
            t.encode_special_tokens = False
            cases.append({"text": text, "ids": ids, "ids_special": t.encode(text).ids, "text_of_ids": t.decode(ids, skip_special_tokens=False), "text_skipped": t.decode(t.encode(text).ids, skip_special_tokens=True)})
        out.append({"name": name, "patch": patch, "cases": cases})
    json.dump(out, f, ensure_ascii=True, separators=(",", ":"))
