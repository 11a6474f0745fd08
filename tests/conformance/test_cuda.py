"""On an accelerator all is as on the processor: objectives, methods, tasks, measures. Only `make cuda` runs these."""

import pytest
import torch

import counterpoise
from conformance import test_methods
from conformance.test_objectives import OBJECTIVES, agrees_under_autocast, inputs, value_and_gradients
from conformance.test_tasks import SPECS, task_of
from counterpoise.measure import alignment, effective_rank, knn_accuracy, tolerance, uniformity
from counterpoise.measure.opis import utility_curves
from counterpoise.measure.retrieval import clustering_nmi, retrieval
from counterpoise.ops.similarity import normalize_rows, similarity_logsumexp, similarity_softmax
from counterpoise.training.trainer import CHECKPOINT, fit, read_checkpoint

pytestmark = pytest.mark.cuda
images = test_methods.images


@pytest.mark.parametrize("kind", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)], ids=["32", "64"])
def test_an_objective_has_the_same_value_and_gradient(kind, dtype, tolerance):
    given = inputs(kind, dtype=dtype)
    value, gradients = value_and_gradients(kind, given, "cuda")
    expected, expected_gradients = value_and_gradients(kind, given)
    torch.testing.assert_close(value.cpu(), expected, rtol=tolerance, atol=tolerance)
    for name, g in gradients.items():
        assert (g is None) == (expected_gradients[name] is None)
        if g is not None:
            torch.testing.assert_close(g.cpu(), expected_gradients[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("kind", OBJECTIVES.values(), ids=OBJECTIVES)
def test_an_objective_can_be_used_under_autocast(kind):
    agrees_under_autocast(kind, "cuda")


@pytest.mark.parametrize("slug", test_methods.METHODS)
@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_a_method_trains_there_and_its_checkpoint_loads_here(slug, precision, images, tmp_path):
    method = test_methods.made(slug, images)
    before = torch.cat([p.detach().flatten() for p in method.encoder.parameters()])
    rows = fit(method, images, epochs=2, batch_size=8, seed=0, folder=tmp_path, precision=precision, device="cuda")
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in rows)
    fresh = test_methods.made(slug, images)
    fresh.load_state_dict(read_checkpoint(tmp_path / CHECKPOINT)["state_dict"])
    after = torch.cat([p.detach().flatten() for p in fresh.encoder.parameters()])
    assert not torch.equal(before, after)


@pytest.mark.parametrize("name", SPECS)
def test_a_task_is_done_there(name, tmp_path):
    spec = SPECS[name]
    settings = {**spec.settings, "epochs": 1, "device": "cuda"}
    task = task_of(name).name
    found = counterpoise.compare(list(spec.methods), spec.data, task=task, seeds=1, out=str(tmp_path), **settings)
    assert [row["runs"][0].get("error") for row in found["methods"]] == [None] * len(spec.methods)
    assert all(row["summary"][found["main"]]["mean"] >= 0 for row in found["methods"])


MEASURES = {
    "alignment": lambda z, y: alignment(z, z.roll(1, 0)),
    "uniformity": lambda z, y: uniformity(z),
    "tolerance": tolerance,
    "effective rank": lambda z, y: effective_rank(z),
    "neighbours": lambda z, y: torch.tensor(knn_accuracy(z[:200], y[:200], z[200:], y[200:], classes=5)),
    "recall": lambda z, y: torch.tensor(list(retrieval(z, y).recall.values())),
    "clusters": lambda z, y: torch.tensor(clustering_nmi(z, y)),
    "utility": lambda z, y: utility_curves(z, y).utility,
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_a_measure_finds_the_same(measure):
    y = torch.arange(300) % 5
    z = torch.randn(300, 8) + torch.eye(8)[y]
    theirs, ours = measure(z.cuda(), y.cuda()), measure(z, y)
    torch.testing.assert_close(theirs.cpu(), ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_sums_over_tiles_are_those_of_the_whole_matrix(scale):
    """Several tiles, the last one cut, in the device's own sizes."""
    n = 8192 + 100
    x = normalize_rows(torch.randn(n, 32, device="cuda", dtype=torch.float64)).requires_grad_()
    row = torch.arange(n, device="cuda")
    found = similarity_softmax(x, scale=scale, exclude=row)
    similarities = x @ x.T
    logits = (scale * similarities).masked_fill(torch.eye(n, dtype=torch.bool, device="cuda"), -torch.inf)
    torch.testing.assert_close(found.logsumexp, logits.logsumexp(1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.mean, (logits.softmax(1) * similarities).sum(1), rtol=1e-10, atol=1e-10)
    (ours,) = torch.autograd.grad(found.logsumexp.sum() + found.mean.sum(), x)
    (plain,) = torch.autograd.grad(logits.logsumexp(1).sum() + (logits.softmax(1) * similarities).sum(), x)
    torch.testing.assert_close(ours, plain, rtol=1e-8, atol=1e-8)


def test_the_matrix_of_similarities_is_not_kept():
    n = 65_536
    x = normalize_rows(torch.randn(n, 128, device="cuda")).requires_grad_()
    torch.cuda.reset_peak_memory_stats()
    similarity_logsumexp(x, scale=10.0, exclude=torch.arange(n, device="cuda")).sum().backward()
    assert torch.cuda.max_memory_allocated() < n * n * 4 / 8
