"""Models of `open_clip`'s registry, brought here: weights, tokenizer and preprocessing as one.

`open_clip` finds the three in different places, and offline it may take another's (its issue 1068).
Here all of them go into one model folder, whose card holds the hash of each file; what opens that
folder later asks nobody, and another preprocessing than that of the weights does not pass its hash.
"""

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import __version__
from zoo.card import Card
from zoo.errors import (
    ConfigError,
    FolderError,
    HashMismatchError,
    HubError,
    InputError,
    UnknownNameError,
)
from zoo.folder import CARD, FileRecord, load_into, read_weights, save_folder, sha256
from zoo.hub import cache_folder, talking
from zoo.plugins import one_line
from zoo.registry import registry
from zoo_clip import pinned_folder
from zoo_clip.model import MORE, OpenClip, OpenClipConfig, library

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

FILES = (  # as repositories of open_clip call their weights
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
)
TOLD = "open_clip_config.json"  # what the weights beside it were trained with
USUAL = ("ViT-B-32", "laion2b_s34b_b79k")  # what `txzoo pin-clip` brings unless told otherwise
PINS = {  # commit of the repository, SHA-256 of the weights; of other pairs the commit of that day
    USUAL: (
        "1a25a446712ba5ee05982a381eed697ef9b435cf",
        "ac4f8c4b88af6d963118cbf40ad93176d092abbedfcb752601ae1866352656e6",
    )
}
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # of CLIP's tokenizer
NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")  # of a model
OWN = ("context_length", "vocab_size", "hf_tokenizer_name", "tokenizer_kwargs")  # said elsewhere
PROSE = """\
# {name}

{summary}.

## How to use it

```py
import zoo

model = zoo.load("{ref}")  # needs pip install 'txzoo[clip]'
model("photograph.jpg", labels=["cat", "dog"], templates=["a photo of a {{}}"])
```

## Where it is from

`open_clip`'s `{model}` with the weights `{pretrained}`: {place}, file `{file}`, sha256 `{digest}`.
`config.json` holds the sizes of the towers and how these weights want pictures;
`tokenizer.json` reads texts as theirs does.
"""


def place_of(name: str) -> Path:
    """Where a model is brought that shall be found by a name.

    Raises:
        InputError: the name cannot be a model's, or is another one's.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"A model cannot be called {name!r}: lower case, digits, hyphens and dots")
    folder = pinned_folder() / name
    if name in registry().models.names() and not folder.exists():
        raise InputError(f"{name} is a model already: give another --name")
    return folder


def pin(model: str, pretrained: str, *, out: str | Path, license: str = "unknown") -> Card:
    """Write a model folder with a model of `open_clip`'s registry.

    Args:
        model: its name there, such as `"ViT-B-32"`.
        pretrained: tag of the weights, such as `"laion2b_s34b_b79k"`; or a safetensors file, beside
            which the `open_clip_config.json` of its repository lies.
        out: the new folder.
        license: of the weights, in the Hub's spelling; the repository's own where it says one.

    Returns:
        The card of the folder.

    Raises:
        UnknownNameError: no such model, or no such weights of it; near misses are named.
        ConfigError: a kind of model that is not read: CoCa, or a text tower of `transformers`; or
            nothing beside a file says which preprocessing its weights were trained with.
        HashMismatchError: the weights are others than those that are pinned here.
        HubError: the weights are not here and the network cannot be asked, or the repository has
            them as a pickle alone.
        FolderError: something is at `out` already.
        WeightsError: the weights are damaged, or of another model.
    """
    package, out = library(), Path(out)
    if out.exists():
        raise FolderError(f"There is something at {out} already: give another folder")
    if model not in package.list_models():
        raise UnknownNameError("model of open_clip", model, package.list_models())
    values = package.get_model_config(model)
    _check_kind(values)
    if Path(pretrained).suffix == ".safetensors" and Path(pretrained).is_file():
        weights = Path(pretrained)
        told = _beside(weights, model, values)
        source, pretrained = {"file": weights.name}, weights.name
    else:
        weights, told, source = _fetched(package, model, pretrained)
        license = source.pop("license", license)
    digest = sha256(weights)
    wanted = PINS.get((model, pretrained), ("", digest))[1]
    if digest != wanted:
        raise HashMismatchError(
            f"{weights} has sha256 {digest[:12]}..., {model} {pretrained} has {wanted[:12]}...: "
            "get the file again"
        )
    source = {"model": model, "pretrained": pretrained, **source, "sha256": digest}
    tokenizer, texts = read_tokenizer(package, model, values)
    config = read_config(package, values, told, texts, source)
    module = OpenClip(config).eval()
    load_into(module, _tensors(package, module, weights), weights)
    files = save_folder(
        out,
        module=module,
        architecture="open-clip",
        config=config.to_dict(),
        tokenizer=tokenizer,
    )
    card = _card(out, config, files, license, sum(p.numel() for p in module.parameters()))
    card.write(out)
    return card


def _check_kind(values: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for a kind of model that is not read."""
    if "multimodal_cfg" in values:
        raise ConfigError("CoCa writes captions: its decoder is not read")
    if name := values["text_cfg"].get("hf_model_name"):
        raise ConfigError(f"its text tower is {name} of transformers: not read")
    if unknown := set(values) - {"embed_dim", "vision_cfg", "text_cfg", *MORE}:
        raise ConfigError(f"open_clip's configuration says {sorted(unknown)}: not read")


