"""Translation: pairs of sentences in batches, smoothed loss, BLEU, chrF and perplexity.

Letters: B batch, S source length, T target length, V vocabulary, N sentences.
"""

import math
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from zoo.errors import InputError, MissingExtraError, TrainingError
from zoo.nn.loss import IGNORED, cross_entropy
from zoo.pipelines import prefix_of, tokenizer_of
from zoo.pipelines.reading import CHUNK, Ids, Reader, by_length, pad
from zoo.tasks.base import BaseTask
from zoo.tasks.classification import Floats, LengthBatches
from zoo.tasks.masked_language import ratio
from zoo.tokenization import END_OF_TEXT, build_tokenizer, end_texts, pad_id_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from zoo.model import Model

ENDS = (END_OF_TEXT, "</s>")  # ours, T5's and Marian's
RESAMPLES = 1000  # as sacrebleu's own command draws
INTERVAL = (2.5, 97.5)  # percentiles of the draws
SCORED_TOKENS = 2048  # of a batch that is scored: (B, T, V) logits are what takes memory
WORDS = (5, 10, 15, 20, 30)  # the longest sources of each range but the last, in words


class Translation(BaseTask):
    """Sentences to be put into another language. A subclass says how to read a split.

    The module is called as `module(source, ids, real)`, source and real (B, S), ids (B, T), and
    gives logits (B, T, V). A source is its tokens and one that ends it; a target is read behind the
    token for padding, and must give its tokens and the one that ends it.

    Attributes:
        label_smoothing: how much of a target's weight all tokens share evenly (Szegedy et al. 2016,
            arXiv:1512.00567, section 7; Vaswani et al. 2017, arXiv:1706.03762, section 5.4).
        num_beams: of the translations that are measured.
    """

    label_smoothing = 0.1
    num_beams = 4

    @abstractmethod
    def pairs(self, split: str) -> tuple[Sequence[str], Sequence[str]]:
        """The sources of a split, and a translation of each."""

    def references(self, split: str) -> Sequence[Sequence[str]]:
        """All known translations of each source; that of `pairs` unless a task has more."""
        return [[target] for target in self.pairs(split)[1]]

    def build_tokenizer(self, settings: Mapping[str, Any]) -> "Tokenizer":
        """One tokenizer for both languages, trained on both sides of the training split."""
        sources, targets = self.pairs("train")
        tokenizer = build_tokenizer("\n".join([*sources, *targets]), settings)
        end_texts(tokenizer)
        return tokenizer

    def config(self, tokenizer: "Tokenizer") -> dict[str, Any]:
        """The tokens for padding, which a target begins with too, and for its end."""
        pad_id = pad_id_of(tokenizer)
        return {"pad_id": pad_id, "start_id": pad_id, "end_id": end_id_of(tokenizer)}

    def batches(
        self, tokenizer: "Tokenizer", *, length: int, batch_tokens: int, seed: int
    ) -> "PairBatches":
        """Pairs of the training split, about `batch_tokens` tokens of targets in a batch.

        Raises:
            TrainingError: all pairs are longer than `length`, or too few for a batch.

        Warns:
            UserWarning: some are longer than `length` on a side, and how many; they are left out.
        """
        texts = self.pairs("train")
        prefix = prefix_of(self.model_config)
        sources, targets = tokens(tokenizer, texts[0], prefix), tokens(tokenizer, texts[1])
        pairs = list(zip(sources, targets, strict=True))
        kept = [pair for pair in pairs if max(map(len, pair)) <= length]
        what = f"training pairs have a side of more than {length} tokens"
        if not kept:
            raise TrainingError(f"all {len(pairs):,} {what}: raise max_seq_len")
        if len(kept) < len(pairs):
            warnings.warn(
                f"{len(pairs) - len(kept):,} of {len(pairs):,} {what}: they are left out",
                stacklevel=2,
            )
        ids = self.config(tokenizer)
        if self.model_config is not None:  # a base may begin its targets otherwise
            ids = {name: getattr(self.model_config, name) for name in ids}
        return PairBatches(
            [source for source, _ in kept],
            [target for _, target in kept],
            batch_tokens=batch_tokens,
            seed=seed,
            pad_id=ids["pad_id"],
            start_id=ids["start_id"],
        )

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean cross-entropy of the targets' tokens with label smoothing, in nats."""
        logits = module(batch["source"], batch["ids"], batch["real"])  # (B, T, V)
        return cross_entropy(
            logits.flatten(0, 1),
            batch["targets"].flatten(),
            label_smoothing=self.label_smoothing,
        )

    def evaluate(
        self,
        model: "Model",
        split: str,
        *,
        limit: int | None = None,
        context: int | None = None,
        translations: Sequence[str] | None = None,
    ) -> dict[str, float]:
        """BLEU and chrF of the model's translations, and perplexity; `limit` counts sentences.

        Where `translations` are at hand they are not made again.

        `bleu`, `bleu_lowercased` and `chrf` are those of `translation_scores`, from 0 to 100, with
        the references of the split. `perplexity_per_token` is that of the translation in `pairs`,
        its end counted, each token read behind the right ones before it, and without smoothing; its
        standard error is that of a ratio of sums over sentences.

        Raises:
            InputError: no pair fits the model.
            MissingExtraError: `sacrebleu` is not installed.

        Warns:
            UserWarning: pairs do not fit and are left out of the perplexity: they have more tokens
                than the model has positions, or than `context`.
        """
        metrics()  # translating takes minutes: say first what is missing
        sources, targets = (side[:limit] for side in self.pairs(split))
        if translations is None:
            translations = self.translations(model, sources)
        scores = translation_scores(translations, self.references(split)[:limit])
        loss, error = ratio(*target_nats(model, sources, targets, context).T)
        perplexity = math.exp(min(loss, 700.0))
        return scores | {
            "perplexity_per_token": perplexity,
            "perplexity_per_token_stderr": perplexity * error,
        }

    def signatures(self, split: str, *, limit: int | None = None) -> dict[str, str]:
        """Those of `sacrebleu`, which say how BLEU and chrF are counted.

        Raises:
            MissingExtraError: `sacrebleu` is not installed.
        """
        return signatures(self.references(split)[:limit])

    def translations(self, model: "Model", sources: Sequence[str]) -> list[str]:
        """What the model makes of sources."""
        from zoo.pipelines.text2text import Translation as Pipeline

        found: list[str] = Pipeline(model)(list(sources), num_beams=self.num_beams)
        return found

    def by_source_length(
        self,
        model: "Model",
        split: str,
        *,
        limit: int | None = None,
        translations: Sequence[str] | None = None,
    ) -> list["LengthRow"]:
        """How good short and long sentences are translated.

        Args:
            model: what is measured.
            split: one of `splits`.
            limit: the first so many sentences only.
            translations: the model's, where they are at hand.

        Returns:
            A row for each range of source lengths that has sentences, shortest first.

        Raises:
            MissingExtraError: `sacrebleu` is not installed.
        """
        metrics()
        sources = self.pairs(split)[0][:limit]
        references = self.references(split)
        if translations is None:
            translations = self.translations(model, sources)
        ranges = np.searchsorted(WORDS, [len(source.split()) for source in sources])
        names = [f"{a + 1}-{b}" for a, b in zip((0, *WORDS), WORDS, strict=False)]
        rows = []
        for index, name in enumerate([*names, f"{WORDS[-1] + 1} and more"]):
            places = np.flatnonzero(ranges == index).tolist()
            if places:
                scores = translation_scores(
                    [translations[place] for place in places],
                    [references[place] for place in places],
                )
                rows.append(LengthRow(name, len(places), scores["bleu"], scores["chrf"]))
        return rows


