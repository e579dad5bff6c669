"""The catalog that comes with the package: every entry agrees with itself."""

import pytest

from abaci.hub.catalog import Catalog, CatalogModel, Task, load_catalog, pinned_entries
from abaci.hub.licences.expressions import ids_of, read_expression
from abaci.hub.licences.reading import load_licences

CATALOG = load_catalog()
MODELS = list(CATALOG.models.values())


@pytest.fixture
def catalog() -> Catalog:
    return CATALOG


def every_model() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("model", MODELS, ids=[model.name for model in MODELS])


def test_the_default_can_be_fetched_by_its_hash(catalog: Catalog) -> None:
    found = catalog.find(catalog.default)
    assert found is not None and found.variant is not None and found.variant.pin is not None


def test_names_are_found_however_they_are_written(catalog: Catalog) -> None:
    for name, model in catalog.names.items():
        found = catalog.find(name.upper())
        assert found is not None and found.model.name == model
        for variant in catalog.models[model].variants:
            exact = catalog.find(f"{name}-{variant.quantisation}")
            assert exact is not None and (exact.model.name, exact.variant) == (model, variant)


def test_templates_are_there(catalog: Catalog) -> None:
    for entry in pinned_entries(catalog):
        template = entry.chat_template()
        assert template is None or "messages" in template


def test_repositories_hold_one_model(catalog: Catalog) -> None:
    owners: dict[str, str] = {}
    for model in catalog.models.values():
        for repository in {str(variant.repository) for variant in model.variants}:
            assert owners.setdefault(repository, model.name) == model.name


def rounding(stated: int) -> int:
    """Half of the last place that a publisher states: 7B may be 6.5 to 7.5 thousand millions."""
    unit = 1
    while stated % (10 * unit) == 0:
        unit *= 10
    return unit // 2


@every_model()
def test_there_is_a_record_of_every_licence(model: CatalogModel) -> None:
    book = load_licences()
    assert set(ids_of(read_expression(model.licence.expression, book))) <= book.by_id.keys()


@every_model()
def test_parameters_follow_from_the_shape(model: CatalogModel) -> None:
    shape, stated = model.shape, model.parameters
    if shape is None or stated is None:
        pytest.skip("nothing published to compare")
    assert abs(shape.num_parameters - stated.total) <= rounding(stated.total) + stated.total / 50
    if stated.active != stated.total:  # publishers count the embedding and the head among them, or not
        assert abs(shape.num_active_parameters - stated.active) <= rounding(stated.active) + stated.active / 8
    else:
        assert shape.experts is None


@every_model()
def test_shapes_are_plausible(model: CatalogModel) -> None:
    shape = model.shape
    if shape is None:
        pytest.skip("no shape published")
    assert shape.num_heads % shape.num_kv_heads == 0
    assert shape.num_layers <= 200 and shape.hidden_size <= 20_000
    for layers in (shape.linear_attention, shape.sliding_window):
        assert layers is None or layers.num_layers <= shape.num_layers
    if shape.experts is not None:
        assert shape.experts.num_experts_per_token < shape.experts.num_experts
        assert shape.experts.num_dense_layers < shape.num_layers


@every_model()
def test_facts_agree(model: CatalogModel) -> None:
    assert model.tasks
    assert model.repository not in model.bases
    context = model.context
    if context is not None and context.num_extended_tokens is not None:
        assert context.num_extended_tokens > context.num_tokens
    if model.parameters is not None:
        assert model.parameters.active <= model.parameters.total
    if Task.COMPLETION in model.tasks:
        assert Task.CHAT not in model.tasks


def test_every_task_has_scores_and_every_benchmark_a_model(catalog: Catalog) -> None:
    """What `recommend` orders by: a task that no score speaks for could not be ordered."""
    scored = {
        task
        for model in catalog.models.values()
        for score in model.scores
        for task in catalog.benchmarks[score.benchmark].tasks
        if task in model.tasks
    }
    assert scored == set(Task) - {Task.VISION}
    assert all(any(model.score(name) for model in catalog.models.values()) for name in catalog.benchmarks)
