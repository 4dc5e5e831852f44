"""The training loop, on `accelerate`: one step after another, and on again where it stopped."""

import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from safetensors import SafetensorError
from torch import nn

from zoo import __version__, conversation
from zoo.data import PAIRED
from zoo.errors import FolderError, RecipeError, TrainingError
from zoo.folder import CARD, LOG, RECIPE, FileRecord, save_folder
from zoo.loading import load, locate
from zoo.model import Model
from zoo.nn import PlainAttention, reordered
from zoo.registry import registry, resolve
from zoo.tasks import BaseTask, Batches, LanguageModeling
from zoo.tasks.own_data import OwnData, for_recipe
from zoo.tasks.text_stream import StreamBatches
from zoo.training import checkpoint, groups, sharding
from zoo.training.embeddings import Taken, take
from zoo.training.memory import keep_freed_memory
from zoo.training.muon import Muon
from zoo.training.products import as_exact, fast_products
from zoo.training.progress import Progress
from zoo.training.recipe import EmbeddingSettings, Recipe, TrainingSettings
from zoo.training.report import adapted, hardware, measure, new_card
from zoo.training.vocabulary import source_tokenizer
from zoo.tuning import adapt, trained
from zoo.tuning.files import write
from zoo.tuning.heads import refit


def train(
    recipe: Recipe | str | Path,
    *,
    out: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    **overrides: Any,
) -> Model:
    """Train a model and write its folder.

    While it runs, everything is in `OUT.partial`; the finished folder appears at OUT in one move.

    Args:
        recipe: a recipe, a file, or the name of a model that has one.
        out: where the model folder goes.
        resume: go on from the last checkpoint in `OUT.partial`.
        overwrite: replace what is at `out` and throw away an unfinished run there.
        overrides: other values for the recipe's keys, such as `steps=100` or `d_model=64`;
            `tuning="lora"` adapts `base`, or the model whose name or folder is given as `recipe`,
            with the method's options beside it, such as `rank=8`; `data="my.csv"` takes texts of
            your own, with `test_data` and `license`: labelled ones, with `text_column` and
            `label_column`; for an encoder-decoder sentence pairs, with `source_column` and
            `target_column`, or line by line in two files, `data=("my.en", "my.de")`; for image
            classification a folder of pictures, `FOLDER/label/1.png`.

    Returns:
        The model as loaded from its folder.

    Raises:
        RecipeError: the recipe does not parse or asks for something impossible.
        TrainingError: something is at `out` already, or there is nothing to resume, or no loss was
            finite, or the disk is full.
        UnknownNameError: no plugin has the architecture or the task.
    """
    recipe = plan(recipe, **overrides)
    keep_freed_memory()
    out = Path(out)
    partial = out.with_name(out.name + ".partial")
    patience = InitProcessGroupKwargs(timeout=LONGEST_WAIT)
    AcceleratorState._reset_state()  # holds a process to the precision of its first training
    accelerator = Accelerator(
        mixed_precision=_precision(recipe.training), kwargs_handlers=[patience]
    )
    if accelerator.is_main_process:
        _check_folders(out, partial, resume=resume, overwrite=overwrite)
    accelerator.wait_for_everyone()
    run = Run(recipe, partial, accelerator)
    if accelerator.is_main_process and not resume:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    try:
        run.to_the_end(resume)
        run.best.put_into(run.module)
        if run.is_sharded:
            sharding.gather(run.module, keep=accelerator.is_main_process)
        else:
            run.module.to("cpu")
        if accelerator.is_main_process:
            _finish(run, partial / "model")
    except (OSError, SafetensorError) as error:  # a full disk, above all
        left = "There was no checkpoint yet: mend that, then start again"
        if (partial / checkpoint.FILE).is_file():
            left = f"The last checkpoint in {partial} is whole: mend that, then go on with --resume"
        raise TrainingError(f"Training stopped: {error}. {left}") from error
    if accelerator.is_main_process:
        if out.exists():
            shutil.rmtree(out)
        os.replace(partial / "model", out)
        shutil.rmtree(partial)
    accelerator.wait_for_everyone()
    return load(str(out.absolute()))