class LengthRow(NamedTuple):
    """Scores of the sentences of a range of lengths.

    Attributes:
        words: of the source, such as `"6-10"`.
        sentences: how many.
        bleu: of them, as in `translation_scores`.
        chrf: likewise.
    """

    words: str
    sentences: int
    bleu: float
    chrf: float


class PairBatches(LengthBatches):
    """Batches of pairs of like length: a pure function of the step.

    Args:
        sources: token ids of each, the one that ends it included.
        targets: likewise.
        batch_tokens: how many tokens of targets a batch has on average.
        seed: of the order.
        pad_id: stands where a row is shorter than the batch.
        start_id: what a target is read behind.

    Raises:
        TrainingError: fewer than one batch of pairs.
    """

    def __init__(
        self,
        sources: Sequence[Ids],
        targets: Sequence[Ids],
        *,
        batch_tokens: int,
        seed: int,
        pad_id: int,
        start_id: int,
    ) -> None:
        many = max(map(len, targets)) + 1
        mean = sum(map(len, targets)) / len(targets)
        super().__init__(
            # by the longer side, then by the target: of the orders tried the one that pads least
            [max(len(s), len(t)) * many + len(t) for s, t in zip(sources, targets, strict=True)],
            rows=max(1, round(batch_tokens / mean)),
            seed=seed,
        )
        self.sources, self.targets = sources, targets
        self.pad_id, self.start_id = pad_id, start_id

    def __call__(self, step: int) -> dict[str, Tensor]:
        """The batch of a step: `source` and `real` (B, S), `ids` and `targets` (B, T)."""
        places = self.places(step)
        return pair_batch(
            [self.sources[place] for place in places],
            [self.targets[place] for place in places],
            self.pad_id,
            self.start_id,
        )


