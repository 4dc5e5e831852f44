"""The Train page: a training runs beside the gallery, within bounds, and its model can be tried."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Locator, Page, expect
from zoo_gallery import worker
from zoo_gallery.state import Gallery, Limits
from zoo_gallery.train import Offers, numbers_of, planned, recipe_of, watched
from zoo_gallery.worker import BusyError, Job, Trainer, data_problems, remove_orphans

import zoo
from zoo.errors import InputError
from zoo.training import Recipe

if TYPE_CHECKING:
    from conftest import App, Flaws

PATIENCE = 60.0  # seconds; the machine may be busy
ROW = {"step": 1, "loss": 2.5}


@pytest.fixture
def recipe() -> Recipe:
    card = zoo.info("synthetic-decoder")
    tiny = {"d_model": 16, "n_heads": 2, "d_ff": 16, "max_seq_len": 32, "batch_tokens": 128}
    plan = planned(recipe_of(card), "mine", steps=20, layers=1, seed=3, most=20)
    return plan.with_changes(**tiny)


Start = Callable[..., Trainer]


@pytest.fixture
def trainer() -> Iterator[Start]:
    """Make trainers that are closed at the end."""
    made = []

    def make(**options: object) -> Trainer:
        made.append(Trainer(**{"seconds": PATIENCE, "memory": 8 << 30, **options}))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ended(job: Job) -> Job:
    wait_for(lambda: job.state != "running")
    return job


@pytest.fixture
def instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the other process do something else than train: the body of a function `train`."""

    def use(body: str) -> None:
        script = tmp_path / "other_process.py"
        script.write_text(
            dedent("""
            import sys, time, types
            import zoo_gallery.worker as worker

            def train(recipe, out):
                partial = out.with_name(out.name + ".partial")
                partial.mkdir()
                (partial / "training.jsonl").write_text(ROW + "\\n")
                BODY

            loop = types.ModuleType("zoo.training.loop")
            loop.train = train
            sys.modules["zoo.training.loop"] = loop
            sys.exit(worker.main(sys.argv[1:]))
            """)
            .replace("BODY", body)
            .replace("ROW", repr(json.dumps(ROW)))
        )
        monkeypatch.setattr(worker, "COMMAND", (sys.executable, str(script)))

    return use


def test_a_training_ends_with_a_model_that_answers(trainer: Start, recipe: Recipe) -> None:
    finished: list[str] = []
    mine = trainer(finished=lambda job: finished.append(job.state))
    job = mine.start(recipe)
    with pytest.raises(BusyError, match="A training is running"):
        mine.start(recipe)
    ended(job)
    assert (job.state, job.message) == ("finished", "")
    assert finished == ["running"]  # told before anybody can see that it is over
    assert job.step() == 20
    assert [row["step"] for row in job.rows() if "validation" in row] == [5, 10, 15]
    model = zoo.load(str(job.out))
    assert model.name == "mine"
    assert len(model("count 3 7", max_new_tokens=5, temperature=0).split()) > 3
    assert {score.name for score in job.scores} >= {"accuracy", "perplexity per token"}
    (folder,) = (job.folder,)
    mine.close()
    assert not folder.exists()


def test_a_stopped_training_leaves_only_its_curve(
    trainer: Start, recipe: Recipe, instead: Callable[[str], None]
) -> None:
    instead("time.sleep(1000)")
    mine = trainer()
    job = mine.start(recipe)
    wait_for(lambda: job.rows())
    process = mine._process
    assert process is not None
    mine.stop()
    assert job.state == "stopped"
    assert job.rows() == [ROW]
    assert not job.folder.exists()
    assert process.poll() == -signal.SIGKILL
    mine.stop()  # once more does nothing
    assert mine.start(recipe).state == "running"  # and the next one may begin


def test_who_watches_one_end_sees_the_next_begin(
    trainer: Start, recipe: Recipe, instead: Callable[[str], None]
) -> None:
    instead("time.sleep(60)")
    mine = trainer()
    first = mine.start(recipe)
    mine.stop()
    assert first.state == "stopped"

    def draw(job: Job | None, state: str, rows: list[dict[str, object]]) -> list[object]:
        if job is first:
            mine.start(recipe)  # somebody presses Train while this is drawn
        elif state == "running":
            mine.stop()
        return [job, state]

    async def watch() -> list[list[object]]:
        return [parts async for parts in watched(mine, draw)]

    # a thread of its own: the browser of other tests leaves a loop running in this one
    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(lambda: asyncio.run(watch())).result()
    assert drawn[0] == [first, "stopped"]
    assert drawn[1:] == [[mine.job, "running"], [mine.job, "stopped"]]