def plan(recipe: Recipe | str | Path, **overrides: Any) -> Recipe:
    """The recipe that a run follows: found, and with other values.

    Raises:
        RecipeError: as in `train`.
    """
    ref = "" if isinstance(recipe, Recipe) else str(recipe)
    found = recipe if isinstance(recipe, Recipe) else find_recipe(recipe)
    method = overrides.get("tuning")
    if method is not None and not found.tuning:
        if ref.endswith(".toml") and "base" not in overrides:
            raise RecipeError(f"{ref} names no base to adapt: give base=, a model's name or folder")
        if isinstance(method, str) and "data" not in overrides:  # which names it by the file
            overrides.setdefault("name", f"{found.name}-{method}")
        overrides["base"] = _absolute(overrides.get("base") or ref or found.name)
    return found.with_changes(**overrides)


def _absolute(ref: str) -> str:
    """A reference that means the same from anywhere."""
    on_disk = not ref.startswith("hf://") and "/" in ref.replace(os.sep, "/")
    return str(Path(ref).absolute()) if on_disk and os.path.isdir(ref) else ref


def base_of(recipe: Recipe) -> Model:
    """The model that a recipe adapts.

    Raises:
        FolderError: it is damaged, or has no weights yet; and what may be given instead.
        ZooError: as `load`.
    """
    try:
        return load(recipe.base)
    except FolderError as error:
        raise FolderError(
            f"{error}. base= or --base names another to begin with, or its folder"
        ) from error


def find_recipe(name: str | Path) -> Recipe:
    """The recipe in a file, in a model folder, or of a model, registered or on the Hub."""
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        return Recipe.read(path)
    if (path / RECIPE).is_file():
        return Recipe.read(path / RECIPE)
    if str(name).startswith("hf://"):
        folder = locate(str(name)).folder
    else:
        folder = Path(registry().models.get(str(name)).folder)
    if not (folder / RECIPE).is_file():
        raise RecipeError(f"{name} has no {RECIPE} in its folder, so it cannot be trained")
    return Recipe.read(folder / RECIPE)