def pair_batch(
    sources: Sequence[Ids], targets: Sequence[Ids], pad_id: int, start_id: int
) -> dict[str, Tensor]:
    """Pairs side by side: `source` and `real` (B, S), `ids` and `targets` (B, T)."""
    source, real = pad(sources, pad_id)
    right, _ = pad(targets, IGNORED)
    start = np.array([start_id], dtype=np.int32)
    ids, _ = pad([np.concatenate([start, target[:-1]]) for target in targets], pad_id)
    return {"source": source, "real": real, "ids": ids, "targets": right}


def tokens(tokenizer: "Tokenizer", texts: Sequence[str], prefix: str = "") -> list[Ids]:
    """All tokens of each text behind a prefix, the one that ends it included."""
    reader = Reader(tokenizer, 0, prefix=prefix)
    found: list[Ids] = []
    for start in range(0, len(texts), CHUNK):
        chunk = reader.encode(texts[start : start + CHUNK])
        found += [np.array(encoding.ids, dtype=np.int32) for encoding in chunk]
    return found


def end_id_of(tokenizer: "Tokenizer") -> int:
    """The token that ends a text.

    Raises:
        InputError: there is none.
    """
    for end in ENDS:
        if (token := tokenizer.token_to_id(end)) is not None:
            return token
    raise InputError(f"The tokenizer has no token that ends a text: {' or '.join(ENDS)}")