def _fetched(
    package: Any, model: str, pretrained: str
) -> tuple[Path, Mapping[str, Any], dict[str, str]]:
    """The weights of a tag, what they were trained with, where they are from."""
    tags = package.list_pretrained_tags_by_model(model)
    if pretrained not in tags:
        raise UnknownNameError(f"pretrained tag of {model}", pretrained, tags)
    told = package.get_pretrained_cfg(model, pretrained)
    repo = (told.get("hf_hub") or "").rstrip("/")
    if repo.count("/") > 1 or not repo:
        raise HubError(
            f"{model} {pretrained} has no weights as safetensors on the Hub, so it is not read: "
            f"{told.get('url') or repo}"
        )
    with talking(f"get {model} {pretrained} from the Hub", repo):
        from huggingface_hub import HfApi, hf_hub_download

        api = HfApi()
        found = api.model_info(repo, revision=PINS.get((model, pretrained), (None,))[0])
        names = {file.rfilename for file in found.siblings or ()}
        name = next((name for name in FILES if name in names), None)
        if name is None:
            raise HubError(f"{repo} has none of {', '.join(FILES)}: a pickle is not read")
        commit = str(found.sha)
        path = hf_hub_download(repo, name, revision=commit, cache_dir=cache_folder())
        source = {"repo": repo, "revision": commit, "file": name}
        if TOLD in names:  # its own word counts more than the registry's
            said = hf_hub_download(repo, TOLD, revision=commit, cache_dir=cache_folder())
            told = {**told, **_told(Path(said))[0]}
        if found.card_data is not None and found.card_data.license:
            source["license"] = str(found.card_data.license)
    return Path(path), told, source


def _beside(weights: Path, model: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the weights of a file were trained with, as the configuration beside it says.

    Raises:
        ConfigError: there is none, or it is of another model than the registry's `values`.
    """
    path = weights.with_name(TOLD)
    if not path.is_file():
        raise ConfigError(
            f"nothing says which preprocessing {weights.name} was trained with: put the {TOLD} of "
            "its repository beside it, or give its tag in place of the file"
        )
    told, sizes = _told(path)
    if not {"mean", "std"} <= told.keys():
        raise ConfigError(f"{path} says no mean and std under preprocess_cfg: give another")
    theirs = {"embed_dim": sizes.get("embed_dim"), **(sizes.get("vision_cfg") or {})}
    ours = {"embed_dim": values["embed_dim"], **values["vision_cfg"]}
    for key in theirs.keys() & ours.keys() - {"timm_model_pretrained"}:
        if theirs[key] != ours[key]:
            raise ConfigError(
                f"{path} is of another model than {model}: {key}={theirs[key]}, not {ours[key]}"
            )
    return told


def _told(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an `open_clip_config.json` says of preprocessing and activation, and of sizes.

    Raises:
        ConfigError: it is no such file.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
        told, sizes = dict(found.get("preprocess_cfg", {})), dict(found.get("model_cfg", {}))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {one_line(error)}") from error
    if "quick_gelu" in sizes:
        told["quick_gelu"] = sizes["quick_gelu"]
    return told, sizes


def read_tokenizer(
    package: Any, model: str, values: Mapping[str, Any]
) -> "tuple[Tokenizer, dict[str, Any]]":
    """The tokenizer of a model of the registry, and what the configuration says of it.

    Raises:
        ConfigError: it reads texts in a way that is not known here.
        HubError: it is one of the Hub, and the Hub cannot be asked.
    """
    told = dict(values["text_cfg"].get("tokenizer_kwargs") or {})
    clean = told.pop("clean", None)
    if told or values["text_cfg"].get("tokenizer_mode"):
        raise ConfigError(f"{model} reads texts by {told or 'a tokenizer_mode'}: not read")
    with talking(f"get the tokenizer of {model}"):
        theirs = package.get_tokenizer(model)
    if isinstance(theirs, package.SimpleTokenizer):
        tokens = theirs.all_special_ids
        return byte_pairs(theirs), {"clean": clean or "lower", "pad_id": 0, "end_id": tokens[1]}
    fast = getattr(theirs.tokenizer, "backend_tokenizer", None)
    if fast is None:
        raise ConfigError(f"{model} has no tokenizer that the library tokenizers can hold")
    fast.no_padding()
    fast.no_truncation()
    pad, end = theirs.tokenizer.pad_token_id or 0, theirs.tokenizer.eos_token_id or 0
    return fast, {"clean": clean or "whitespace", "pad_id": pad, "end_id": end}


def byte_pairs(theirs: Any) -> "Tokenizer":
    """CLIP's own tokenizer as one of the library `tokenizers`: it gives the same ids."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    first, last = list(theirs.encoder)[-2:]
    merges = sorted(theirs.bpe_ranks, key=theirs.bpe_ranks.get)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=theirs.encoder,
            merges=merges,
            unk_token=last,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens([first, last])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        special_tokens=[(token, theirs.encoder[token]) for token in (first, last)],
    )
    return tokenizer