def test_a_training_that_is_killed_says_so(
    trainer: Start, recipe: Recipe, instead: Callable[[str], None]
) -> None:
    instead("time.sleep(1000)")
    mine = trainer()
    job = mine.start(recipe)
    wait_for(lambda: job.rows())
    assert mine._process is not None
    os.kill(mine._process.pid, signal.SIGKILL)
    ended(job)
    assert job.state == "failed"
    assert job.message == "Its process was killed by something else (SIGKILL)"
    assert not job.folder.exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('first line\\nlast line')", "last line"),
        ("raise worker.ZooError('the data are gone')", "the data are gone"),
        ("print('hello'); sys.exit(7)", "Its process ended with status 7 and said nothing"),
    ],
)
def test_a_training_that_fails_says_why(
    trainer: Start, recipe: Recipe, instead: Callable[[str], None], body: str, message: str
) -> None:
    instead(body)
    job = ended(trainer().start(recipe))
    assert (job.state, job.message) == ("failed", message)
    assert not job.folder.exists()


def test_bounds_end_a_training(
    trainer: Start, recipe: Recipe, instead: Callable[[str], None]
) -> None:
    instead("time.sleep(1000)")
    job = ended(trainer(seconds=0.5).start(recipe))
    assert job.state == "failed"
    assert "longer than 0 seconds" in job.message or "longer than 1 seconds" in job.message
    instead("taken = bytearray(400 << 20); time.sleep(1000)")
    job = ended(trainer(memory=300 << 20).start(recipe))
    assert job.state == "failed"
    assert "MiB of memory, 300 are allowed" in job.message