@torch.inference_mode()
def target_nats(
    model: "Model", sources: Sequence[str], targets: Sequence[str], context: int | None = None
) -> Floats:
    """How well targets are predicted, each token behind the right ones before it.

    Args:
        model: an encoder-decoder; its config has `pad_id` and `start_id`, its module `max_len`.
        sources: N texts.
        targets: the translation of each.
        context: how many tokens a side may have; what the model has positions for if None.

    Returns:
        For each pair that fits: negative log-likelihood in nats, and tokens (N, 2).

    Raises:
        InputError: no pair fits.

    Warns:
        UserWarning: some do not.
    """
    tokenizer, config = tokenizer_of(model), model.config
    module: Any = model.module
    read = tokens(tokenizer, sources, prefix_of(config))
    pairs = list(zip(read, tokens(tokenizer, targets), strict=True))
    lengths = [max(map(len, pair)) for pair in pairs]
    limits = [most for most in (context, module.max_len) if most is not None]
    kept = [place for place, n in enumerate(lengths) if all(n <= most for most in limits)]
    if len(kept) < len(pairs):
        what = f"pairs have a side of more than {min(limits)} tokens"
        if not kept:
            raise InputError(f"all {len(pairs):,} {what}: there is nothing to measure")
        warnings.warn(
            f"{len(pairs) - len(kept):,} of {len(pairs):,} {what}: perplexity is of the others",
            stacklevel=3,
        )
    found = np.zeros((len(kept), 2))
    for batch in by_length([lengths[place] for place in kept], SCORED_TOKENS):
        rows = [pairs[kept[index]] for index in batch]
        right = [target for _, target in rows]
        made = pair_batch([source for source, _ in rows], right, config.pad_id, config.start_id)
        given = {name: tensor.to(model.device) for name, tensor in made.items()}
        logits = module(given["source"], given["ids"], given["real"]).float()  # (B, T, V)
        nats = nn.functional.cross_entropy(
            logits.transpose(1, 2), given["targets"], ignore_index=IGNORED, reduction="none"
        )  # (B, T)
        found[batch, 0] = nats.double().sum(1).cpu().numpy()
        found[batch, 1] = [len(target) for target in right]
    return found


def metrics() -> dict[str, Any]:
    """The metrics of `sacrebleu` that translations are measured with.

    BLEU is that of Papineni et al. 2002 (ACL P02-1040), counted on detokenised text as 13a cuts it
    (Post 2018, arXiv:1804.08771), cased and in lower case; chrF that of Popovic 2015 (ACL W15-3049)
    with six characters and beta 2.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise MissingExtraError("Measuring translations with sacrebleu", "hf") from error
    return {
        "bleu": BLEU(tokenize="13a"),
        "bleu_lowercased": BLEU(tokenize="13a", lowercase=True),
        "chrf": CHRF(),
    }


def signatures(references: Sequence[Sequence[str]] = (("",),)) -> dict[str, str]:
    """The signature of each metric, which says how it was counted.

    Args:
        references: those of a split, where a source has more than one.

    Raises:
        MissingExtraError: `sacrebleu` is not installed.
    """
    found = {}
    for name, metric in metrics().items():
        metric.corpus_score([""] * len(references), _streams(references))
        found[name] = str(metric.get_signature())
    return found


def translation_scores(
    translations: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """`bleu`, `bleu_lowercased` and `chrf` of translations, as `sacrebleu` counts them, 0 to 100.

    The sentences are drawn `RESAMPLES` times with replacement, the same draws each time (Koehn
    2004, ACL W04-3250): under `metric_stderr` stands the deviation of the scores, under
    `metric_low` and `metric_high` the 95% interval, between which all but the 2.5% lowest and
    highest of them lie. Of fewer than two sentences these are NaN.

    Args:
        translations: N texts.
        references: the right translations of each, one at least.

    Raises:
        InputError: there are none.
        MissingExtraError: `sacrebleu` is not installed.
    """
    N = len(translations)
    scores: dict[str, float] = {}
    for name, metric in metrics().items():
        # of each sentence; sacrebleu's own drawing fails where some of the draws score 0
        counts = np.array(metric._extract_corpus_statistics(translations, _streams(references)))
        draws = np.random.default_rng(0).integers(N, size=(RESAMPLES if N > 1 else 0, N))
        sums = [counts.sum(0), *(counts[draw].sum(0) for draw in draws)]
        value, *others = [metric._compute_score_from_stats(row.tolist()).score for row in sums]
        scores[name] = float(value)
        scores[f"{name}_stderr"] = float(np.std(others, ddof=1)) if others else math.nan
        ends = np.percentile(others, INTERVAL).tolist() if others else [math.nan] * 2
        scores[f"{name}_low"], scores[f"{name}_high"] = ends
    return scores


def _streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """References as `sacrebleu` takes them: all first ones, all second ones, None where one ends.

    Raises:
        InputError: there are none.
    """
    if not references:
        raise InputError("There are no translations to measure")
    return [list(stream) for stream in zip_longest(*references)]