class Run:
    """One training run: its parts and where it stands.

    Args:
        recipe: what is trained.
        folder: of the unfinished run.
        accelerator: processes, devices and precision.
    """

    def __init__(self, recipe: Recipe, folder: Path, accelerator: Accelerator) -> None:
        self.recipe, self.folder, self.accelerator = recipe, folder, accelerator
        self.settings = recipe.training
        self.architecture = registry().architectures.get(recipe.architecture)
        self.task: BaseTask
        if recipe.data:
            self.task_entry, self.task = for_recipe(recipe.data, recipe.seed, self.architecture)
        else:
            self.task_entry = registry().tasks.get(recipe.task)
            self.task = resolve(self.task_entry.target)()
        self.task.set_objective(recipe.objective)
        self.base = base_of(recipe) if recipe.tuning else None
        self.embeddings = EmbeddingSettings(**recipe.embeddings) if recipe.embeddings else None
        self.taken: Taken | None = None
        self.changes: dict[str, Any] = {}
        self.fresh: list[str] = []
        self.tokenizer, self.module = self._new() if self.base is None else self._adapt(self.base)
        config: Any = self.module.config
        self.config = config
        self.learned = list(trained(self.module))
        self.task.model_config = config
        self.batches = self._batches(self.config.max_seq_len)
        short = self.settings.short_length
        if short >= self.config.max_seq_len:
            raise RecipeError(
                f"[training] short_length={short} is not shorter than "
                f"max_seq_len={self.config.max_seq_len}"
            )
        self.short = self._batches(short) if short else self.batches
        if sharding.recomputes():
            sharding.recompute(self.module, self._attention)
        self.is_sharded = sharding.is_asked_for(accelerator)
        if self.is_sharded:
            sharding.shard(self.module, accelerator.device)
        self.optimizers = build_optimizers(self.module, self.settings, self._apart())
        self.peaks = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self.wrapped, self.wrapped_optimizers = self.module, self.optimizers
        if not self.is_sharded:
            self.wrapped = accelerator.prepare(self.module)
            self.wrapped_optimizers = [accelerator.prepare(o) for o in self.optimizers]
        self.step = 0
        self.skipped = 0
        self.seconds = 0.0
        self.recent: list[tuple[float, float]] = []  # loss and gradient norm since the last line
        self.epoch: list[float] = []  # losses since the epoch began
        self.best = checkpoint.Best()

    def _new(self) -> tuple[Any, nn.Module]:
        """The tokenizer, and a module that knows nothing yet, but for embeddings it is given.

        A task of pictures has no tokenizer: None.
        """
        rows: list[int] | None = None
        tokenizer: Any
        if self.recipe.tokenizer.get("kind") == "source":
            if not isinstance(self.task, LanguageModeling):
                raise RecipeError(
                    f"[tokenizer] kind 'source' is for running text, {self.task_entry.name} is a "
                    f"{self.task_entry.pipeline} task"
                )
            source = "" if self.embeddings is None else self.embeddings.source
            text = self.task.start + self.task.tokenizer_text()
            tokenizer, rows = source_tokenizer(self.recipe.tokenizer, source, text)
        else:
            tokenizer = self.task.build_tokenizer(self.recipe.tokenizer)
            if tokenizer is None and self.recipe.tokenizer:
                raise RecipeError(f"[tokenizer] is for texts, {self.task_entry.name} has none")
        model_class = resolve(self.architecture.target)
        sizes = {} if tokenizer is None else {"vocab_size": tokenizer.get_vocab_size()}
        own = sizes | self.task.config(tokenizer)
        config = model_class.config_class.from_dict({**own, **self.recipe.config})
        torch.manual_seed(self.recipe.seed)
        module: nn.Module = model_class(config)
        if self.embeddings is not None:
            self.taken = take(module, self.embeddings, rows)
        return tokenizer, module

    def _apart(self) -> dict[str, float]:
        """The peak learning rate of each parameter that began with a source's embeddings."""
        if self.embeddings is None or self.taken is None:
            return {}
        usual = self.settings.embedding_learning_rate or self.settings.learning_rate
        return dict.fromkeys(self.taken.names, self.embeddings.learning_rate or usual)

    def _adapt(self, base: Model) -> tuple[Any, nn.Module]:
        """The tokenizer of a trained model, and its module with what shall learn."""
        assert base.card is not None  # a loaded model has one
        name = self.recipe.architecture
        if base.tokenizer is None and not hasattr(base.config, "image_size"):
            raise RecipeError(f"{base.name} has no tokenizer, so it cannot be adapted to a text")
        if base.adapter is not None:
            raise RecipeError(f"{base.name} is an adapter itself: give its base, or merge it first")
        if base.card.architecture != name:
            raise RecipeError(
                f"recipe says architecture {name!r}, its base {self.recipe.base} is of "
                f"{base.card.architecture!r}"
            )
        pipeline, task = self.task_entry.pipeline, self.task_entry.name
        alike = base.pipeline == pipeline or {base.pipeline, pipeline} <= set(PAIRED)
        if not alike and not hasattr(base.config, "head"):
            raise RecipeError(
                f"{task} is a {pipeline} task, {base.name} is a {base.pipeline} model, "
                "whose architecture has no other head"
            )
        tokenizer: Any = base.tokenizer  # None where the task is of pictures
        own = self.task.config(tokenizer)
        self.task.begin(base)
        # which token pads, begins and ends a text, the base has learned
        own = {key: value for key, value in own.items() if not key.endswith("_id")}
        changes = {**own, **self.recipe.config}
        options = dict(self.recipe.tuning)
        torch.manual_seed(self.recipe.seed)
        module, self.fresh = refit(base.module, changes)
        self.changes = changes if module is not base.module else {}
        return base.tokenizer, adapt(module, options.pop("method"), fresh=self.fresh, **options)

    def _batches(self, length: int) -> Batches:
        return self.task.batches(
            self.tokenizer,
            length=length,
            batch_tokens=self.settings.batch_tokens,
            seed=self.recipe.seed,
        )

    @property
    def epochs(self) -> float:
        """Passes over the data so far."""
        return self._epochs_at(self.step)

    def _epochs_at(self, step: int) -> float:
        short = min(step, self.settings.short_steps)
        return short / self.short.per_epoch + (step - short) / self.batches.per_epoch

    @property
    def reads_a_stream(self) -> bool:
        """Whether passes over the data cannot be counted."""
        return bool(self._streams())

    def frozen(self, step: int) -> tuple[str, ...]:
        """The parameters that a step, counted from 0, leaves as the source had them."""
        if self.embeddings is None or self.taken is None:
            return ()
        return self.taken.names if self._epochs_at(step) < self.embeddings.frozen_epochs else ()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The groups that the optimisers have, for log and card."""
        apart = () if self.taken is None else self.taken.names
        epochs = 0.0 if self.embeddings is None else self.embeddings.frozen_epochs
        return groups.described(self.module, self.optimizers, self.peaks, apart, epochs)

    @property
    def stands_alone(self) -> bool:
        """Whether the result holds every weight, and so needs no base to be loaded."""
        return len(self.learned) == len(list(self.module.parameters()))

    def to_the_end(self, resume: bool) -> None:
        """Run all steps that are left, writing log and checkpoints."""
        if resume:
            self._restore()
        log = Log(self.folder / LOG, self.step, enabled=self.accelerator.is_main_process)
        started = time.monotonic() - self.seconds
        recent = self.recent
        progress = Progress(
            self.recipe.name, self.settings.steps, enabled=self.accelerator.is_main_process
        )
        with log, progress:
            if self.taken is not None:
                self._log_groups(log, progress)
            while self.step < self.settings.steps:
                rate = self._set_learning_rates()
                set_progress: Any = getattr(self.module, "set_progress", None)
                if set_progress is not None:  # see zoo.tuning.gradual
                    set_progress(self.step / self.settings.steps)
                if self.step and self.frozen(self.step - 1) and not self.frozen(self.step):
                    names = self.frozen(self.step - 1)
                    log.write(step=self.step + 1, no_longer_frozen=list(names))
                    progress.note(f"step {self.step + 1}: {', '.join(names)} are trained from here")
                before = int(self.epochs)
                result = self.one_step()
                self.step += 1
                self.seconds = time.monotonic() - started
                if result is None:
                    self.skipped += 1
                    log.write(step=self.step, skipped=self.skipped)
                else:
                    recent.append(result)
                    self.epoch.append(result[0])
                if self.step % self.settings.log_every == 0 and recent:
                    losses, norms = zip(*recent, strict=True)
                    log.write(
                        step=self.step,
                        loss=round(sum(losses) / len(losses), 5),
                        gradient_norm=round(sum(norms) / len(norms), 4),
                        learning_rate=round(rate, 8),
                        seconds=round(self.seconds, 1),
                    )
                    progress.update(self.step, loss=sum(losses) / len(losses), rate=rate)
                    recent.clear()
                self._log_epoch(log, progress, before)
                if self._looks(self.step):
                    self._log_validation(log, progress)
                if self.step % self.settings.checkpoint_every == 0:
                    self._save(log)
            if self.skipped == self.settings.steps:
                raise TrainingError(
                    f"none of the {self.skipped} steps had a finite loss: lower the learning rate "
                    f"(now {self.settings.learning_rate})"
                )
            self._save(log)

    def _log_groups(self, log: "Log", progress: Progress) -> None:
        entries = self.parameter_groups()
        if self.step == 0:
            log.write(step=0, parameter_groups=entries)
        for line in groups.lines(entries):
            progress.note(line)

    def _log_epoch(self, log: "Log", progress: Progress, before: int) -> None:
        """Mean loss of an epoch, where it or the run has ended, and its perplexity per token.

        Epochs of fewer steps than the log has between two lines stand in the log alone. `before`
        counts those that had ended before the last step.
        """
        share = self.epochs - before  # of this epoch that was read
        last = self.step == self.settings.steps and not self.reads_a_stream
        if not self.epoch or not (share >= 1 or last):
            return
        mean = sum(self.epoch) / len(self.epoch)
        self.epoch.clear()
        values = {"loss": round(mean, 5)}
        if self.task.loss_of_tokens:
            values["perplexity"] = round(math.exp(min(mean, 700.0)), 3)
        of_it = {} if share >= 1 else {"share": round(share, 3)}
        log.write(epoch=before + 1, step=self.step, **of_it, **values)
        if self.batches.per_epoch >= self.settings.log_every:
            words = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            ended = f", ended at {share:.0%}" if of_it else ""
            progress.note(f"epoch {before + 1}{ended}: {words}")

    def _looks(self, step: int) -> bool:
        """Whether the validation split is measured after so many steps."""
        every, last = self.settings.evaluate_every, step == self.settings.steps
        if self.settings.keep == "best" and last:
            return True
        return bool(every) and step % every == 0 and not last

    def one_step(self) -> tuple[float, float] | None:
        """One optimiser step; loss and gradient norm, or None for a step skipped as not finite."""
        with fast_products(self.accelerator.device):
            return self._one_step()

    def _one_step(self) -> tuple[float, float] | None:
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        torch.manual_seed(hash((self.recipe.seed, self.step, rank)) % 2**63)  # dropout
        short = self.settings.short_steps
        whole = self.short(self.step) if self.step < short else self.batches(self.step - short)
        batch = {n: rows[rank::world] for n, rows in whole.items()}
        rows = len(next(iter(whole.values())))
        if rows < world:
            raise TrainingError(
                f"a batch of {rows} rows cannot be shared by {world} processes: raise batch_tokens "
                f"(now {self.settings.batch_tokens}), or start fewer processes"
            )
        self.wrapped.train()
        wanted = self.accelerator.gradient_accumulation_steps
        pieces = min(wanted, rows // world)  # as many on each process
        total = torch.zeros((), device=self.accelerator.device)
        for piece in range(pieces):
            part = {n: v[piece::pieces].to(self.accelerator.device) for n, v in batch.items()}
            # processes are averaged evenly, so one with more rows than others weighs more
            share = len(next(iter(part.values()))) * world / rows
            with self._attention(), self._adding_up(piece == pieces - 1):
                with self.accelerator.autocast():
                    loss = self.task.loss(self.wrapped, part) * share
                total += loss.detach()
                self.accelerator.backward(loss * wanted)  # which divides by it
        mean = self.accelerator.reduce(total, "mean").item()
        for name in self.frozen(self.step):  # without a gradient no step and no decay is taken
            self.module.get_parameter(name).grad = None
        norm = self._clip() if math.isfinite(mean) else math.nan
        if math.isfinite(norm):
            for optimizer in self.wrapped_optimizers:
                optimizer.step()
        for optimizer in self.wrapped_optimizers:
            optimizer.zero_grad()
        return (mean, norm) if math.isfinite(norm) else None

    def _attention(self) -> AbstractContextManager[Any]:
        """Plain where its products are oneDNN's: the fused one's way back takes longer there."""
        plain = self.accelerator.mixed_precision == "bf16" or as_exact()
        on_processor = self.accelerator.device.type == "cpu"
        return PlainAttention() if plain and on_processor else nullcontext()

    def _adding_up(self, wanted: bool) -> AbstractContextManager[None]:
        """Whether gradients of processes are added up now, or with those of a later piece.

        Those of a sharded model are with each piece: until then each process would have all.
        """
        if wanted or self.is_sharded:
            return nullcontext()
        later: AbstractContextManager[None] = self.accelerator.no_sync(self.wrapped)
        return later

    def _clip(self) -> float:
        """Shorten the gradient if it is too long; its norm before."""
        parameters = self.module.parameters()
        if self.is_sharded:
            norm: Any = nn.utils.clip_grad_norm_(parameters, self.settings.clip)
            return float(norm.full_tensor())
        norm = self.accelerator.clip_grad_norm_(parameters, self.settings.clip)
        return 0.0 if norm is None else float(norm)

    def _set_learning_rates(self) -> float:
        share = learning_rate_share(self.step, self.settings)
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * share
        return self.settings.learning_rate * share

    def _log_validation(self, log: "Log", progress: Progress) -> None:
        if not (self.accelerator.is_main_process or self.is_sharded):
            return  # a sharded model is whole on all processes together only
        model = Model(
            name=self.recipe.name,
            card=None,
            config=self.config,
            module=self.module.eval(),
            tokenizer=self.tokenizer,
            pipeline=self.task_entry.pipeline,
        )
        with reordered(self.module):
            scores = self.task.evaluate(model, "validation", limit=VALIDATION_TOKENS)
        scores = {name: round(value, 5) for name, value in scores.items()}
        log.write(step=self.step, validation=scores)
        headline = self.task_entry.metrics[0]
        progress.note(f"step {self.step}: validation {headline} {scores[headline]:.4g}")
        if self.settings.keep == "best" and not scores.get("skipped_tokens"):
            self.best.look(self.module, self.step, headline, scores[headline])

    def _save(self, log: "Log") -> None:
        log.flush()
        state = {
            "step": self.step,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "recent": self.recent,
            "epoch": self.epoch,
            "recipe": self.recipe.dump(),
            "data": [source.state() for source in self._streams()],
        }
        checkpoint.save(
            self.folder,
            self.module,
            self.optimizers,
            state,
            self.best,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            wait=self.accelerator.wait_for_everyone,
        )

    def _restore(self) -> None:
        tensors, state = checkpoint.read(self.folder)
        if state["recipe"] != self.recipe.dump():
            raise TrainingError(
                f"{self.folder} was begun with another recipe: resume with the same values, "
                "or start anew with --overwrite"
            )
        checkpoint.restore(tensors, self.module, self.optimizers)
        self.best = checkpoint.Best.of(tensors, state, self.module)
        self.step, self.skipped, self.seconds = state["step"], state["skipped"], state["seconds"]
        self.recent, self.epoch = state.get("recent", []), state.get("epoch", [])
        for source, place in zip(self._streams(), state.get("data", []), strict=False):
            source.restore(place)

    def _streams(self) -> list[StreamBatches]:
        """What reads its batches from a stream, and so has a place there to go back to."""
        both = [self.batches] if self.short is self.batches else [self.batches, self.short]
        return [batches for batches in both if isinstance(batches, StreamBatches)]


LONGEST_WAIT = timedelta(hours=12)  # of processes for the one that measures the finished model
VALIDATION_TOKENS = 50_000  # enough for a curve; scores on cards use whole splits


def build_optimizers(
    module: nn.Module, settings: TrainingSettings, apart: Mapping[str, float] | None = None
) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices of the blocks and AdamW for the rest.

    Weight decay falls on matrices, never on embeddings, norms and biases. Parameters `apart` have
    a peak learning rate of their own.
    """
    apart = apart or {}
    own: dict[float, list[nn.Parameter]] = {}
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if name in apart:
            own.setdefault(apart[name], []).append(parameter)
            continue
        inside = parameter.dim() == 2 and "embedding" not in name and "position" not in name
        inside = inside and not name.startswith(("head.", "relative_bias"))
        (matrices if inside else others).append(parameter)
    rate, decay = settings.learning_rate, settings.weight_decay
    rest = {"params": others, "lr": settings.embedding_learning_rate or rate, "weight_decay": 0.0}
    more = [{"params": found, "lr": peak, "weight_decay": 0.0} for peak, found in own.items()]
    if settings.optimizer == "muon" and matrices:  # BitFit and prompts train none
        return [
            Muon(matrices, lr=rate, weight_decay=decay),
            torch.optim.AdamW([rest, *more], betas=settings.betas),
        ]
    inner = {"params": matrices, "lr": rate, "weight_decay": decay}
    return [torch.optim.AdamW([inner, rest, *more], betas=settings.betas)]