def read_config(
    package: Any,
    values: Mapping[str, Any],
    told: Mapping[str, Any],
    texts: Mapping[str, Any],
    source: dict[str, str],
) -> OpenClipConfig:
    """Our configuration of a model of the registry.

    Args:
        package: `open_clip`.
        values: the registry's configuration of the model.
        told: the preprocessing of the weights, and their activation. That of the model's name may
            be another: `ViT-B-32` has GELU, its weights `openai` were trained with QuickGELU.
        texts: how texts are read.
        source: where the weights are from.

    Raises:
        ConfigError: its pictures are not square.
    """
    vision, text = dict(values["vision_cfg"]), dict(values["text_cfg"])
    size = vision.pop("image_size", 224)
    if not isinstance(size, int):
        raise ConfigError(f"pictures of {size} are not square: not read")
    vision.pop("timm_model_pretrained", None)
    if vision.get("timm_model_name"):
        vision["timm_model_pretrained"] = False
    usual = package.model.CLIPTextCfg()
    transform = asdict(package.transform.PreprocessCfg())
    transform |= {key: value for key, value in told.items() if key in transform}
    if transform["interpolation"] == "random":
        transform["interpolation"] = "bicubic"  # what open_clip evaluates with
    return OpenClipConfig(
        vocab_size=text.get("vocab_size", usual.vocab_size),
        max_seq_len=text.get("context_length", usual.context_length),
        image_size=size,
        d_embed=values["embed_dim"],
        vision=vision,
        text={"pool_type": "argmax", **{k: v for k, v in text.items() if k not in OWN}},
        more={
            **{key: values[key] for key in MORE if key in values},
            "quick_gelu": bool(told.get("quick_gelu")),
        },
        image_mean=tuple(transform["mean"]),
        image_std=tuple(transform["std"]),
        resize=transform["resize_mode"],
        interpolation=transform["interpolation"],
        fill=transform["fill_color"],
        source=source,
        **texts,
    )


def _tensors(package: Any, module: OpenClip, weights: Path) -> "dict[str, Tensor]":
    """The tensors of a file under our names, brought to shape by `open_clip` itself."""
    read_weights(weights)  # refuses what is damaged or a pickle, in our words
    with tempfile.TemporaryDirectory() as folder:  # open_clip goes by the name's end
        link = Path(folder, "weights.safetensors")
        link.symlink_to(weights.resolve())
        try:
            package.load_checkpoint(module.clip, str(link), strict=True)
        except (RuntimeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"{weights} does not fit {module.config.source['model']}: {one_line(error)[:300]}"
            ) from error
    return dict(module.state_dict())


def _card(
    out: Path,
    config: OpenClipConfig,
    files: Mapping[str, FileRecord],
    license: str,
    parameters: int,
) -> Card:
    """The card of a pinned model."""
    source = config.source
    on_hub = "repo" in source
    place = f"`{source['repo']}` at commit `{source['revision']}`" if on_hub else "a file"
    summary = f"{source['model']} of open_clip, weights {Path(source['pretrained']).stem}"
    front: dict[str, Any] = {
        "license": license,
        "library_name": "txzoo",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["txzoo", "open-clip"],
        **({"base_model": source["repo"]} if on_hub else {}),
        "txzoo": {
            "name": out.name.lower(),
            "summary": summary,
            "architecture": "open-clip",
            "parameters": parameters,
            "requires": {"txzoo": f">={__version__}"},
            "files": {name: asdict(record) for name, record in files.items()},
        },
    }
    text = PROSE.format(
        name=out.name,
        ref=out.name if out.parent == pinned_folder() else f"./{out.name}",
        summary=summary,
        model=source["model"],
        pretrained=source["pretrained"],
        place=place,
        file=source["file"],
        digest=source["sha256"],
    )
    return Card(data=front, text=text, path=out / CARD)
