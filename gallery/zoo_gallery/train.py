"""The page that trains a small model while one watches, and then lets one try it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing
from itertools import accumulate
from typing import Any

import gradio as gr

from zoo import Card
from zoo.charts import losses, svg, training_curve, validations
from zoo.errors import InputError
from zoo.folder import RECIPE
from zoo.numbers import short_count, spelled, with_error
from zoo.registry import registry
from zoo.training.recipe import Recipe
from zoo_gallery.markup import figure, heading, listed, paragraph, status, table
from zoo_gallery.snippets import PROMPT
from zoo_gallery.state import COMPUTE, Gallery
from zoo_gallery.views import check_length, paced, telling
from zoo_gallery.worker import BusyError, Job, Trainer, data_problems

MEMORY = 4 << 30  # bytes that a training may take
BATCH_TOKENS = 2048  # at most, so that a step takes a fraction of a second on one core
STEPS, TOKENS = 300, 40  # at first
LOOK_SECONDS = 0.5  # between looks at a training
IDLE = "Nothing is being trained."
LOOKING = "Looking which data are at hand …"


class Offers:
    """Which recipes can be trained here; found out when somebody asks, once.

    Args:
        gallery: whose models' recipes.
    """

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery
        self._lock = threading.Lock()
        self._found: tuple[dict[str, Card], dict[str, str]] | None = None

    def find(self) -> tuple[dict[str, Card], dict[str, str]]:
        """The cards of the models whose recipes are offered, and why the others are not."""
        with self._lock:
            if self._found is None:
                cards = {card.name: card for card in self.gallery.cards}
                reasons = {name: self._too_much(card) for name, card in cards.items()}
                small = {name: recipe_of(cards[name]) for name, why in reasons.items() if not why}
                reasons |= data_problems(small)
                offered = {name: card for name, card in cards.items() if not reasons[name]}
                self._found = offered, {name: why for name, why in reasons.items() if why}
            return self._found

    def _too_much(self, card: Card) -> str:
        """Why a model is not one to train while one waits."""
        limits = self.gallery.limits
        minutes, most = card.training.get("minutes"), limits.train_seconds / 60
        if card.pipeline != "text-generation":
            return f"no page to try a model of {card.pipeline}"
        if not (card.folder / RECIPE).is_file():
            return "no recipe in its folder"
        if card.parameters is None or card.parameters > limits.train_parameters:
            count, allowed = map(short_count, (card.parameters, limits.train_parameters))
            return f"{count or 'unknown'} parameters, at most {allowed}"
        if not isinstance(minutes, int | float) or minutes > most:
            return f"{minutes or 'unknown'} minutes as published, at most {most:g}"
        return ""


def recipe_of(card: Card) -> Recipe:
    """The recipe that lies beside a card."""
    return Recipe.read(card.folder / RECIPE)


def layers_of(recipe: Recipe) -> int:
    """How many layers a recipe asks for; 1 where it does not speak of layers."""
    return int(recipe.config.get("n_layers", 1))


def planned(recipe: Recipe, name: str, *, steps: int, layers: int, seed: int, most: int) -> Recipe:
    """A small run of a recipe.

    Args:
        recipe: as published.
        name: of the model it makes.
        steps: instead of its own.
        layers: instead of its own, at most as many.
        seed: instead of its own.
        most: steps that are allowed.

    Raises:
        InputError: more steps or layers than allowed, or none.
    """
    if not 1 <= steps <= most:
        raise InputError(f"Steps must be 1 to {most}, got {steps}")
    if not 1 <= layers <= layers_of(recipe):
        raise InputError(f"Layers must be 1 to {layers_of(recipe)}, got {layers}")
    return recipe.with_changes(
        name=name,
        steps=steps,
        seed=seed,
        batch_tokens=min(recipe.training.batch_tokens, BATCH_TOKENS),
        warmup_steps=min(recipe.training.warmup_steps, steps // 10),
        log_every=max(1, steps // 50),
        evaluate_every=max(1, steps // 4),
        checkpoint_every=steps,
        contexts=(),
        **({"n_layers": layers} if "n_layers" in recipe.config else {}),
    )


def page(gallery: Gallery) -> None:
    """Build the page in the current Blocks."""
    limits = gallery.limits
    trainer = Trainer(
        seconds=limits.train_seconds,
        memory=MEMORY,
        finished=lambda job: gallery.models.add(job.recipe.name, job.out),
    )
    offers = Offers(gallery)

    said = (
        "It is trained by the recipe of a published model, shortened: at most "
        f"{limits.train_steps} steps and {limits.train_seconds / 60:g} minutes, one training at a "
        "time for all visitors. Whoever opens this page sees it, and may stop it. The result stays "
        "until the next training or the end of this gallery."
    )
    title = heading("Train", "Train a small model and watch it learn, then try it.")
    gr.HTML(title + paragraph(said))
    with gr.Row():
        name = gr.Dropdown([], label="Recipe of", interactive=True)
        steps = gr.Slider(
            10, limits.train_steps, min(STEPS, limits.train_steps), step=10, label="Steps"
        )
        layers = gr.Slider(1, 2, 2, step=1, label="Layers")
        seed = gr.Number(1, precision=0, label="Seed", minimum=0)
    with gr.Row():
        start = gr.Button("Train", variant="primary", interactive=False)
        stop = gr.Button("Stop", variant="stop", interactive=False)
    line = gr.HTML(status(LOOKING))
    curve = gr.HTML("")
    with gr.Accordion("The numbers of the curve", open=False, visible=False) as box:
        numbers = gr.HTML("")
    with gr.Group(visible=False) as result:
        prompt = gr.Textbox(
            label="Prompt for the trained model", max_length=limits.prompt_characters
        )
        with gr.Row():
            tokens = gr.Slider(1, limits.new_tokens, TOKENS, step=1, label="New tokens")
            temperature = gr.Slider(0, 2, 0, step=0.05, label="Temperature")
        ask = gr.Button("Try it")
        answer = gr.Textbox(label="What it writes", lines=3, interactive=False)
    with gr.Accordion("Recipes that are not offered here", open=False):
        others = gr.HTML(paragraph(LOOKING))

    view = [line, curve, box, numbers, start, stop, result, prompt, answer]
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    # watching is cheap, and a training must not keep the watchers waiting
    watching = {**quiet, "concurrency_limit": None}
    trained = 0

    def choose(chosen: str) -> Any:
        """The slider of layers as it fits a recipe."""
        card = offers.find()[0].get(chosen)
        if card is None:
            return gr.skip()
        most = layers_of(recipe_of(card))
        # a slider whose ends meet cannot be drawn
        return gr.Slider(maximum=max(2, most), value=most, interactive=most > 1)

    def offer() -> list[Any]:
        offered, reasons = offers.find()
        names = list(offered)
        first = names[0] if names else None
        known = listed(reasons) if reasons else paragraph("All are offered.")
        return [gr.Dropdown(names, value=first), choose(first or ""), known]

    def begin(chosen: str, steps: float, layers: float, seed: float) -> None:
        nonlocal trained
        card = offers.find()[0].get(chosen)
        if card is None:
            raise InputError(f"There is no recipe of {chosen!r} to be trained here")
        recipe = planned(
            recipe_of(card),
            f"{card.name}-{trained + 1}",
            steps=int(steps),
            layers=min(int(layers), layers_of(recipe_of(card))),
            seed=int(seed or 0),
            most=limits.train_steps,
        )
        trainer.start(recipe, card.example or PROMPT)
        trained += 1

    async def train(*values: Any) -> AsyncIterator[list[Any]]:
        with telling():
            try:
                await asyncio.to_thread(begin, *values)
            except BusyError as error:
                gr.Warning(str(error))
        async for parts in watch():
            yield parts

    def draw(job: Job | None, state: str, rows: list[dict[str, Any]]) -> list[Any]:
        return seen(job, state, rows, ready=bool(offers.find()[0]))

    async def watch() -> AsyncIterator[list[Any]]:
        async for parts in watched(trainer, draw):
            yield parts

    async def end() -> AsyncIterator[list[Any]]:
        await asyncio.to_thread(trainer.stop)
        async for parts in watch():
            yield parts

    def reply(prompt: str, tokens: float, temperature: float) -> Iterator[str]:
        job = trainer.job
        with telling():
            if job is None or job.state != "finished":
                raise InputError("The trained model is gone: another training took its place")
            check_length(prompt, limits.prompt_characters)
            pieces = gallery.models.get(job.recipe.name)(
                prompt,
                stream=True,
                max_new_tokens=max(1, min(int(tokens), limits.new_tokens)),
                temperature=temperature,
                seed=1,
            )
            with closing(pieces):
                yield from paced(accumulate(pieces))

    looked = gr.on(None, offer, None, [name, layers, others], **quiet)
    looked.then(watch, None, view, **watching)
    name.input(choose, name, layers, **quiet)
    # a click counts while the watching that an earlier one began is still ending
    start.click(train, [name, steps, layers, seed], view, trigger_mode="multiple", **watching)
    stop.click(end, None, view, **watching)
    gr.on(
        [ask.click, prompt.submit],
        reply,
        [prompt, tokens, temperature],
        answer,
        concurrency_id=COMPUTE,
        **quiet,
    )


async def watched(
    trainer: Trainer, draw: Callable[[Job | None, str, list[dict[str, Any]]], list[Any]]
) -> AsyncIterator[list[Any]]:
    """What there is to see of a trainer, until nothing more will happen.

    Args:
        trainer: whose training is watched.
        draw: the page's parts from the job, its state and the rows of its log.
    """
    before: tuple[Job | None, int, str] | None = None
    while True:
        job = trainer.job
        state = "idle" if job is None else job.state
        rows = [] if job is None else job.rows()
        if (job, len(rows), state) != before:
            before = job, len(rows), state
            yield await asyncio.to_thread(draw, job, state, rows)
        # another may have begun while this was drawn: the page must not be left with what was
        if state != "running" and trainer.job is job:
            return
        await asyncio.sleep(LOOK_SECONDS)


def seen(job: Job | None, state: str, rows: Sequence[dict[str, Any]], ready: bool) -> list[Any]:
    """The page's parts as a training stands: what `view` lists."""
    curve = losses(rows)
    running = state == "running"
    headline = "" if job is None else registry().tasks.get(job.recipe.task).metrics[0]
    return [
        said_of(job, state, curve),
        figure(svg(training_curve(rows, headline), "Training loss over the steps"))
        if curve
        else "",
        gr.Accordion(visible=bool(curve)),
        numbers_of(rows, headline) if curve else "",
        gr.Button(interactive=ready and not running),
        gr.Button(interactive=running),
        gr.Group(visible=state == "finished"),
        job.example if job is not None else "",
        "",
    ]


