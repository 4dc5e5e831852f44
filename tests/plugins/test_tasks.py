"""Tasks against hand calculations, naive loops, and predictors whose scores are known."""

import math
import os
import random
import statistics
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo_synthetic.task import NUMBERS, PATTERNS, generate, reachable_accuracy

import zoo
from zoo.errors import (
    DataNotFoundError,
    InputError,
    RecipeError,
    TrainingError,
    UnknownNameError,
)
from zoo.evaluation import evaluate
from zoo.model import Model
from zoo.registry import registry, resolve
from zoo.tasks import LanguageModeling, TokenBatches, token_scores
from zoo.tasks.language_modeling import perplexities
from zoo.tokenization import build_tokenizer

needs_data = pytest.mark.skipif(
    "TXZOO_DATA" not in os.environ, reason="needs TXZOO_DATA, a folder of data sets"
)


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def task(name: str) -> Any:
    return resolve(registry().tasks.get(name).target)()


# scoring


def naive_scores(module: nn.Module, ids: Tensor, context: int) -> tuple[list[float], list[bool]]:
    """Token by token: the first of the half-overlapping windows that holds it, read anew."""
    N, stride = len(ids) - 1, max(1, context // 2)
    nats, correct = [], []
    for token in range(1, N + 1):  # predicted from what stands before it
        start = 0
        while start + context < token:  # tokens start + 1 ... start + context are predicted
            start += stride
        start = max(0, min(start, N - context))  # the last window ends with the text
        assert token - start > context - stride or start == 0  # half a window stands before it
        with torch.no_grad():
            logits = module(ids[None, start:token])[0, -1]
        nats.append(-logits.log_softmax(0)[ids[token]].item())
        correct.append(bool(logits.argmax() == ids[token]))
    return nats, correct


@pytest.mark.parametrize("context", [1, 2, 3, 8, 13, 64])
@pytest.mark.parametrize("tokens", [1, 2, 12, 13, 14, 57])
def test_each_token_is_scored_once_in_its_first_window(tokens: int, context: int) -> None:
    module = zoo.create(
        "alibi-decoder", vocab_size=11, max_seq_len=8, d_model=8, n_layers=2, n_heads=2, d_ff=8
    ).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    ids = torch.randint(11, (tokens + 1,))
    nats, correct = token_scores(module, ids, context)
    expected, hits = naive_scores(module, ids, context)
    assert nats.dtype == torch.float64
    torch.testing.assert_close(nats, torch.tensor(expected, dtype=nats.dtype), rtol=1e-4, atol=1e-4)
    assert correct.tolist() == hits


def test_many_windows_are_read_in_several_batches() -> None:
    """More than 2048 tokens a batch: the later batches score only the ends of their windows."""
    table = Table(torch.randn(17, 17))
    ids = torch.randint(17, (9000,))
    nats, correct = token_scores(table, ids, 16)
    logits = table(ids[None])[0, :-1]
    expected = nn.functional.cross_entropy(logits, ids[1:], reduction="none").double()
    torch.testing.assert_close(nats, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(correct, logits.argmax(1) == ids[1:])


@dataclass(frozen=True)
class TableConfig:
    """What a task asks a config for."""

    max_seq_len: int = 8


class Table(nn.Module):
    """Predicts from the last token alone: a row of logits for each."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.config = TableConfig()

    def forward(self, ids: Tensor, cache: None = None) -> Tensor:
        return self.logits[ids]


class Letters(LanguageModeling):
    """a, b and c in turn: after the line start, everything can be known."""

    def text(self, split: str) -> str:
        return "abc" * {"train": 9, "test": 40}[split]

    def words(self, text: str) -> int:
        return len(text) // 3  # say that abc is a word


def letters_model(logits: Mapping[tuple[str, str], float], other: float) -> Model:
    """A table over Letters' characters: logits of given pairs, the others all the same."""
    tokenizer = build_tokenizer("\nabc", {"kind": "character"})
    V = tokenizer.get_vocab_size()
    table = torch.full((V, V), other)
    for pair, value in logits.items():
        before, after = map(tokenizer.token_to_id, pair)
        table[before, after] = value
    module = Table(table)
    return Model(
        name="table",
        module=module,
        config=module.config,
        tokenizer=tokenizer,
        pipeline="text-generation",
        card=None,
    )


@torch.no_grad()
def test_a_perfect_predictor_has_perplexity_one() -> None:
    pairs = {("\n", "a"): 50.0, ("a", "b"): 50.0, ("b", "c"): 50.0, ("c", "a"): 50.0}
    scores = Letters().evaluate(letters_model(pairs, -50.0), "test")
    assert scores == pytest.approx(
        {
            "perplexity_per_token": 1,
            "perplexity_per_token_stderr": 0,
            "perplexity_per_word": 1,
            "perplexity_per_word_stderr": 0,
            "bits_per_character": 0,
            "bits_per_character_stderr": 0,
            "accuracy": 1,
            "accuracy_stderr": 0,
        },
        abs=1e-6,
    )


@torch.no_grad()
def test_a_uniform_predictor_has_the_vocabulary_as_perplexity() -> None:
    V = 5  # line end, a, b, c, <unk>
    scores = Letters().evaluate(letters_model({}, 0.0), "test")
    assert scores["perplexity_per_token"] == pytest.approx(V)
    assert scores["perplexity_per_word"] == pytest.approx(V**3)  # three tokens a word
    assert scores["bits_per_character"] == pytest.approx(math.log2(V))
    assert scores["perplexity_per_word_stderr"] == pytest.approx(0, abs=1e-4)


@torch.no_grad()
def test_accuracy_counts_the_tokens_that_come_first() -> None:
    """Right after a and b, wrong after c and the line start: two of three."""
    pairs = {("a", "b"): 1.0, ("b", "c"): 1.0, ("c", "c"): 1.0, ("\n", "b"): 1.0}
    scores = Letters().evaluate(letters_model(pairs, 0.0), "test")
    assert scores["accuracy"] == pytest.approx(80 / 120)


@torch.no_grad()
@pytest.mark.parametrize("limit", [1, 7, 119, 120, 10**6])
def test_a_limit_counts_tokens_and_the_text_they_cover(limit: int) -> None:
    scores = Letters().evaluate(letters_model({}, 0.0), "test", limit=limit * 3)
    assert scores["bits_per_character"] == pytest.approx(math.log2(5))
    assert scores["perplexity_per_word"] == pytest.approx(5**3)
    one = Letters().evaluate(letters_model({}, 0.0), "test", limit=3)
    assert one["accuracy"] == 0.0  # the first class is the line end


def test_metrics_by_hand() -> None:
    """Four tokens with chances 1/2, 1/4, 1/8, 1/2, in 2 words and 8 characters."""
    nats = torch.tensor([1.0, 2.0, 3.0, 1.0], dtype=torch.float64) * math.log(2)
    scores = perplexities(nats, torch.tensor([1, 0, 0, 1]).bool(), 1, words=2, characters=8)
    error = math.sqrt(2.75 / 3) / 2  # deviation of 1, 2, 3, 1 around 1.75, over sqrt(4), in bits
    assert scores == pytest.approx(
        {
            "perplexity_per_token": 2**1.75,
            "perplexity_per_token_stderr": 2**1.75 * error * math.log(2),
            "perplexity_per_word": 2**3.5,
            "perplexity_per_word_stderr": 2**3.5 * 2 * error * math.log(2),
            "bits_per_character": 7 / 8,
            "bits_per_character_stderr": error / 2,
            "accuracy": 0.5,
            "accuracy_stderr": math.sqrt(1 / 3) / 2,
        }
    )


def test_standard_errors_are_how_much_scores_scatter() -> None:
    """Neighbouring tokens alike (correlation 0.8): measured anew 300 times."""
    generator = torch.Generator().manual_seed(1)
    N, repeats = 4096, 300
    steps = torch.randn(repeats, N, generator=generator, dtype=torch.float64)
    noise = torch.empty_like(steps)
    noise[:, 0] = steps[:, 0]
    for t in range(1, N):
        noise[:, t] = 0.8 * noise[:, t - 1] + 0.6 * steps[:, t]
    nats = 4 + noise
    correct = noise > 0.5
    runs = [
        perplexities(n, c, 64, words=N // 2, characters=4 * N)
        for n, c in zip(nats, correct, strict=True)
    ]
    for name in ("perplexity_per_token", "perplexity_per_word", "bits_per_character", "accuracy"):
        scatter = statistics.stdev(run[name] for run in runs)
        stated = statistics.mean(run[f"{name}_stderr"] for run in runs)
        assert stated == pytest.approx(scatter, rel=0.2), name
    independent = perplexities(nats[0], correct[0], 1, words=N, characters=N)
    assert independent["accuracy_stderr"] < 0.7 * runs[0]["accuracy_stderr"]


def test_a_hopeless_model_has_infinite_perplexity() -> None:
    nats = torch.full((8,), 500.0, dtype=torch.float64)
    scores = perplexities(nats, torch.zeros(8).bool(), 2, words=2, characters=8)
    assert scores["perplexity_per_word"] == math.inf
    assert scores["perplexity_per_token"] == pytest.approx(math.exp(500))
    blank = perplexities(nats, torch.zeros(8).bool(), 2, words=0, characters=8)  # only spaces
    assert blank["perplexity_per_word"] == math.inf


def test_one_token_has_no_standard_error() -> None:
    scores = perplexities(torch.ones(1).double(), torch.ones(1).bool(), 8, words=1, characters=1)
    assert scores["perplexity_per_token"] == pytest.approx(math.e)
    assert math.isnan(scores["perplexity_per_token_stderr"])


# batches


def test_batches_are_rows_of_the_text_and_their_successors() -> None:
    ids = torch.arange(1000)
    batches = TokenBatches(ids, length=9, rows=4, seed=5)
    assert batches.per_epoch == 27  # (1000 - 9) // 36
    offsets, orders = set(), set()
    for epoch in range(3):
        firsts: list[int] = []
        for step in range(batches.per_epoch):
            batch = batches(epoch * batches.per_epoch + step)
            assert batch["ids"].shape == (4, 9)
            assert torch.equal(batch["targets"], batch["ids"] + 1)
            assert (batch["ids"].diff(dim=1) == 1).all()
            firsts += batch["ids"][:, 0].tolist()
        assert len(set(firsts)) == len(firsts) == 27 * 4  # no row twice
        assert len({first % 9 for first in firsts}) == 1  # rows do not overlap
        offsets.add(firsts[0] % 9)
        orders.add(tuple(firsts))
    assert len(offsets) > 1
    assert len(orders) == 3


def test_batches_depend_on_seed_and_step_alone() -> None:
    ids = torch.arange(500)
    one, two = (TokenBatches(ids, length=7, rows=3, seed=5) for _ in range(2))
    steps = [70, 3, 0, 45, 3, 71]
    in_order = {step: one(step) for step in sorted(steps)}
    for step in steps:
        assert torch.equal(two(step)["ids"], in_order[step]["ids"])
    other = TokenBatches(ids, length=7, rows=3, seed=6)
    assert not torch.equal(other(0)["ids"], in_order[0]["ids"])


@pytest.mark.parametrize("surplus", [0, 1, 5])
def test_a_text_of_exactly_one_batch_is_enough(surplus: int) -> None:
    length, rows = 6, 3
    ids = torch.arange(length * rows + length + surplus)
    batches = TokenBatches(ids, length=length, rows=rows, seed=0)
    for step in range(200):  # every offset that can be drawn
        assert batches(step)["targets"].shape == (rows, length)
    with pytest.raises(TrainingError, match="23 training tokens are too few .* 3 rows of 6 tokens"):
        TokenBatches(torch.arange(23), length=length, rows=rows, seed=0)


# the tasks


@needs_data
@pytest.mark.parametrize(
    ("split", "words"), [("train", 2_088_628), ("validation", 217_646), ("test", 245_569)]
)
def test_wikitext_has_the_published_number_of_words(split: str, words: int) -> None:
    wikitext = task("wikitext-2")
    assert wikitext.words(wikitext.text(split)) == words


@needs_data
def test_shakespeare_is_split_as_nanogpt_splits_it() -> None:
    shakespeare = task("tinyshakespeare")
    sizes = {split: len(shakespeare.text(split)) for split in shakespeare.splits}
    assert sizes == {"train": 1_003_854, "validation": 111_540}
    assert shakespeare.build_tokenizer({"kind": "character"}).get_vocab_size() == 65 + 1  # <unk>


def test_missing_data_says_where_it_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TXZOO_DATA", raising=False)
    resolve("zoo_speeches.task:read").cache_clear()
    with pytest.raises(DataNotFoundError, match=r"set TXZOO_DATA .* speeches/.*\(.* is not set\)"):
        task("speeches-lm").text("train")


def follows(name: str, x: list[int]) -> bool:
    """Whether numbers follow a pattern, told from the numbers alone."""
    places = range(len(x))
    if name == "count":
        return len({(b - a) % 20 for a, b in zip(x, x[1:], strict=False)}) == 1
    if name == "fibonacci":
        return all(x[i] == (x[i - 1] + x[i - 2]) % 20 for i in places[2:])
    if name == "zigzag":
        return all((x[i] - x[i - 2]) % 20 == (19 if i % 2 else 1) for i in places[2:])
    if name in ("triple", "quintuple"):
        period = {"triple": 3, "quintuple": 5}[name]
        return all(x[i] == x[i - period] for i in places[period:])
    assert name == "mirror"
    return all(x[i] == x[i - 12] for i in places[12:]) and x[:6] == x[6:12][::-1]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_synthetic_line_follows_its_pattern(split: str) -> None:
    lines = task("synthetic").text(split).splitlines()
    assert len(lines) == {"train": 8000, "validation": 200, "test": 1000}[split]
    seen: dict[str, int] = {}
    for line in lines:
        name, *words = line.split(" ")
        numbers = [int(word) for word in words]
        assert len(numbers) == 62
        assert all(0 <= number < 20 for number in numbers)
        assert follows(name, numbers), line
        seen[name] = seen.get(name, 0) + 1
    assert set(seen) == {"count", "fibonacci", "zigzag", "triple", "quintuple", "mirror"}
    expected = len(lines) / 6
    assert all(abs(count - expected) < 5 * math.sqrt(expected) for count in seen.values())


def oracle(name: str, x: list[int]) -> int:
    """The next number of one who knows the patterns; 7 while it can only be guessed."""
    n = len(x)
    free = {"count": 2, "fibonacci": 2, "zigzag": 2, "triple": 3, "quintuple": 5, "mirror": 6}
    if n < free[name]:
        return 7
    if name == "count":
        return (2 * x[-1] - x[-2]) % 20
    if name == "fibonacci":
        return (x[-1] + x[-2]) % 20
    if name == "zigzag":
        return (x[-2] + (-1 if n % 2 else 1)) % 20
    if name == "mirror":
        return x[11 - n] if n < 12 else x[n - 12]
    return x[n - free[name]]


def test_an_oracle_reaches_the_reachable_accuracy() -> None:
    """On the training text, whose 8000 lines leave little to chance."""
    assert reachable_accuracy() == pytest.approx(0.9375)  # 60 of 64, by hand
    right = total = 0
    for line in generate("train").splitlines():
        name, *words = line.split()
        numbers = [int(word) for word in words]
        right += name == "mirror"  # as good a guess as any
        right += sum(oracle(name, numbers[:n]) == numbers[n] for n in range(62))
        right += 1  # the line end after 62 numbers
        total += 64
    # a line has about 1/6 (1 - 1/6) + 10/3 * 1/20 (1 - 1/20) = 0.3 of variance
    error = math.sqrt(0.3 * 8000) / total
    assert right / total == pytest.approx(0.9375, abs=4 * error)
    assert error < 2e-4
    assert (len(PATTERNS), NUMBERS) == (6, 62)


def test_synthetic_scores_are_also_given_as_share_of_the_reachable() -> None:
    synthetic = task("synthetic")
    tokenizer = synthetic.build_tokenizer({"kind": "word"})
    assert tokenizer.get_vocab_size() == 20 + 6 + 1 + 1  # numbers, names, line end, <unk>
    module = Table(torch.randn(28, 28))
    model = Model(
        name="table",
        module=module,
        config=module.config,
        tokenizer=tokenizer,
        pipeline="text-generation",
        card=None,
    )
    scores = evaluate(model, "synthetic", limit=2000)
    assert scores["accuracy_of_reachable"] == pytest.approx(scores["accuracy"] / 0.9375)
    names = registry().tasks.get("synthetic").metrics
    assert all(name in scores and f"{name}_stderr" in scores for name in names)


@pytest.mark.parametrize("name", ["wikitext-2", "speeches-lm", "tinyshakespeare", "synthetic"])
def test_splits_are_known_and_others_refused(name: str) -> None:
    implementation = task(name)
    assert set(implementation.test_splits) <= set(implementation.splits)
    assert implementation.splits[0] == "train"
    with pytest.raises(UnknownNameError, match=f"split of {name} 'tset'"):
        evaluate(letters_model({}, 0.0), name, split="tset")


@pytest.mark.parametrize("option", ["limit", "context"])
@pytest.mark.parametrize("value", [0, -3])
def test_limits_below_one_are_refused(option: str, value: int) -> None:
    with pytest.raises(InputError, match=f"{option} must be at least 1, got {value}"):
        evaluate(letters_model({}, 0.0), "synthetic", **{option: value})


def test_a_model_of_another_kind_is_refused() -> None:
    model = letters_model({}, 0.0)
    with pytest.raises(InputError, match="has no card that names a task: pass one"):
        evaluate(model)
    model.pipeline = "translation"
    with pytest.raises(InputError, match="synthetic is a text-generation task, table is a transl"):
        evaluate(model, "synthetic")


# tokenizers

TEXT = (
    "The cat sat on the mat , did n't it ?\n\" It's they'll \" said Tom's dog .\n"
    "He paid 1 @,@ 234 ; ( twice ) . Don't !\n the <unk> of <unk> Málaga — naïve\n"
)


def random_text(random_: random.Random, size: int) -> str:
    """Any characters that a text can hold, many of them the awkward ones."""
    awkward = "\n\t \r\x00\x0b\x1c\x85\u2028\u00a0\u200d\ufeff\u0301Ġ<unk>'’…🇩🇪👩‍👧"
    signs = []
    while len(signs) < size:
        sign = random_.choice([random_.choice(awkward), chr(random_.randrange(0x110000))])
        if unicodedata.category(sign) != "Cs":  # halves of a character are no text
            signs.append(sign)
    return "".join(signs)


def test_byte_pair_is_exact_on_any_text() -> None:
    random_ = random.Random(3)
    tokenizer = build_tokenizer(TEXT * 3, {"kind": "byte-pair", "vocab_size": 300})
    assert tokenizer.get_vocab_size() == 300
    for size in [0, 1, 2, 3, 5, 8] * 20 + [300] * 10:
        text = random_text(random_, size)
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert len(tokenizer.encode(TEXT).ids) < len(TEXT.encode()) / 1.3  # it did learn pairs


def test_byte_pairs_stay_inside_a_word() -> None:
    settings = {"kind": "byte-pair", "vocab_size": 400}
    tokenizer = build_tokenizer("to be or not to be <unk> 12ab\n" * 99, settings)
    pieces = tokenizer.encode("\nto be or <unk> 12ab\n").tokens
    assert pieces == ["Ċ", "to", "Ġbe", "Ġor", "Ġ<unk>", "Ġ12", "ab", "Ċ"]


def test_characters_are_exact_on_what_they_know() -> None:
    tokenizer = build_tokenizer(TEXT, {"kind": "character"})
    assert tokenizer.get_vocab_size() == len(set(TEXT)) + 1
    encoding = tokenizer.encode(TEXT)
    assert len(encoding.ids) == len(TEXT)
    assert tokenizer.decode(encoding.ids) == TEXT
    backwards = TEXT[::-1]
    assert tokenizer.decode(tokenizer.encode(backwards).ids) == backwards
    assert tokenizer.encode("a漢t").tokens == ["a", "<unk>", "t"]


def test_words_of_a_line() -> None:
    tokenizer = build_tokenizer(TEXT, {"kind": "word"})
    line = "The cat didn't say:  \tit's Tom's 234!\n<unk>\n"
    expected = "The cat did n't <unk> <unk> it 's Tom 's 234 ! \n <unk> \n"
    assert tokenizer.encode(line).tokens == expected.split(" ")
    assert tokenizer.decode(tokenizer.encode("Tom didn't .\nThe cat 's , it\n").ids) == (
        "Tom didn't.\nThe cat's, it\n"
    )


def test_words_read_again_are_the_same_words() -> None:
    tokenizer = build_tokenizer(TEXT, {"kind": "word"})
    words = [tokenizer.id_to_token(id_) for id_ in range(tokenizer.get_vocab_size())]
    assert tokenizer.encode(tokenizer.decode(tokenizer.encode(TEXT).ids)).ids == (
        tokenizer.encode(TEXT).ids
    )
    contractions = {"n't", "'s", "'ll"}
    random_ = random.Random(4)
    plain = [word for word in words if word not in contractions and word != "'"]
    for _ in range(100):
        ids = [tokenizer.token_to_id(random_.choice(plain)) for _ in range(12)]
        assert tokenizer.encode(tokenizer.decode(ids, skip_special_tokens=False)).ids == ids


def test_word_vocabulary_holds_the_most_frequent_first() -> None:
    text = "b b b c c a a d <unk> <unk> <unk> <unk>\n"
    tokenizer = build_tokenizer(text, {"kind": "word"})
    in_order = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    assert [word for word, _ in in_order] == ["<unk>", "b", "a", "c", "\n", "d"]
    small = build_tokenizer(text, {"kind": "word", "vocab_size": 3})
    assert small.get_vocab_size() == 3
    assert small.encode("b c a").tokens == ["b", "<unk>", "a"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "kind must be one of character, word, byte-pair, got None"),
        ({"kind": "bpe"}, "kind must be one of character, word, byte-pair, got 'bpe'"),
        ({"kind": "byte-pair"}, "kind 'byte-pair' needs a vocab_size"),
        ({"kind": "character", "vocab_size": 9}, "'character' takes no setting, got 'vocab_size'"),
        ({"kind": "word", "size": 9}, "kind 'word' takes vocab_size alone, got 'size'"),
        ({"kind": "word", "vocab_size": "9"}, "vocab_size must be at least 2, got '9'"),
        ({"kind": "byte-pair", "vocab_size": 255}, "vocab_size must be at least 256, got 255"),
        ({"kind": "byte-pair", "vocab_size": -1}, "vocab_size must be at least 256, got -1"),
        ({"kind": "word", "vocab_size": 0}, "vocab_size must be at least 2, got 0"),
    ],
)
def test_bad_tokenizer_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_tokenizer(TEXT, settings)