def test_nothing_is_left_of_a_gallery_that_is_killed(
    tmp_path: Path, recipe: Recipe, instead: Callable[[str], None]
) -> None:
    instead("time.sleep(1000)")
    plan = tmp_path / "plan.toml"
    plan.write_text(recipe.dump())
    gallery = subprocess.Popen(
        [
            sys.executable,
            "-c",
            dedent(f"""
            import time
            from pathlib import Path
            from zoo.training import Recipe
            from zoo_gallery import worker
            worker.COMMAND = {worker.COMMAND!r}
            trainer = worker.Trainer(seconds=1000, memory=1 << 40)
            job = trainer.start(Recipe.read(Path({str(plan)!r})))
            while not job.rows():
                time.sleep(0.05)
            print(trainer._process.pid, job.folder, flush=True)
            time.sleep(1000)
            """),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert gallery.stdout is not None
    pid, folder = gallery.stdout.readline().split()
    assert Path(folder).is_dir()
    gallery.kill()
    gallery.wait()
    gallery.stdout.close()
    wait_for(lambda: not Path(folder).exists())
    wait_for(lambda: not Path(f"/proc/{pid}").exists() or "Z" in state_of(pid))


def state_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def test_folders_of_galleries_that_are_gone_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = [f"{worker.PREFIX}{gone.pid}-a", f"{worker.PREFIX}{os.getpid()}-b", "other"]
    for name in names:
        (tmp_path / name).mkdir()
    remove_orphans()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


def test_runs_are_small() -> None:
    recipe = recipe_of(zoo.info("alibi-lm"))
    plan = planned(recipe, "small", steps=100, layers=2, seed=5, most=100)
    assert plan.name == "small"
    assert plan.training.steps == 100
    assert plan.training.batch_tokens <= 2048
    assert plan.training.warmup_steps <= 10
    assert plan.config == {**recipe.config, "n_layers": 2}
    assert (plan.seed, plan.contexts) == (5, ())
    for wrong in ({"steps": 101}, {"steps": 0}, {"layers": 0}, {"layers": 99}):
        asked = {"steps": 1, "layers": 1, **wrong}
        with pytest.raises(InputError, match="must be 1 to"):
            planned(recipe, "wrong", seed=1, most=100, **asked)


def test_what_is_offered_needs_nothing_and_the_rest_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TXZOO_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    offers = Offers(Gallery(limits=Limits(train_parameters=1_000_000)))
    offered, reasons = offers.find()
    assert list(offered) == ["synthetic-decoder"]
    assert set(offered) | set(reasons) == set(zoo.list_models())
    assert "train_CLS.tsv" in reasons["speech-decoder"]
    size = f"{(zoo.info('alibi-lm').parameters or 0) / 1e6:.1f}M"
    assert f"{size} parameters, at most 1.0M" in reasons["alibi-lm"]
    assert offers.find() == (offered, reasons)
    few = Offers(Gallery(limits=Limits(train_seconds=60))).find()
    assert few[0] == {}
    assert "3.5 minutes as published, at most 1" in few[1]["synthetic-decoder"]


def test_a_search_for_data_that_breaks_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, recipe: Recipe
) -> None:
    broken = (sys.executable, "-c", "raise RuntimeError('no disk')")
    monkeypatch.setattr(worker, "COMMAND", broken)
    problem = "looking for its data failed: RuntimeError: no disk"
    assert data_problems({"a": recipe}) == {"a": problem}


def test_the_table_holds_every_number_of_the_curve() -> None:
    rows = [
        {"step": 2, "loss": 3.25},
        {"step": 3, "validation": {"other": 1.0, "accuracy": 0.5, "accuracy_stderr": 0.01}},
        {"step": 4, "loss": 3.0},
    ]
    html = numbers_of(rows, "accuracy")
    cells = ["2", "3.2500", "", "3", "", "0.500 ± 0.010", "4", "3.0000", ""]
    found = [part.partition("<")[0] for part in html.split(">") if part.endswith(("</th", "</td"))]
    assert found == ["Step", "Training loss (nats)", "Validation accuracy", *cells]


def open_page(page: Page, app: "App", steps: int) -> Locator:
    """Open the page, ready to train; returns what it says."""
    page.goto(f"{app.url}/train")
    train = page.get_by_role("button", name="Train", exact=True)
    expect(train).to_be_enabled(timeout=60_000)  # once it knows which data are at hand
    page.get_by_label("Steps").first.fill(str(steps))
    page.get_by_label("Layers").first.fill("1")
    return said(page)


def said(page: Page) -> Locator:
    """How a training stands; Gradio has a status line of its own beside it."""
    return page.locator(".zoo-status")


def worker_of(app: "App") -> int:
    """The process that trains for a gallery."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile
            continue
        if parent == app.pid and arguments[2:4] == [b"zoo_gallery.worker", b"train"]:
            return int(folder.name)
    raise AssertionError("nothing trains")


@pytest.mark.browser
def test_the_page_trains_a_model_that_answers(app: "App", page: Page) -> None:
    late = page.context.new_page()  # opened before, and so it does not know
    open_page(late, app, 20)
    line = open_page(page, app, 20)
    page.get_by_role("button", name="Train", exact=True).click()
    expect(line).to_contain_text("A training is running")

    second = page.context.new_page()
    second.goto(f"{app.url}/train")
    expect(said(second)).to_contain_text("A training is running")
    expect(second.get_by_role("button", name="Train", exact=True)).to_be_disabled()
    late.get_by_role("button", name="Train", exact=True).click()
    expect(late.get_by_text("wait until it ends, or stop it")).to_be_visible()
    expect(late.get_by_role("button", name="Train", exact=True)).to_be_disabled()

    expect(page.get_by_role("img", name="Training loss over the steps")).to_be_visible(
        timeout=60_000
    )
    for tab in (page, second, late):
        expect(said(tab)).to_contain_text("is trained, in", timeout=60_000)
        expect(said(tab)).to_contain_text("accuracy of reachable")
    page.get_by_role("button", name="The numbers of the curve").click()
    rows = page.get_by_role("region", name="Training loss by step").get_by_role("row")
    expect(rows).to_have_count(1 + 20)
    page.get_by_role("textbox", name="Prompt for the trained model").fill("count 3 7 11")
    page.get_by_label("New tokens").first.fill("8")
    page.get_by_role("button", name="Try it").click()
    answer = page.get_by_role("textbox", name="What it writes")
    expect(answer).to_have_value(re.compile(r"^count 3 7 11( \w+| ?\n){8}"))


@pytest.mark.browser
def test_stop_and_a_killed_process_are_said_to_everybody(
    app: "App", page: Page, flaws: "Flaws"
) -> None:
    line = open_page(page, app, 500)
    train = page.get_by_role("button", name="Train", exact=True)
    stop = page.get_by_role("button", name="Stop")
    page.get_by_role("button", name="Recipes that are not offered here").click()
    assert flaws(page) == []
    train.click()
    expect(line).to_contain_text("is at step", timeout=60_000)
    page.get_by_role("button", name="The numbers of the curve").click()
    assert flaws(page) == []  # it has to run meanwhile
    stop.click()
    expect(line).to_contain_text(re.compile(r"was stopped at step \d+\."))
    expect(page.get_by_role("img", name="Training loss over the steps")).to_be_visible()
    expect(stop).to_be_disabled()
    with pytest.raises(AssertionError, match="nothing trains"):
        worker_of(app)
    assert flaws(page) == []

    expect(train).to_be_enabled()
    train.click()
    expect(line).to_contain_text("A training is running")
    os.kill(worker_of(app), signal.SIGKILL)
    expect(line).to_contain_text("Its process was killed by something else (SIGKILL)")
    expect(train).to_be_enabled()