def learning_rate_share(step: int, settings: TrainingSettings) -> float:
    """Share of the peak learning rate at a step: a linear warm-up, then half a cosine.

    The cosine (Loshchilov & Hutter 2017, arXiv:1608.03983) ends at `final_learning_rate` on the
    last step.
    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    left = max(1, settings.steps - settings.warmup_steps)
    done = (step + 1 - settings.warmup_steps) / left
    low = settings.final_learning_rate
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done))


class Log:
    """`training.jsonl`: one JSON object a line, without what came after the last checkpoint.

    Args:
        path: the file.
        step: lines of later steps are dropped on opening.
        enabled: False on all processes but the main one.
    """

    def __init__(self, path: Path, step: int, *, enabled: bool) -> None:
        self.path, self.enabled = path, enabled
        if not enabled:
            return
        kept = []
        if step and path.is_file():
            kept = [row for row in _complete_rows(path) if row["step"] <= step]
        beside = path.with_name(path.name + ".new")
        beside.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        os.replace(beside, path)

    def __enter__(self) -> "Log":
        self.file = self.path.open("a", 1, encoding="utf-8") if self.enabled else None
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()

    def write(self, **values: Any) -> None:
        """Add a line."""
        if self.file is not None:
            self.file.write(json.dumps(values) + "\n")

    def flush(self) -> None:
        """Bring all lines to the disk, before a checkpoint counts on them."""
        if self.file is not None:
            self.file.flush()
            os.fsync(self.file.fileno())


def _complete_rows(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:  # the line that a kill cut off
            return


def _check_folders(out: Path, partial: Path, *, resume: bool, overwrite: bool) -> None:
    if out.exists() and not overwrite:
        raise TrainingError(f"{out} exists: choose another folder, or replace it with --overwrite")
    begun = (partial / checkpoint.FILE).is_file()
    if resume and not begun:
        raise TrainingError(f"{partial} holds no checkpoint: train without --resume")
    if begun and not resume and not overwrite:
        raise TrainingError(
            f"{partial} holds an unfinished run: go on with --resume, or throw it away with "
            "--overwrite"
        )


def _finish(run: Run, folder: Path) -> None:
    """Write the model folder, measure what was written, and put the scores on its card."""
    recipe, module = run.recipe, run.module
    shutil.rmtree(folder, ignore_errors=True)
    files = _save_adapter(run, folder) if run.base and not run.stands_alone else _save(run, folder)
    if run.task.template is not None:
        path = conversation.write(folder, run.task.template)
        files |= {path.name: FileRecord.of(path)}
    owners = [registry().architectures.owner(recipe.architecture)]
    owners += [registry().tasks.owner(recipe.task)] if recipe.task else []
    card = new_card(
        recipe,
        folder,
        files,
        architecture=run.architecture,
        task=run.task_entry,
        data=run.task.facts() if isinstance(run.task, OwnData) else None,
        base=run.base.card if run.base is not None else None,
        distributions={"txzoo": __version__} | {o.distribution: o.version for o in owners},
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        training={
            "seed": recipe.seed,
            "steps": run.step,
            "skipped_steps": run.skipped,
            "tokens": run.step * recipe.training.batch_tokens,
            **({} if run.reads_a_stream else {"epochs": round(run.epochs, 2)}),
            "minutes": round(run.seconds / 60, 1),
            "processes": run.accelerator.num_processes,
            "hardware": hardware(run.accelerator.device),
            "torch": str(torch.__version__),
            **_facts(run),
        },
    )
    if run.base is not None:
        learned = sum(module.get_parameter(name).numel() for name in run.learned)
        card = adapted(card, recipe, run.base, learned=learned, alone=run.stands_alone)
    card.write(folder / CARD)
    measure(folder, run.task_entry, run.task.test_splits, recipe.contexts)


def _facts(run: Run) -> dict[str, Any]:
    """What a card says besides of a run: what was left out, kept, or taken from a source."""
    facts: dict[str, Any] = {}
    if left := getattr(run.batches, "left_out", 0):  # of tasks that never cut an example
        facts["left_out"] = {"train": left}
    if run.best.step:
        facts["kept"] = {"step": run.best.step, "validation": {run.best.metric: run.best.score}}
    if run.taken is not None:
        facts["embeddings"] = dict(run.taken.facts)
        facts["parameter_groups"] = run.parameter_groups()
    return facts


def _save(run: Run, folder: Path) -> dict[str, FileRecord]:
    """Write a model that stands alone."""
    return save_folder(
        folder,
        module=run.module,
        architecture=run.recipe.architecture,
        config=run.config.to_dict(),
        tokenizer=run.tokenizer,
        recipe=run.recipe.dump(),
        log=run.folder / LOG,
        dtype=getattr(torch, run.recipe.training.storage),
    )


def _save_adapter(run: Run, folder: Path) -> dict[str, FileRecord]:
    """Write what was learned beside a base, without the base."""
    recipe = run.recipe
    options = dict(recipe.tuning)
    method = options.pop("method")
    folder.mkdir(parents=True)
    dtype = getattr(torch, recipe.training.storage)
    files = write(
        folder,
        run.module,
        method,
        options,
        run.learned,
        base=recipe.base,
        changes=run.changes,
        fresh=run.fresh,
        dtype=dtype,
    )
    (folder / RECIPE).write_text(recipe.dump(), encoding="utf-8")
    shutil.copyfile(run.folder / LOG, folder / LOG)
    return files | {name: FileRecord.of(folder / name) for name in (RECIPE, LOG)}


def _precision(settings: TrainingSettings) -> str:
    """What `accelerate` calls the recipe's precision, where this machine computes in it."""
    if settings.precision == "float32":
        return "no"
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    return "bf16" if "avx512_bf16" in _cpu_features() else "no"


def _cpu_features() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8") if path.is_file() else ""
