"""The list of checks: a number, what holds, and where it is looked at.

A number is never used twice. A check that is added gets the next kit version in `since`; one that
is tightened, so that a plugin may newly fail it, gets a new number.
"""

from dataclasses import dataclass

KIT_VERSION = 1

KINDS = {  # first letter of a number: what the check looks at
    "S": "plugin",
    "I": "plugin",
    "A": "architecture",
    "T": "task",
    "M": "model",
    "P": "pipeline",
    "U": "tuning",
}


@dataclass(frozen=True)
class Check:
    """One thing that a plugin promises.

    Attributes:
        number: a letter for what it looks at and three digits; a published name.
        title: what holds when it passes.
        target: the function, `"module:function"` below `zoo.testing`.
        level: "quick", or "full" for those that take longer.
        after: numbers of checks of the same subject without which this one says nothing.
        since: the first kit version that has it.
    """

    number: str
    title: str
    target: str
    level: str = "quick"
    after: tuple[str, ...] = ()
    since: int = 1

    @property
    def kind(self) -> str:
        """What it looks at: one of `KINDS`."""
        return KINDS[self.number[0]]


CHECKS = (
    Check("S101", "the distribution asks for a range of txzoo versions", "static:txzoo_range"),
    Check("S102", "the distribution has a summary and an SPDX licence", "static:metadata"),
    Check("I201", "importing it and calling its hooks works, and ends", "static:imports"),
    Check("I202", "importing it brings in no heavy package", "static:light", after=("I201",)),
    Check("I203", "importing it prints nothing", "static:silent", after=("I201",)),
    Check(
        "I204",
        "importing it uses no network and starts no process",
        "static:alone",
        after=("I202",),
    ),
    Check("I205", "importing it takes less than half a second", "static:fast", after=("I202",)),
    Check("I206", "importing it takes less than 32 MB", "static:small", after=("I202",)),
    Check("I207", "it uses no deprecated name", "static:current", after=("I201",)),
    Check("I208", "nobody else installed has its names", "static:own_names", after=("I201",)),
    Check("A301", "the target is an nn.Module with a frozen zoo.Config", "architectures:classes"),
    Check(
        "A302",
        "forward takes ids; a decoder's an optional cache too; encoder-decoders are marked",
        "architectures:signature",
        after=("A301",),
    ),
    Check("A303", "a small config builds", "architectures:builds", after=("A301",)),
    Check(
        "A304",
        "its config goes to JSON and back, and refuses unknown keys",
        "architectures:config",
        after=("A303",),
    ),
    Check(
        "A310",
        "logits are finite, for 1 token and for the most; a decoder's are (B, T, V)",
        "architectures:shapes",
        after=("A302", "A303"),
    ),
    Check(
        "A311",
        "in eval mode the same input gives the same logits",
        "architectures:deterministic",
        after=("A310",),
    ),
    Check(
        "A312",
        "a decoder's token changes nothing before it, an encoder's last one does",
        "architectures:causal",
        after=("A311",),
    ),
    Check(
        "A313", "a row alone equals the row in a batch", "architectures:rows_alone", after=("A311",)
    ),
    Check(
        "A314",
        "with a cache, piece by piece, equals all at once",
        "architectures:cached",
        after=("A312", "A313"),
    ),
    Check(
        "A315",
        "padding changes nothing, on the left or on the right",
        "architectures:padded",
        after=("A314",),
    ),
    Check(
        "A316",
        "reordered cache rows go on as those rows",
        "architectures:reordered",
        after=("A315",),
    ),
    Check(
        "A317",
        "a text longer than the model can read is refused, any other is read",
        "architectures:lengths",
        after=("A310",),
    ),
    Check(
        "A318",
        "an encoder's padding changes nothing, nor that of sources",
        "architectures:padded_by_token",
        after=("A312", "A313"),
    ),
    Check("A320", "the same seed gives the same weights", "architectures:seeded", after=("A303",)),
    Check("A321", "gradients reach every parameter", "architectures:gradients", after=("A310",)),
    Check(
        "A322",
        "the loss falls on a toy set",
        "architectures:learns",
        "full",
        after=("A312", "A321"),
    ),
    Check(
        "A330",
        "saved and loaded it gives the same logits, bit by bit",
        "architectures:saved",
        after=("A311",),
    ),
    Check("A331", "bfloat16 is near float32", "architectures:rounded", "full", after=("A311",)),
    Check(
        "A332",
        "attention rows sum to 1; a decoder's look back only",
        "architectures:attention",
        after=("A312",),
    ),
    Check(
        "A333",
        "recording attention does not change the logits",
        "architectures:recorded",
        after=("A332",),
    ),
    Check("A340", "a streamed text is the text", "architectures:streamed", "full", after=("A315",)),
    Check(
        "A350",
        "to the transformers layout and back it gives the same logits",
        "architectures:converted",
        "full",
        after=("A311",),
    ),
    Check("T401", "the target is a task, its splits and its entry make sense", "tasks:classes"),
    Check(
        "T402",
        "its tokenizer reads any text, the same way each time",
        "tasks:tokenizer",
        "full",
        after=("T401",),
    ),
    Check(
        "T403", "a batch is a function of seed and step", "tasks:batches", "full", after=("T402",)
    ),
    Check(
        "T404", "the loss of a uniform predictor is log V", "tasks:loss", "full", after=("T403",)
    ),
    Check(
        "T405",
        "evaluating gives every metric and its standard error, the same each time",
        "tasks:evaluates",
        "full",
        after=("T402",),
    ),
    Check(
        "T406",
        "a uniform and a perfect predictor get the scores they must",
        "tasks:known_scores",
        "full",
        after=("T405",),
    ),
    Check("M501", "the card parses", "models:card"),
    Check("M502", "the card names a licence, and what there is", "models:words", after=("M501",)),
    Check("M503", "the recipe makes this model", "models:recipe", after=("M501",)),
    Check("M504", "every file is what the card says", "models:files", after=("M501",)),
    Check("M505", "the weights fit the architecture", "models:weights", after=("M504",)),
    Check("M506", "the card gives the number of parameters", "models:parameters", after=("M505",)),
    Check("M507", "each score has a standard error", "models:errors", after=("M501",)),
    Check("M508", "it writes a text, the same each time", "models:writes", "full", after=("M505",)),
    Check(
        "P601", "the target is called with a model, and gives something to call", "others:pipeline"
    ),
    Check(
        "U701",
        "the target adapts a module, which then trains some parameters of its own",
        "others:tuning",
    ),
)

BY_NUMBER = {check.number: check for check in CHECKS}
