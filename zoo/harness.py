"""The model `txzoo` of EleutherAI's lm-evaluation-harness: any decoder of the zoo.

Importing this module registers it; `txzoo lm-eval` does that and hands over to the harness's own
command, since the harness itself looks for models nowhere but in its own package. In Python:

    import lm_eval, zoo.harness
    lm_eval.simple_evaluate(model="txzoo", model_args="name=alibi-lm", tasks=[...])

What is computed is what the harness's `hf` computes for a decoder (0.4.13: `lm_eval/models/
huggingface.py`); a reference test holds the two equal on an exported twin.

Letters: B batch, T length, V vocabulary.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch

from zoo.errors import ContextLengthError, InputError, MissingExtraError
from zoo.generation import GenerationOptions, generate
from zoo.loading import load
from zoo.pipelines import tokenizer_of
from zoo.pipelines.reading import pad
from zoo.pipelines.text_generation import Pieces, end_id_of, find_stop
from zoo.tokenization import END_OF_TEXT

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise MissingExtraError("EleutherAI's lm-evaluation-harness", "lm-eval") from error

STARTS = (END_OF_TEXT, "<s>", "[CLS]", "\n", ".")  # the first that a vocabulary has begins a text
NEW_TOKENS = 256  # where a task does not say how many
AUTO = 16  # rows at once where nobody says how many
Scored = tuple[tuple[str, str] | None, list[int], list[int]]  # request, context, continuation


@register_model("txzoo")
class ZooLM(TemplateLM):  # type: ignore[misc] # the harness has no types
    """A decoder of the zoo as the harness calls it.

    A text that is longer than the window loses its beginning, as everywhere in the harness. Scores
    of a tokenizer with unknown words count `<unk>` as any other token, and compare with those of
    the same tokenizer only.

    Args:
        name: what `zoo.load` takes.
        batch_size: rows at once; "auto" for `AUTO`.
        max_batch_size: taken, since the harness gives it, and not needed.
        device: where it runs; without a GPU that is the CPU, since the harness always asks for one.
        dtype: precision of its weights.
        max_length: tokens read at once; the length that it was trained on unless given.
        prefix_token_id: the token before a text that stands alone; the end of a text, or what else
            of `STARTS` the vocabulary has, unless given.

    Raises:
        InputError: the model is no decoder, or has no such prefix.
        ContextLengthError: `max_length` is more than it has positions.
    """

    def __init__(
        self,
        name: str,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        max_length: int | None = None,
        prefix_token_id: int | None = None,
    ) -> None:
        super().__init__()
        if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
            device = "cpu"
        self.model = load(name, device=device, dtype=dtype)
        if self.model.pipeline != "text-generation":
            raise InputError(
                f"{name} is a {self.model.pipeline} model: the harness measures text-generation"
            )
        self.codec = tokenizer_of(self.model)
        self.codec = type(self.codec).from_str(self.codec.to_str())
        self.codec.no_padding()
        self.codec.no_truncation()
        auto = batch_size is None or str(batch_size).startswith("auto")
        self.batch_size = AUTO if auto else int(str(batch_size))
        self._device = self.model.device
        self.max_length = int(max_length or self.model.config.max_seq_len)
        positions = getattr(self.model.module, "max_len", None)
        if positions is not None and self.max_length > positions:
            raise ContextLengthError(
                f"max_length={self.max_length}, but {name} has {positions} positions"
            )
        self.end_id = end_id_of(self.model)
        known = [token for start in STARTS for token in self._known(start)]
        known += [] if self.end_id is None else [self.end_id]
        if prefix_token_id is None and not known:
            raise InputError(f"{name} has no token that begins a text: give prefix_token_id=N")
        self._prefix = known[0] if prefix_token_id is None else int(prefix_token_id)

    def _known(self, start: str) -> list[int]:
        """The token of a text, if it is a single one that gives the text back."""
        whole = self.codec.token_to_id(start)
        ids = self.codec.encode(start, add_special_tokens=False).ids if whole is None else [whole]
        return ids if len(ids) == 1 and self.codec.decode(ids, False) == start else []

    @property
    def eot_token_id(self) -> int | None:
        """The token that ends a text, None if there is none."""
        end: int | None = self.end_id
        return end

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that stands alone."""
        return self._prefix

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in the harness's caches."""
        return self.model.name

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids; with those that the tokenizer adds, unless False."""
        ids: list[int] = self.codec.encode(
            string, add_special_tokens=add_special_tokens is not False
        ).ids
        return ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens of the two; where none is left for the continuation, they are read apart."""
        before, after = super()._encode_pair(context, continuation)
        if not after:  # the two became one token
            after = self.tok_encode(continuation, add_special_tokens=False)
        return before or [self.prefix_token_id], after

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-likelihood in nats of each whole text, in windows that do not overlap."""
        rows: list[Scored] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            new = [(None, *make_disjoint_window(window)) for window in windows]
            rows += new
            owners += [owner] * len(new)
        totals = [0.0] * len(requests)
        for owner, (score, _) in zip(owners, self._loglikelihood_tokens(rows), strict=True):
            totals[owner] += score
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self, requests: Sequence[Scored], disable_tqdm: bool = False, **more: Any
    ) -> list[tuple[float, bool]]:
        """For each continuation its log-likelihood in nats, and whether greedy decoding writes it.

        Raises:
            ContextLengthError: a continuation is longer than the window.
        """
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)  # of no token
        asked = [place for place, (_, _, after) in enumerate(requests) if after]
        texts = []
        for place in asked:
            _, before, after = requests[place]
            if len(after) > self.max_length:
                raise ContextLengthError(
                    f"A continuation has {len(after)} tokens, {self.model.name} reads "
                    f"{self.max_length} at once: give max_length, where it has the positions"
                )
            texts.append([*before, *after][-self.max_length - 1 :])
        for group in self._batches([len(text) - 1 for text in texts]):
            ids, _ = pad([texts[row][:-1] for row in group], 0)  # (B, T)
            logits = self.model.module(ids.to(self.device))  # (B, T, V)
            for row, scores in zip(group, logits, strict=True):
                request, _, after = requests[asked[row]]
                end = len(texts[row]) - 1
                scores = scores[end - len(after) : end].float().log_softmax(dim=-1)
                targets = torch.tensor(after, device=scores.device)
                total = scores.gather(1, targets[:, None]).double().sum().item()
                answer = total, bool((scores.argmax(dim=-1) == targets).all())
                found[asked[row]] = answer
                if request is not None:
                    self.cache_hook.add_partial("loglikelihood", request, answer)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What follows each context, up to the first stop text or the number of tokens asked for.

        Raises:
            InputError: a task asks for a way of decoding that there is not.
        """
        ways: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            ways.setdefault(repr(sorted(request.args[1].items())), []).append(place)
        found = [""] * len(requests)
        for places in ways.values():
            options, room = self._options(requests[places[0]].args[1])
            prompts = [self.tok_encode(requests[place].args[0])[-room:] for place in places]
            prompts = [prompt or [self.prefix_token_id] for prompt in prompts]
            for group in self._batches([len(prompt) for prompt in prompts]):
                given = [prompts[row] for row in group]
                written = generate(
                    self.model.module, given, options, end_id=self.end_id, tokenizer=self.codec
                ).ids
                for row, prompt, ids in zip(group, given, written, strict=True):
                    text = Pieces(self.codec, prompt).rest(ids)
                    found[places[row]] = text[: find_stop(text, tuple(options.stop))]
        for request, text in zip(requests, found, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return found

    def _options(self, asked: dict[str, Any]) -> tuple[GenerationOptions, int]:
        """How to decode, and how many tokens of a context are left beside what is written."""
        values = normalize_gen_kwargs(asked, min(NEW_TOKENS, self.max_length // 2))
        new = values.pop("max_gen_toks")
        stop = [text for text in values.pop("until") if text]
        if new >= self.max_length:
            most = self.max_length // 2
            logging.getLogger(__name__).warning(
                "%s reads %d tokens at once: of %d that the task lets it write it writes %d",
                *(self.model.name, self.max_length, new, most),
            )
            new = most
        options = GenerationOptions.from_dict({**values, "max_new_tokens": new, "stop": stop})
        return options, self.max_length - new

    def _batches(self, lengths: list[int]) -> list[list[int]]:
        """Places in `lengths`, longest first, `batch_size` at a time."""
        order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
        size = self.batch_size
        return [order[start : start + size] for start in range(0, len(order), size)]


def command() -> None:
    """The harness's own command, with the arguments in `sys.argv`."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
