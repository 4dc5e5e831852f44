"""Zero-shot image classification: a picture, and which of some labels in words fits it best.

Source: Radford et al. 2021, arXiv:2103.00020, section 3.1; ensembles of templates: 3.1.4.

Letters: B batch, C channels, S pixels a side, T text length, D width of the space, L labels.
"""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import InputError
from zoo.images import SUFFIXES, open_picture
from zoo.pipelines import require_text, tokenizer_of
from zoo.tokenization import UNKNOWN

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from zoo.images import Picture
    from zoo.model import Model

    Label = str | Sequence[str]

TEMPLATES = ("a photo of a {}",)
BATCH = 64  # pictures read at once
TEXTS = 256  # texts read at once
MOST_KEPT = 50_000  # vectors of texts


def text_ids(tokenizer: "Tokenizer", texts: Sequence[str], length: int, pad_id: int) -> Tensor:
    """Token ids of texts (B, T), filled up with padding; a longer one keeps its last token."""
    ids = torch.full((len(texts), length), pad_id)
    for row, found in enumerate(tokenizer.encode_batch(list(texts))):
        kept = found.ids if len(found.ids) <= length else [*found.ids[: length - 1], found.ids[-1]]
        ids[row, : len(kept)] = torch.tensor(kept, dtype=torch.long)
    return ids


