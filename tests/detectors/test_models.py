"""The closed-form parts: neighbours, subspaces, forests, densities, Dirichlet distributions, criteria."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import dirichlet, gaussian_kde
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors

from napari_histoad.detectors._fused_model import FusedModel, Magnitude
from napari_histoad.detectors._joined_criteria import criteria_scale, join_criteria
from napari_histoad.detectors._neighbours import Bank, coreset
from napari_histoad.detectors._normal_model import NormalModel
from napari_histoad.detectors.deep_isolation_forest import Forest
from napari_histoad.detectors.geometric_transforms import TRANSFORMS, fit_dirichlet, transformed
from napari_histoad.detectors.kde_autoencoder import KernelDensity


def _draw(n, d=6, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32))


@pytest.mark.parametrize("k", [1, 3])
def test_the_bank_finds_the_nearest(k):
    normals, query = _draw(200), _draw(50, seed=1)
    bank = Bank(6, neighbours=k)
    bank.fit(normals)
    expected = NearestNeighbors(n_neighbors=k).fit(normals.numpy()).kneighbors(query.numpy())[0].mean(1)
    assert np.allclose(bank.distance(query), expected, atol=1e-3)
    own = NearestNeighbors(n_neighbors=k + 1).fit(normals.numpy()).kneighbors(normals.numpy())[0][:, 1:].mean(1)
    assert np.allclose(bank.own_distances(), own, atol=1e-2)


@given(st.integers(20, 200), st.integers(2, 15), st.integers(0, 9))
def test_a_coreset_leaves_no_kind_of_normal_out(n, size, seed):
    features = torch.cat([_draw(n, seed=seed), _draw(3, seed=seed) + 100])
    rows = coreset(features, size, seed)
    assert len(set(rows.tolist())) == size
    assert (rows >= n).any() or len(features) > 8 * size  # a far cluster is kept wherever it was drawn at all


def test_a_bank_stays_within_its_bounds():
    bank = Bank(6, max_size=32)
    bank.fit(_draw(500))
    assert bank.features.shape == (32, 6)


@pytest.mark.parametrize("measure", ["fused", "mahalanobis", "neighbours"])
@pytest.mark.parametrize("subspace", [0.0, 0.9])
def test_far_features_are_far_by_every_measure(measure, subspace):
    model = NormalModel(6, measure, subspace=subspace)
    model.fit(_draw(300).numpy())
    near, far = model.distance(_draw(50, seed=1)), model.distance(_draw(50, seed=1) * 1e3)
    assert near.max() < far.min()
    assert near.min() >= 0
    assert far.isfinite().all()


@pytest.mark.parametrize("group_count", [1, 3, 12])
def test_a_part_that_only_fits_the_tiles_it_knows_does_not_get_more_weight(group_count):
    # The features of a group are nearly equal: within groups the nearest neighbour is close, between them it is not.
    rng = np.random.default_rng(0)
    groups = np.arange(60) % group_count
    alike = rng.normal(size=(group_count, 20))[groups] + 0.01 * rng.normal(size=(60, 20))
    magnitude = rng.normal(size=(60, 1))
    features = np.hstack([alike, magnitude]).astype(np.float32)
    model = FusedModel({"alike": (20, NormalModel(20, "neighbours")), "size": (1, Magnitude())})
    model.balance(features, groups)
    model.fit(features)
    (centre, _), (_, spread) = model.references.tolist()
    assert spread == pytest.approx(magnitude.std(ddof=1), rel=1e-5)
    known = torch.log(model.parts["alike"].distance(torch.from_numpy(features[:, :20])) + 1e-6).mean()
    assert centre > known + 1


def test_what_the_subspace_explains_is_let_pass():
    rng = np.random.default_rng(0)
    # Two latent kinds of variation spread over six features, and a little noise.
    mixing = rng.normal(size=(2, 6))
    normals = (rng.normal(size=(400, 2)) @ mixing + 0.05 * rng.normal(size=(400, 6))).astype(np.float32)
    along = torch.from_numpy((3 * mixing[:1]).astype(np.float32))
    across = torch.linalg.svd(torch.from_numpy(mixing).float()).Vh[-1:] * 0.6
    distance = {}
    for subspace in (0.0, 0.9):
        model = NormalModel(6, "mahalanobis", subspace=subspace)
        model.fit(normals)
        distance[subspace] = [float(model.distance(x)) / float(model.distance(torch.zeros(1, 6))) for x in (along, across)]
    assert distance[0.9][1] > distance[0.9][0]
    assert distance[0.9][1] / distance[0.9][0] > distance[0.0][1] / distance[0.0][0]


def test_more_features_than_tiles_are_borne():
    model = NormalModel(60, "fused", subspace=0.9)
    model.fit(_draw(40, 60).numpy())
    scores = model.distance(_draw(200, 60, seed=1))
    assert scores.isfinite().all()
    assert scores.max() / scores.min() < 100  # directions that no tile went in do not decide


def test_the_forest_scores_as_scikit_learns():
    normals, query = _draw(300).numpy(), np.concatenate([_draw(50, seed=1).numpy(), 5 * _draw(50, seed=2).numpy()])
    forest = Forest(6, 40)
    forest.fit(normals)
    expected = -IsolationForest(n_estimators=40, random_state=0).fit(normals).score_samples(query)
    assert np.allclose(forest.distance(torch.from_numpy(query)), expected, atol=1e-5)


@pytest.mark.parametrize("damage", ["branches", "feature"])
def test_a_damaged_forest_is_refused_rather_than_followed(damage):
    forest = Forest(6, 10)
    forest.fit(_draw(100).numpy())
    state = {name: value.clone() for name, value in forest.saved_state().items()}
    state[damage][0, 0] = 0 if damage == "branches" else 99
    if damage == "branches":
        state["branches"][0, 1] = 0  # back to the root: a loop without end
    with pytest.raises(ValueError, match="trees"):
        Forest(6, 10).load_saved_state(state)


def test_the_density_is_scipys():
    latents = _draw(200, 3)
    density = KernelDensity("scott", 0)
    density.fit(latents)
    width = 200 ** (-1 / 7)
    reference = gaussian_kde(latents.numpy().T)
    reference.set_bandwidth(width)
    # scipy's kernel has the data's covariance, ours the unit one: compare on whitened data.
    white = KernelDensity("scott", 3)
    white.fit(latents)
    query = _draw(40, 3, seed=1)
    found = white.log_density(query).numpy()
    expected = reference.logpdf(query.numpy().T)
    assert np.corrcoef(found, expected)[0, 1] > 0.9999
    assert np.allclose(found - expected, (found - expected).mean(), atol=0.02)
    own, _ = density.fit(latents)
    assert (own > -density.log_density(latents)).all()  # without its own kernel a point is rarer


def test_criteria_are_joined_by_or():
    normals = _draw(1000, 2) * torch.tensor([1.0, 100.0]) + 5
    scale = criteria_scale(normals)
    mean, deviation = normals.mean(0), normals.std(0)
    limit = join_criteria((mean + 3 * deviation)[None], scale)
    query = _draw(500, 2, seed=1) * torch.tensor([2.0, 200.0]) + 5
    beyond = ((query - mean) / deviation > 3).any(1)
    assert torch.equal(join_criteria(query, scale) > limit, beyond)
    assert (join_criteria(query, scale) >= 0).all()
    assert join_criteria(torch.full((1, 2), 1e12), scale).isfinite().all()


@pytest.mark.parametrize("alpha", [[1.0, 2.0, 3.0], [0.4, 0.4, 5.0], [20.0, 30.0, 50.0]])
def test_the_dirichlet_fit_finds_the_parameters_that_drew(alpha):
    draws = torch.from_numpy(dirichlet.rvs(alpha, 20_000, random_state=0))
    assert np.allclose(fit_dirichlet(draws), alpha, rtol=0.06)


def test_the_72_transforms_are_all_different_and_the_first_is_none():
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images = [transformed(pixels, number) for number in range(TRANSFORMS)]
    assert torch.equal(images[0], pixels)
    assert len({image.numpy().tobytes() for image in images}) == 72
    assert all(image.shape == pixels.shape for image in images)