def said_of(job: Job | None, state: str, curve: Sequence[tuple[int, float]]) -> str:
    """How a training stands, in a line, with a bar."""
    if job is None:
        return status(IDLE)
    name, total = job.recipe.name, job.recipe.training.steps
    step, loss = curve[-1] if curve else (0, 0.0)
    at = f"is at step {step} of {total}, loss {loss:.3f}, {job.seconds:.0f} s"
    if state == "running" and not curve:
        return status(f"A training is running: {name} is starting.", 0, total)
    if state == "running":
        what = "is being measured on unseen data" if step == total else at
        return status(f"A training is running: {name} {what}.", step, total)
    if state == "finished":
        scores = ", ".join(
            f"{spelled(score.name)} {with_error(score.value, score.standard_error)}"
            for score in job.scores
        )
        return status(f"{name} is trained, in {job.seconds:.0f} s. On unseen data: {scores}.")
    if state == "stopped":
        kept = " Nothing of it is kept but the curve." if curve else ""
        return status(f"{name} was stopped at step {step}.{kept}")
    return status(f"{name} failed at step {step} of {total}. {job.message}")


def numbers_of(rows: Sequence[dict[str, Any]], headline: str) -> str:
    """The curve as a table, with the validation headline where it was measured."""
    name, points = validations(rows, headline)
    trained = {step: f"{loss:.4f}" for step, loss in losses(rows)}
    measured = {step: with_error(value, error) for step, value, error in points}
    titles = ["Step", "Training loss (nats)", *([f"Validation {name}"] if points else [])]
    lines = [
        [str(step), trained.get(step, ""), *([measured.get(step, "")] if points else [])]
        for step in sorted({*trained, *measured})
    ]
    return table("Training loss by step", titles, lines)