class ZeroShotImageClassification:
    """`model("pet.jpg", labels=["cat", "dog"])` gives the labels, best first.

    Each answer is `{"label": "cat", "score": 0.98, "similarity": 0.27}`: the probability among all
    labels, and the cosine of picture and text. A list of pictures gives a list of such lists.

    A module whose `pairwise` is true was trained with a sigmoid on each pair, as SigLIP is: then a
    score is the probability that this label fits, whatever the others are.

    The module has `encode_image(pixels)` (B, C, S, S) and `encode_text(ids)` (B, T), which give
    vectors of length 1 (B, D); `similarity(pictures, texts)`, the scaled cosines; and says how
    pictures and texts are read: `read_pictures(images)`, `read_texts(tokenizer, texts)`.

    Raises:
        InputError: the model has no such module, or no tokenizer.
    """

    batch = BATCH

    def __init__(self, model: "Model") -> None:
        if not hasattr(model.module, "encode_image"):
            raise InputError(
                "zero-shot-image-classification needs a model of pictures and texts, such as CLIP; "
                f"{model.name} is none"
            )
        self.name, self.config = model.name, model.config
        self.module: Any = model.module
        self.pairwise = bool(getattr(model.module, "pairwise", False))
        self.tokenizer = tokenizer_of(model)
        self.cards = model.cards
        self._texts: dict[str, Tensor] = {}  # this model's: another has a pipeline of its own

    def __call__(
        self,
        pictures: "Picture | Sequence[Picture]",
        labels: "Sequence[Label] | Mapping[str, Sequence[str]] | None" = None,
        *,
        templates: Sequence[str] = TEMPLATES,
        negative_labels: "Sequence[Label]" = (),
        top_k: int | None = None,
        **options: Any,
    ) -> Any:
        """Classify a picture, or several in batches.

        Args:
            pictures: as `zoo.images.open_picture` takes one; or a list of them.
            labels: names; one with synonyms is a list of them, `["cat", ["dog", "puppy"]]`, or
                `{"cat": ["kitten"], "dog": []}`: it is called by the first.
            templates: sentences with `{}` where a label goes. Several are an ensemble: a label's
                vector is the mean of its sentences', of length 1 again.
            negative_labels: compete for the probability, and are not answered; in a module whose
                scores are each label's own, nothing competes.
            top_k: how many labels; all if None.
            **options: there are no others.

        Raises:
            InputError: no labels, one twice, an empty one, a template without `{}` or with two, an
                unknown option, not a picture or a damaged one.

        Warns:
            UserWarning: there is one label alone, whose probability among all is 1 whatever the
                picture; or the model's vocabulary lacks words.
        """
        names, texts = self._asked(labels, templates, negative_labels, top_k, options)
        many = isinstance(pictures, list | tuple)
        given: Any = pictures if many else [pictures]
        answers = []
        for start in range(0, len(given), BATCH):
            found = self.embed_pictures(given[start : start + BATCH])
            answers += self._answers(found, texts, names, top_k)
        return answers if many else answers[0]

    def classify_folder(
        self,
        folder: str | Path,
        labels: "Sequence[Label] | Mapping[str, Sequence[str]] | None" = None,
        *,
        templates: Sequence[str] = TEMPLATES,
        negative_labels: "Sequence[Label]" = (),
        top_k: int | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Classify the pictures of a folder, and of the folders in it.

        Vectors of pictures are kept in the cache: a picture is read once for each model.

        Args:
            folder: of pictures.
            labels: as of a call.
            templates: likewise.
            negative_labels: likewise.
            top_k: likewise.
            **options: there are no others.

        Returns:
            `{"picture", "labels"}` of each in the order of their names: the file, and what a call
            gives.

        Raises:
            InputError: as of a call; no such folder, or no picture in it.

        Warns:
            UserWarning: as of a call; or some files could not be read: they are left out.
        """
        from zoo.pipelines.picture_index import PictureIndex

        names, texts = self._asked(labels, templates, negative_labels, top_k, options)
        files, vectors = PictureIndex.of(self).vectors(pictures_in(folder))
        answers = self._answers(vectors, texts, names, top_k)
        pairs = zip(files, answers, strict=True)
        return [{"picture": str(file), "labels": answer} for file, answer in pairs]

    def _asked(
        self,
        labels: Any,
        templates: Sequence[str],
        negative_labels: Any,
        top_k: int | None,
        options: Mapping[str, Any],
    ) -> tuple[list[str], Tensor]:
        """What a label is called by, and the vectors of all labels, the negative ones last."""
        if options:
            raise InputError(
                f"zero-shot-image-classification has no option {next(iter(options))!r}; it has: "
                "labels, templates, negative_labels, top_k"
            )
        if top_k is not None and (type(top_k) is not int or top_k < 1):
            raise InputError(f"top_k must be a whole number from 1 on, got {top_k!r}")
        names = named(labels)
        others = named(negative_labels) if negative_labels else []
        require_different([*names, *others])
        if len(names) + len(others) == 1 and not self.pairwise:
            warnings.warn(
                "One label alone has probability 1 whatever the picture shows: give more, or "
                "negative_labels; the similarity still says something",
                stacklevel=3,
            )
        return [one[0] for one in names], self.classifier([*names, *others], templates)

    def _answers(
        self, pictures: Tensor, texts: Tensor, names: Sequence[str], top_k: int | None
    ) -> list[list[dict[str, Any]]]:
        scores = self.probabilities(pictures, texts)[:, : len(names)]  # (B, L)
        cosines = (pictures @ texts.T)[:, : len(names)]
        answers = []
        for row, cosine in zip(scores, cosines, strict=True):
            order = cosine.argsort(descending=True, stable=True).tolist()[:top_k]
            answers.append(
                [
                    {
                        "label": names[place],
                        "score": row[place].item(),
                        "similarity": cosine[place].item(),
                    }
                    for place in order
                ]
            )
        return answers

    @torch.inference_mode()
    def probabilities(self, pictures: Tensor, texts: Tensor) -> Tensor:
        """How likely each label is for each picture (B, L).

        Args:
            pictures: vectors of length 1 (B, D).
            texts: of labels, as `classifier` gives them (L, D).
        """
        like = next(self.module.parameters())
        logits: Tensor = self.module.similarity(pictures.to(like), texts.to(like)).float().cpu()
        return logits.sigmoid() if self.pairwise else logits.softmax(-1)

    @torch.inference_mode()
    def embed_pictures(self, pictures: "Sequence[Picture]") -> Tensor:
        """Vectors of length 1 (B, D) of pictures, which are read at once."""
        images = [open_picture(picture) for picture in pictures]
        like = next(self.module.parameters())
        pixels = self.module.read_pictures(images).to(like)
        found: Tensor = self.module.encode_image(pixels).float().cpu()
        return found

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Vectors of length 1 (B, D) of texts; each text is computed once in a model's life."""
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if len(self._texts) + len(new) > MOST_KEPT:
            self._texts.clear()
            new = list(dict.fromkeys(texts))
        device, lacking = next(self.module.parameters()).device, list[str]()
        for start in range(0, len(new), TEXTS):
            some = new[start : start + TEXTS]
            ids = self.module.read_texts(self.tokenizer, some)
            lacking += self._lacking(some, ids)
            vectors = self.module.encode_text(ids.to(device)).float().cpu()
            self._texts |= dict(zip(some, vectors, strict=True))
        if lacking:
            more = f" and {len(lacking) - 1:,} more texts" if len(lacking) > 1 else ""
            warnings.warn(
                f"{self.name} lacks words of {lacking[0]!r}{more}: it can tell nothing by them",
                stacklevel=5,
            )
        return torch.stack([self._texts[text] for text in texts])

    def _lacking(self, texts: Sequence[str], ids: Tensor) -> list[str]:
        """The texts that have words which the vocabulary lacks."""
        unknown = self.tokenizer.token_to_id(UNKNOWN)
        if unknown is None:
            return []
        rows = (ids == unknown).any(1).tolist()
        return [text for text, lacks in zip(texts, rows, strict=True) if lacks]

    def classifier(self, labels: Sequence[Sequence[str]], templates: Sequence[str]) -> Tensor:
        """A vector of length 1 for each label (L, D).

        It is the mean of the vectors of all its names in all templates, which have length 1 too.

        Args:
            labels: the names of each.
            templates: as of a call.

        Raises:
            InputError: as of a call.
        """
        check_templates(templates)
        sentences = [
            [t.replace("{}", name) for name in names for t in templates] for names in labels
        ]
        vectors = self.embed_texts([one for group in sentences for one in group])
        parts = torch.split(vectors, [len(group) for group in sentences])
        return F.normalize(torch.stack([part.mean(0) for part in parts]), dim=-1)

    def search(
        self, query: str, folder: str | Path, *, top_k: int = 10, templates: Sequence[str] = ("{}",)
    ) -> list[dict[str, Any]]:
        """The pictures of a folder, and of the folders in it, that fit a text best.

        Vectors of pictures are kept in the cache: a picture is read once for each model.

        Args:
            query: what is looked for, in words.
            folder: of pictures.
            top_k: how many.
            templates: sentences that the query is put into.

        Returns:
            `{"file", "similarity"}` of each, best first.

        Raises:
            InputError: no such folder, no picture in it, or a query that is no text.

        Warns:
            UserWarning: some files could not be read; they are left out.
        """
        from zoo.pipelines.picture_index import PictureIndex

        require_text(query)
        if not query.strip():
            raise InputError("The query is empty: say what to look for")
        if type(top_k) is not int or top_k < 1:
            raise InputError(f"top_k must be a whole number from 1 on, got {top_k!r}")
        index = PictureIndex.of(self)
        files, vectors = index.vectors(pictures_in(folder))
        text = self.classifier([[query]], templates)
        cosines = (vectors @ text.T).squeeze(1)
        best = cosines.argsort(descending=True, stable=True).tolist()[:top_k]
        return [{"file": str(files[n]), "similarity": cosines[n].item()} for n in best]


def named(labels: Any) -> list[list[str]]:
    """The names of each label, the one it is called by first.

    Raises:
        InputError: there are none, or one is empty or no text.
    """
    if isinstance(labels, str):
        raise InputError(f"labels is a list of names, got the text {labels!r}: [{labels!r}]")
    if isinstance(labels, Mapping):
        labels = [[name, *synonyms] for name, synonyms in labels.items()]
    if labels is None or not isinstance(labels, Iterable):
        raise InputError('zero-shot classification needs labels: labels=["cat", "dog"]')
    found = [list(one) if isinstance(one, list | tuple) else [one] for one in labels]
    if not found:
        raise InputError('labels is empty: give names, such as labels=["cat", "dog"]')
    for names in found:
        if not names:
            raise InputError("a label has no name: give at least one")
        for name in names:
            require_text(name)
            if not name.strip():
                raise InputError(f"a label is empty: {names!r}")
    return found


def with_synonyms(labels: Any, synonyms: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Labels as `named` gives them, with further names.

    Args:
        labels: as of a call.
        synonyms: by what a label is called, such as `{"dog": ["puppy"]}`.

    Raises:
        InputError: as of `named`, or a synonym of no label.
    """
    found = named(labels)
    called = [names[0] for names in found]
    if unknown := sorted(set(synonyms) - set(called)):
        raise InputError(
            f"{unknown[0]!r} is none of the labels {', '.join(called)}: synonyms are of one"
        )
    return [[*names, *synonyms.get(names[0], ())] for names in found]


def require_different(labels: Sequence[Sequence[str]]) -> None:
    """Raise `InputError` where two of all names are alike, but for case and blanks."""
    seen: set[str] = set()
    for names in labels:
        for name in names:
            key = " ".join(name.lower().split())
            if key in seen:
                raise InputError(f"the label {name!r} stands there twice: each must differ")
            seen.add(key)


def check_templates(templates: Any) -> None:
    """Raise `InputError` unless each template holds `{}` once, and there is one at least."""
    if isinstance(templates, str):
        raise InputError(f"templates is a list of sentences, got the text {templates!r}")
    if not templates:
        raise InputError("templates is empty: give one at least, such as 'a photo of a {}'")
    for template in templates:
        require_text(template)
        if template.count("{}") != 1:
            raise InputError(
                f"the template {template!r} has {template.count('{}')} places for a label: write "
                "{} once, as in 'a photo of a {}'"
            )


def pictures_in(folder: str | Path) -> list[Path]:
    """The files below a folder that are called as pictures are, sorted.

    Raises:
        InputError: there is no such folder, or there are none.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"There is no folder {str(folder)!r}: give a folder of pictures")
    found = sorted(
        Path(place, name)
        for place, _, names in os.walk(root)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    )
    if not found:
        raise InputError(f"{folder} has no pictures: {', '.join(SUFFIXES)}")
    return found
