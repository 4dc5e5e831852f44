"""The cards of the bundled models are fit for the Hub as they are."""

import warnings

import pytest

import zoo
from zoo.publishing import packed

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.mark.parametrize("name", zoo.list_models(bundled=True))
def test_a_bundled_model_could_be_published(name: str) -> None:
    with packed(name, verify=False) as parcel:
        assert {"README.md", "config.json", "model.safetensors"} <= set(parcel.files)
        assert parcel.left == ()


@pytest.mark.parametrize("name", zoo.list_models(bundled=True))
def test_the_hubs_client_reads_the_same_scores(name: str) -> None:
    card = zoo.info(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs = huggingface_hub.ModelCard.load(card.path, ignore_metadata_errors=False).data
    assert (theirs.license, theirs.library_name) == (card.license, "txzoo")
    assert theirs.pipeline_tag == card.pipeline
    found = [
        (r.metric_type, r.metric_name, r.metric_value, r.dataset_split) for r in theirs.eval_results
    ]
    assert found == [(s.metric, s.name, s.value, s.split) for s in card.scores]


def test_our_server_finds_no_fault_with_them(run: object) -> None:
    code = """
    import zoo
    from huggingface_hub import ModelCard
    for name in zoo.list_models(bundled=True):
        ModelCard.load(zoo.info(name).path).validate()
    """
    answer = run(code)  # type: ignore[operator]
    assert answer.error is None, answer.message
