"""Publishing and loading, with the unmodified client: what holds on our server and on the Hub."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from zoo.card import Card
from zoo.folder import FILES, FileRecord, sha256

TRAIN_LORA = """
import zoo
zoo.train(base, out=out, tuning="lora", rank=2, task="synthetic", steps=2)
"""
WEIGHTS_OF = """
from huggingface_hub import HfApi
result = [name for name in HfApi().list_repo_files(repo) if name.endswith(".safetensors")]
"""
DELETE = "from huggingface_hub import HfApi\nHfApi().delete_repo(name, missing_ok=True)"


def assert_same(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    assert tensors.keys() == stored.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, stored[name].to(tensor.dtype), rtol=0, atol=0)


def retrain(folder: Path, shift: float = 1.0) -> None:
    """Other weights, and a card that vouches for them."""
    path = folder / "model.safetensors"
    save_file({name: tensor + shift for name, tensor in load_file(path).items()}, path)
    vouch(folder, "model.safetensors")


def vouch(folder: Path, *names: str) -> None:
    card = Card.read(folder)
    for name in names:
        record = FileRecord.of(folder / name)
        card.data["txzoo"]["files"][name] = {"sha256": record.sha256, "bytes": record.bytes}
    card.write(folder)


class TestPublish:
    """What arrives on the Hub."""

    def test_what_is_published_comes_back_by_every_name(
        self, run: Any, repo: str, model: Path
    ) -> None:
        answer = run.publish(model, repo, tag="v1", verify=True)
        assert answer.error is None, answer.message
        commit = answer.result.rsplit("/", 1)[1]
        assert answer.result.endswith(f"/{repo}/commit/{commit}") and len(commit) == 40
        for spelling in (f"hf://{repo}@v1", f"hf://{repo}@{commit}", f"hf://{repo}"):
            loaded = run.load(spelling)
            assert loaded.error is None, loaded.message
            assert_same(loaded.result, model)
        assert run.load(f"hf://{repo}", revision="v1").error is None
        snapshot = next(run.cache.glob(f"models--*/snapshots/{commit}"))
        assert {path.name for path in snapshot.iterdir()} == set(FILES)
        for name in FILES:  # the card on the Hub is the same file
            assert (snapshot / name).read_bytes() == (model / name).read_bytes()

    def test_the_same_bytes_again_make_no_commit(self, run: Any, repo: str, model: Path) -> None:
        first = run.publish(model, repo)
        before = run.commits(repo)
        assert run.publish(model, repo).result == first.result
        assert run.publish(model, repo, tag="v1").result == first.result
        assert run.publish(model, repo, tag="v1").result == first.result
        assert run.commits(repo) == before

    def test_a_tag_that_names_other_bytes_is_not_moved(
        self, run: Any, repo: str, model: Path, tmp_path: Path
    ) -> None:
        run.publish(model, repo, tag="v1")
        before = run.commits(repo)
        shutil.copytree(model, tmp_path / "first")
        retrain(model)
        answer = run.publish(model, repo, tag="v1")
        assert answer.error == "HubError"
        assert "a tag 'v1' already" in answer.message and "choose another" in answer.message
        assert run.commits(repo) == before
        assert run.publish(model, repo, tag="v2").error is None
        assert_same(run.load(f"hf://{repo}@v1").result, tmp_path / "first")
        assert_same(run.load(f"hf://{repo}@v2").result, model)
        answer = run.publish(tmp_path / "first", repo, tag="v1")  # main has moved on
        assert answer.error is None and len(run.commits(repo)) == len(before) + 1

    def test_a_file_that_the_model_has_no_more_goes(self, run: Any, repo: str, model: Path) -> None:
        run.publish(model, repo)
        (model / "tokenizer.json").unlink()
        card = Card.read(model)
        del card.data["txzoo"]["files"]["tokenizer.json"]
        card.write(model)
        run.publish(model, repo, tag="bare")
        answer = run(
            "import zoo\nresult = zoo.load(ref).tokenizer is None", ref=f"hf://{repo}@bare"
        )
        assert answer.result is True

    def test_only_the_files_of_a_model_are_sent(self, run: Any, repo: str, model: Path) -> None:
        (model / "notes.txt").write_text("private")
        (model / "old.bin").write_bytes(b"x")
        answer = run.txzoo("publish", str(model), repo, "--no-verify")
        assert answer.result == 0 and "Not sent: notes.txt, old.bin" in answer.printed
        code = "from huggingface_hub import HfApi\nresult = HfApi().list_repo_files(repo)"
        assert set(run(code, repo=repo).result) == {*FILES, ".gitattributes"}

    def test_another_branch(self, run: Any, repo: str, model: Path) -> None:
        run.publish(model, repo)
        retrain(model)
        assert run.publish(model, repo, revision="feature/x").error is None
        assert_same(run.load(f"hf://{repo}@feature/x").result, model)
        with pytest.raises(AssertionError):
            assert_same(run.load(f"hf://{repo}").result, model)

    def test_a_model_pushes_itself(self, run: Any, repo: str, model: Path) -> None:
        code = """
        import zoo
        result = zoo.load(folder).push_to_hub(repo, tag="v1")
        """
        answer = run(code, folder=str(model), repo=repo)
        assert answer.error is None, answer.message
        assert_same(run.load(f"hf://{repo}@v1").result, model)

    def test_an_adapter_is_published_beside_its_base(
        self, run: Any, repo: str, model: Path, tmp_path: Path
    ) -> None:
        """Only what was learned is sent; whoever loads it gets the base from its own place."""
        commit = run.publish(model, repo).result.rsplit("/", 1)[1]
        out, beside = tmp_path / "low", f"{repo}-lora"
        trained = run(TRAIN_LORA, base=f"hf://{repo}@{commit}", out=str(out))
        assert trained.error is None, trained.message
        card = Card.read(out)
        assert "zoo.load(" in card.text and card.base_models == [repo]
        refused = run.publish(out, beside).message  # what only a person knows is not written yet
        assert "no section on limits, risks and bias" in refused and "how to load" not in refused
        Card(card.data, Card.read(model).text.replace(repo, beside), card.path).write(out)
        try:
            answer = run.publish(out, beside)
            assert answer.error is None, answer.message
            assert run(WEIGHTS_OF, repo=beside).result == ["adapter_model.safetensors"]
            loaded = run.load(f"hf://{beside}")
            assert loaded.error is None, loaded.message
            learned = load_file(out / "adapter_model.safetensors")
            assert len(learned) == sum(".lora_" in name for name in loaded.result) > 0
            for name, tensor in learned.items():
                name = name.removeprefix("base_model.model.")
                torch.testing.assert_close(loaded.result[name], tensor.float(), rtol=0, atol=0)
        finally:
            run(DELETE, name=beside)

    def test_an_adapter_of_a_folder_of_this_machine_is_not_sent(
        self, run: Any, repo: str, model: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "low"
        assert run(TRAIN_LORA, base=str(model), out=str(out)).error is None
        card = Card.read(out)
        Card(card.data, Card.read(model).text, card.path).write(out)
        answer = run.publish(out, repo)
        assert answer.error == "PublishError"
        assert f"its base is {model}, which nobody else has" in answer.message

    def test_the_card_passes_the_hubs_own_validation(self, run: Any, model: Path) -> None:
        code = """
        from huggingface_hub import ModelCard
        card = ModelCard.load(path)
        card.validate()
        result = [card.data.library_name, [str(r.metric_type) for r in card.data.eval_results]]
        """
        library, metrics = run(code, path=str(model / "README.md")).result
        assert library == "txzoo" and "perplexity" in metrics

    def test_a_dry_run_sends_nothing(self, run: Any, repo: str, model: Path, hub: Any) -> None:
        answer = run.txzoo("publish", str(model), repo, "--dry-run", "--tag", "v1")
        assert answer.result == 0 and "Nothing was sent" in answer.printed
        for name in FILES:
            assert f"{name} " in answer.printed
            assert sha256(model / name)[:16] in answer.printed
        assert hub is None or hub.log == []

    def test_the_commands_go_hand_in_hand(
        self, run: Any, run_offline: Any, repo: str, model: Path
    ) -> None:
        answer = run.txzoo("publish", str(model), repo, "--tag", "v1")
        assert answer.result == 0 and f"/{repo}/commit/" in answer.printed
        again = run.txzoo("publish", str(model), repo, "--tag", "v1")
        assert "nothing new, no commit was made" in again.printed
        answer = run.txzoo("pull", f"hf://{repo}@v1")
        assert answer.result == 0 and str(run.cache) in answer.printed
        answer = run_offline.txzoo("run", f"hf://{repo}@v1", "count", "--max-new-tokens", "3")
        assert answer.result == 0, answer.printed
        answer = run_offline.txzoo("verify", f"hf://{repo}@v1")
        assert answer.result == 0 and "failed" not in answer.printed
        answer = run_offline.txzoo("info", f"hf://{repo}@v1")
        assert "alibi-decoder" in answer.printed


class TestRefused:
    """Folders that are not fit to be published; nothing reaches the Hub."""

    @pytest.fixture(autouse=True)
    def nothing_is_sent(self, hub: Any) -> Any:
        yield
        assert hub is None or not [line for line in hub.log if not line.startswith("DELETE")]

    def test_a_card_that_says_too_little(self, run: Any, repo: str, tiny_model: Path) -> None:
        answer = run.publish(tiny_model, repo)  # as training leaves it
        assert answer.error == "PublishError"
        for what in ("intended use", "limits, risks and bias", "training data and its licence"):
            assert f"no section on {what}" in answer.message
        assert "hardware" not in answer.message  # that one training writes

    def test_a_section_with_nothing_in_it(self, run: Any, repo: str, model: Path) -> None:
        card = Card.read(model)
        text = card.text.replace("It has learned nothing: what it writes is chance. ", "")
        text = text.replace("There is nothing about people in it.", "TODO")
        Card(card.data, text, card.path).write(model)
        assert "no section on limits, risks and bias" in run.publish(model, repo).message

    def test_no_licence(self, run: Any, repo: str, model: Path) -> None:
        text = (model / "README.md").read_text()
        lines = [line for line in text.splitlines() if not line.startswith("license:")]
        (model / "README.md").write_text("\n".join(lines))
        answer = run.publish(model, repo)
        assert answer.error == "CardError" and "license: is missing" in answer.message

    def test_other_bytes_than_the_card_says(self, run: Any, repo: str, model: Path) -> None:
        (model / "recipe.toml").write_text("# changed\n")
        assert run.publish(model, repo).error == "HashMismatchError"

    def test_a_score_that_is_not_true(self, run: Any, repo: str, model: Path) -> None:
        card = Card.read(model)
        card.data["model-index"][0]["results"][0]["metrics"][0]["value"] = 0.999
        card.write(model)
        answer = run.publish(model, repo, verify=True)
        assert answer.error == "PublishError" and "the card says 0.999, found 0." in answer.message

    def test_a_configuration_nobody_vouches_for(self, run: Any, repo: str, model: Path) -> None:
        card = Card.read(model)
        del card.data["txzoo"]["files"]["config.json"]
        card.write(model)
        answer = run.publish(model, repo, verify=True)
        assert "sha256 of config.json: the card says not on the card" in answer.message

    def test_a_token_in_a_file(self, run: Any, repo: str, model: Path) -> None:
        secret = "hf_" + "aB3" * 12
        with (model / "training.jsonl").open("a") as file:
            file.write(json.dumps({"environment": secret}))
        vouch(model, "training.jsonl")
        answer = run.publish(model, repo)
        assert "training.jsonl holds what looks like a token" in answer.message
        assert secret not in answer.message + answer.printed

    def test_a_link_to_elsewhere(self, run: Any, repo: str, model: Path, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes((model / "recipe.toml").read_bytes())
        (model / "recipe.toml").unlink()
        (model / "recipe.toml").symlink_to(tmp_path / "secret")
        answer = run.publish(model, repo)
        assert answer.error == "FolderError" and "links to a place outside" in answer.message

    def test_no_weights_yet(self, run: Any, repo: str, model: Path) -> None:
        (model / "model.safetensors").unlink()
        assert run.publish(model, repo).error == "FolderError"
        card = Card.read(model)
        del card.data["txzoo"]["files"]
        card.write(model)
        assert "has no weights" in run.publish(model, repo).message

    @pytest.mark.parametrize(
        ("target", "options"),
        [("gpt2", {}), ("a/b/c", {}), ("м/e", {}), ("a/b@v1", {}), ("../x", {}), ("", {})]
        + [("a/b", {"tag": bad}) for bad in ("", "v 1", "../v1", "-f", "v1\n")]
        + [("a/b", {"revision": "..", "tag": "v1"})],
    )
    def test_names_that_cannot_be(
        self, run: Any, model: Path, target: str, options: dict[str, Any]
    ) -> None:
        answer = run.publish(model, target, **options)
        assert answer.error in ("InputError", "HubError"), answer


class TestLoad:
    """What comes from the Hub."""

    def test_information_needs_the_card_only(
        self, run: Any, repo: str, model: Path, hub: Any
    ) -> None:
        run.publish(model, repo)
        code = "import zoo\nresult = [zoo.info(ref).architecture, zoo.info(ref).license]"
        answer = run(code, ref=f"hf://{repo}", cache=run.cache.with_name("fresh"))
        assert answer.result == ["alibi-decoder", "cc0-1.0"]
        blobs = list(run.cache.with_name("fresh").glob("*/blobs/*"))
        assert blobs and max(blob.stat().st_size for blob in blobs) < 10_000

    def test_a_second_load_of_a_commit_asks_nobody(
        self, run: Any, repo: str, model: Path, hub: Any
    ) -> None:
        commit = run.publish(model, repo).result.rsplit("/", 1)[1]
        run.load(f"hf://{repo}@{commit}")
        if hub is not None:
            hub.log.clear()
        assert run.load(f"hf://{repo}@{commit}").error is None
        assert hub is None or hub.log == []

    @pytest.mark.parametrize("way", ["HF_HUB_OFFLINE", "offline=True"])
    def test_offline(
        self,
        run: Any,
        run_offline: Any,
        repo: str,
        model: Path,
        hub: Any,
        way: str,
    ) -> None:
        options: dict[str, Any] = {} if way == "HF_HUB_OFFLINE" else {"offline": True}
        runner = run_offline if way == "HF_HUB_OFFLINE" else run
        commit = run.publish(model, repo, tag="v1").result.rsplit("/", 1)[1]
        if hub is not None:
            hub.log.clear()
        answer = runner.load(f"hf://{repo}@v1", **options)
        assert answer.error == "HubError"
        for part in ("not in the cache", str(run.cache), f"'txzoo pull hf://{repo}@v1' gets it"):
            assert part in answer.message
        assert hub is None or hub.log == []
        run("import zoo\nzoo.info(ref)", ref=f"hf://{repo}@v1")
        answer = runner.load(f"hf://{repo}@v1", **options)
        assert answer.error == "HubError" and "only a part of it is in the cache" in answer.message
        assert run.txzoo("pull", f"hf://{repo}@v1").result == 0
        if hub is not None:
            hub.log.clear()
        for revision in ("v1", commit):
            answer = runner.load(f"hf://{repo}@{revision}", **options)
            assert answer.error is None, answer.message
            assert_same(answer.result, model)
        assert hub is None or hub.log == []

    def test_what_is_not_there(self, run: Any, repo: str, model: Path) -> None:
        missing = f"{repo.split('/')[0]}/txzoo-test-no-such-model"
        answer = run.load(f"hf://{missing}")
        assert answer.error == "HubError" and f"no model repository {missing}" in answer.message
        run.publish(model, repo)
        answer = run.load(f"hf://{repo}@v9")
        assert answer.error == "HubError" and f"{repo} has no revision 'v9'" in answer.message
        code = """
        from huggingface_hub import HfApi
        HfApi().delete_file("model.safetensors", repo)
        """
        run(code, repo=repo)
        answer = run.load(f"hf://{repo}")
        assert answer.error == "FolderError" and "no file model.safetensors" in answer.message

    def test_a_pinned_card_holds_the_hub_to_its_word(
        self, run: Any, repo: str, model: Path, tmp_path: Path
    ) -> None:
        commit = run.publish(model, repo).result.rsplit("/", 1)[1]
        pointer = tmp_path / "pointer"
        pointer.mkdir()
        card = Card.read(model)
        card.data["txzoo"]["hub"] = {"repo": repo, "revision": commit}
        card.write(pointer)
        assert_same(run.load(str(pointer)).result, model)
        record = card.data["txzoo"]["files"]["model.safetensors"]
        record["sha256"] = record["sha256"][:-1] + ("0" if record["sha256"][-1] != "0" else "1")
        card.write(pointer)
        answer = run.load(str(pointer))
        assert answer.error == "HashMismatchError" and "its card says" in answer.message

    def test_a_changed_byte_in_the_cache_is_an_error_and_then_mended(
        self, run: Any, repo: str, model: Path
    ) -> None:
        run.publish(model, repo, tag="v1")
        for name in ("model.safetensors", "README.md", "config.json", "tokenizer.json"):
            assert run.load(f"hf://{repo}@v1").error is None
            path = next(run.cache.glob(f"models--*/snapshots/*/{name}"))
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
            answer = run.load(f"hf://{repo}@v1")
            assert answer.error == "HashMismatchError", (name, answer)
            assert "removed from the cache" in answer.message and name in answer.message
        assert_same(run.load(f"hf://{repo}@v1").result, model)

    def test_a_plugin_that_is_not_installed(self, run: Any, repo: str, model: Path) -> None:
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"architecture": "weaver"}))
        vouch(model, "config.json")
        card = Card.read(model)
        card.data["txzoo"]["architecture"] = "weaver"
        card.data["txzoo"]["requires"] = {"txzoo-weaver": ">=2.1,<3"}
        card.write(model)
        run.upload(model, repo)
        answer = run.load(f"hf://{repo}")
        assert answer.error == "PluginError"
        assert "needs txzoo-weaver>=2.1,<3, which is not installed" in answer.message
        assert "pip install 'txzoo-weaver>=2.1,<3'" in answer.message

    def test_nothing_from_a_repository_is_executed(
        self, run: Any, repo: str, model: Path, tmp_path: Path
    ) -> None:
        mark = tmp_path / "executed"
        for name in ("model.py", "modeling.py", "__init__.py", "conftest.py", "setup.py"):
            (model / name).write_text(f"open({str(mark)!r}, 'w')\n")
        config = json.loads((model / "config.json").read_text())
        config |= {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}
        shutil.copytree(model, tmp_path / "with-code")
        (tmp_path / "with-code/config.json").write_text(json.dumps(config))
        vouch(tmp_path / "with-code", "config.json")
        run.upload(model, repo)
        assert run.load(f"hf://{repo}").error is None
        run.upload(tmp_path / "with-code", repo)
        answer = run.load(f"hf://{repo}")
        assert answer.error == "ConfigError" and "auto_map" in answer.message
        assert not mark.exists()

    def test_two_processes_at_once(
        self, start: Any, run: Any, repo: str, model: Path, tmp_path: Path
    ) -> None:
        run.publish(model, repo, tag="v1")
        clients = [start(), start()]
        for number, client in enumerate(clients):
            out = str(tmp_path / f"{number}.safetensors")
            environment = run.environment("owner", tmp_path / "shared")
            client.send(run.LOAD, environment, ref=f"hf://{repo}@v1", out=out, options={})
        for number, client in enumerate(clients):
            answer = client.receive()
            assert answer.error is None, answer.message
            assert_same(load_file(tmp_path / f"{number}.safetensors"), model)


class TestFind:
    """Listing what the Hub has."""

    def test_models_are_found_by_their_library(self, run: Any, repo: str, model: Path) -> None:
        run.publish(model, repo)
        author, name = repo.split("/")
        answer = run.txzoo("list", "--hub", "--author", author, name, "--json")
        (found,) = json.loads(answer.printed[answer.printed.index("[") :])
        assert found["repo"] == repo and found["architecture"] == "alibi-decoder"
        assert (found["license"], found["task"]) == ("cc0-1.0", "synthetic")
        assert f"hf://{repo}" in run.txzoo("list", "--hub", name).printed
        assert "no such model" in run.txzoo("list", "--hub", "--author", author, "zzzz").printed

    def test_options_that_do_not_go_together(self, run: Any) -> None:
        assert run.txzoo("list", "--author", "me").result == 2
        assert run.txzoo("list", "--hub", "--task", "synthetic").result == 2


class TestCache:
    """`txzoo cache`."""

    def test_list_verify_remove(self, run: Any, repo: str, model: Path) -> None:
        empty = run.txzoo("cache", "list")
        assert empty.result == 0 and "No model is in the cache" in empty.printed
        run.publish(model, repo, tag="v1")
        run.txzoo("pull", f"hf://{repo}@v1")
        retrain(model)
        run.publish(model, repo, tag="v2")
        run.txzoo("pull", f"hf://{repo}@v2")
        listing = run.txzoo("cache", "list").printed
        assert listing.count(f"hf://{repo}") == 2 and "v1" in listing and "v2" in listing
        assert run.txzoo("cache", "verify").result == 0
        path = next(run.cache.glob("models--*/refs/v1"))
        snapshot = path.parents[1] / "snapshots" / path.read_text()
        data = (snapshot / "model.safetensors").read_bytes()
        (snapshot / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        answer = run.txzoo("cache", "verify", f"hf://{repo}@v1")
        assert answer.result == 1 and "damaged file was removed" in answer.printed
        assert run.txzoo("cache", "verify", f"hf://{repo}@v2").result == 0
        answer = run.txzoo("cache", "remove", f"hf://{repo}@v1")
        assert answer.result == 0 and "1 revision removed" in answer.printed
        assert run.txzoo("cache", "list").printed.count(f"hf://{repo}") == 1
        assert run.txzoo("cache", "remove", f"hf://{repo}@v1").result == 2
        assert_same(run.load(f"hf://{repo}@v2").result, model)


class TestForeign:
    """Repositories in the layout of `transformers`."""

    @pytest.mark.reference
    @pytest.mark.parametrize("kind", ["gpt2", "llama", "bloom"])
    def test_a_checkpoint_computes_the_same(
        self, run: Any, repo: str, tmp_path: Path, kind: str
    ) -> None:
        transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")
        sizes = {
            "gpt2": {"vocab_size": 50, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2},
            "llama": {
                "vocab_size": 50,
                "hidden_size": 8,
                "intermediate_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
            },
            "bloom": {"vocab_size": 50, "hidden_size": 8, "n_layer": 2, "n_head": 2},
        }
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(kind, **sizes[kind])
        theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
        theirs.save_pretrained(tmp_path / "theirs")
        (tmp_path / "theirs/README.md").write_text("---\nlicense: mit\n---\nA checkpoint.\n")
        code = """
        import torch, zoo
        model = zoo.load(f"hf://{repo}")
        result = [model.card.license, model.module(torch.arange(8)[None]).tolist()]
        """
        run.upload(tmp_path / "theirs", repo)
        answer = run(code, repo=repo)
        assert answer.error is None, answer.message
        license, logits = answer.result
        assert license == "mit"
        with torch.no_grad():
            expected = theirs(torch.arange(8)[None]).logits
        torch.testing.assert_close(torch.tensor(logits), expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.ckpt"])
    def test_only_a_pickle(self, run: Any, repo: str, tmp_path: Path, name: str) -> None:
        folder = tmp_path / "pickle"
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "gpt2"}')
        torch.save({"w": torch.zeros(2)}, folder / name)
        run.upload(folder, repo)
        answer = run.load(f"hf://{repo}")
        assert answer.error == "UnsafeFileError" and name in answer.message
        assert not list(run.cache.glob(f"**/{name}"))  # it was not even fetched
