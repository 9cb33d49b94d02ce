"""InfoNCE against paper_method 3.2 written with loops, and what must not change it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from embedllm.losses.info_nce import InfoNCE

ATOL_FLOAT64 = 1e-12
ATOL_FLOAT32 = 1e-5
TEMPERATURE = 0.05
NUM_ANCHORS, WIDTH = 5, 7

# For each hard negative the row of its anchor.
OWNERS: dict[str, list[int] | None] = {
    "pairs": None,
    "one": [0, 1, 2, 3, 4],
    "three": [i for i in range(5) for _ in range(3)],
    "uneven": [0, 0, 2, 3, 3, 3],
    "shuffled": [4, 2, 0, 2, 1],
}


@pytest.fixture(params=OWNERS)
def owner(request: pytest.FixtureRequest) -> Tensor | None:
    values = OWNERS[request.param]
    return None if values is None else torch.tensor(values)


def batch(
    owner: Tensor | None, *, seed: int = 0, num_anchors: int = NUM_ANCHORS
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns float64 anchors, positives near them, and hard negatives."""
    generator = torch.Generator().manual_seed(seed)

    def noise(rows: int) -> Tensor:
        return torch.randn(rows, WIDTH, dtype=torch.float64, generator=generator)

    anchors = noise(num_anchors)
    positives = anchors + 2.0 * noise(num_anchors)
    return anchors, positives, None if owner is None else noise(len(owner))


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def formula(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor | None,
    owner: Tensor | None,
    *,
    temperature: float = TEMPERATURE,
    weight: float = 0.0,
) -> float:
    """The loss of paper_method 3.2 in float64, sum by sum."""
    a, p = anchors.tolist(), positives.tolist()
    n = [] if negatives is None else negatives.tolist()
    owners = [] if owner is None else owner.tolist()
    total = 0.0
    for i, anchor in enumerate(a):
        denominator = sum(math.exp(cosine(anchor, other) / temperature) for other in p)
        for negative, whose in zip(n, owners, strict=True):
            bonus = weight if whose == i else 0.0
            denominator += math.exp(cosine(anchor, negative) / temperature + bonus)
        total += -math.log(math.exp(cosine(anchor, p[i]) / temperature) / denominator)
    return total / len(a)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize("weight", [0.0, 0.7, -1.5])
def test_equals_the_formula(owner: Tensor | None, temperature: float, weight: float) -> None:
    anchors, positives, negatives = batch(owner)
    output = InfoNCE(temperature, weight)(anchors, positives, negatives, owner)
    expected = formula(anchors, positives, negatives, owner, temperature=temperature, weight=weight)
    assert expected > 0.01, "a loss near 0 would prove nothing"
    assert output.loss.item() == pytest.approx(expected, abs=ATOL_FLOAT64)
    assert output.num_negatives == NUM_ANCHORS - 1 + (0 if owner is None else len(owner))


def test_gradient_equals_finite_differences(owner: Tensor | None) -> None:
    inputs = [x.requires_grad_() for x in batch(owner) if x is not None]
    loss = InfoNCE(temperature=0.3, hard_negative_weight=0.4)

    def scalar(*tensors: Tensor) -> Tensor:
        negatives = tensors[2] if len(tensors) == 3 else None
        result = loss(tensors[0], tensors[1], negatives, owner).loss
        assert isinstance(result, Tensor)
        return result

    assert torch.autograd.gradcheck(scalar, inputs)
    scalar(*inputs).backward()
    for tensor in inputs:
        assert tensor.grad is not None
        assert (tensor.grad.norm(dim=1) > 1e-6).all(), "every vector is pulled or pushed"


def test_hard_negatives_count_with_weight_zero() -> None:
    """Weight 0 keeps them as candidates; it is not a switch (paper_method 3.2)."""
    owner = torch.arange(NUM_ANCHORS)
    anchors, positives, negatives = batch(owner)
    with_negatives = InfoNCE(TEMPERATURE, 0.0)(anchors, positives, negatives).loss
    without = InfoNCE(TEMPERATURE, 0.0)(anchors, positives).loss
    assert with_negatives > without + 1e-4


def test_weight_touches_own_negatives_only() -> None:
    anchors, positives, negatives = batch(torch.tensor([0]))
    own = InfoNCE(TEMPERATURE, 2.0)(anchors, positives, negatives, torch.tensor([0])).loss
    other = InfoNCE(TEMPERATURE, 2.0)(anchors, positives, negatives, torch.tensor([3])).loss
    assert own.item() == pytest.approx(
        formula(anchors, positives, negatives, torch.tensor([0]), weight=2.0), abs=ATOL_FLOAT64
    )
    assert abs(own - other) > 1e-4


def test_weight_needs_owners() -> None:
    anchors, positives, negatives = batch(torch.arange(NUM_ANCHORS))
    with pytest.raises(ValueError, match="negative_owner_M"):
        InfoNCE(TEMPERATURE, 1.0)(anchors, positives, negatives)
    # Without hard negatives there is nothing to own.
    InfoNCE(TEMPERATURE, 1.0)(anchors, positives)


def test_length_of_vectors_does_not_matter(owner: Tensor | None) -> None:
    anchors, positives, negatives = batch(owner)
    loss = InfoNCE(TEMPERATURE, 0.5)
    plain = loss(anchors, positives, negatives, owner).loss
    scales = torch.logspace(-3, 3, NUM_ANCHORS, dtype=torch.float64).unsqueeze(1)
    scaled = loss(
        anchors * scales,
        positives * scales.flip(0),
        None if negatives is None else negatives * 100,
        owner,
    ).loss
    assert scaled.item() == pytest.approx(plain.item(), abs=ATOL_FLOAT64)


def test_order_of_the_batch_does_not_matter(owner: Tensor | None) -> None:
    anchors, positives, negatives = batch(owner)
    loss = InfoNCE(TEMPERATURE, 0.5)
    plain = loss(anchors, positives, negatives, owner).loss.item()
    order = torch.tensor([3, 0, 4, 1, 2])
    new_row_of = order.argsort()
    moved_negatives, moved_owner = None, None
    if negatives is not None and owner is not None:
        mix = torch.randperm(len(owner), generator=torch.Generator().manual_seed(1))
        moved_negatives, moved_owner = negatives[mix], new_row_of[owner[mix]]
    moved = loss(anchors[order], positives[order], moved_negatives, moved_owner).loss.item()
    assert moved == pytest.approx(plain, abs=ATOL_FLOAT64)
    mismatched = loss(anchors[order], positives, negatives, owner).loss.item()
    assert abs(mismatched - plain) > 0.1, "which positive belongs to whom does matter"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    owner = torch.arange(NUM_ANCHORS)
    anchors, positives, negatives = (x.to(dtype) for x in batch(owner) if x is not None)
    output = InfoNCE(TEMPERATURE)(anchors, positives, negatives, owner)
    assert output.loss.dtype == torch.float32
    exact = formula(anchors.double(), positives.double(), negatives.double(), owner)
    assert output.loss.item() == pytest.approx(exact, abs=ATOL_FLOAT32)


def test_half_precision_makes_no_ties() -> None:
    """Two candidates whose cosines bfloat16 cannot tell apart; the positive is the better one."""
    anchor = torch.tensor([[64.0, 0.0]], dtype=torch.bfloat16)
    better = torch.tensor([[64.0, 2.0]], dtype=torch.bfloat16)
    worse = torch.tensor([[64.0, 3.0]], dtype=torch.bfloat16)

    def cosines_in(dtype: torch.dtype) -> Tensor:
        unit = torch.nn.functional.normalize(torch.cat([worse, better]).to(dtype), dim=-1)
        return unit @ torch.nn.functional.normalize(anchor.to(dtype), dim=-1)[0]

    assert cosines_in(torch.bfloat16).unique().numel() == 1
    assert cosines_in(torch.float32).unique().numel() == 2
    # The worse candidate is in column 0, where a tie of the second row would go. It is the better
    # one for the first row, whose anchor points the other way.
    anchors = torch.cat([anchor.flip(1), anchor])
    positives = torch.cat([worse, better])
    output = InfoNCE(TEMPERATURE)(anchors, positives)
    assert output.accuracy.item() == 1.0
    assert output.loss.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    owner = torch.arange(NUM_ANCHORS)
    tensors = [x.to(dtype) for x in batch(owner) if x is not None]
    plain = InfoNCE(TEMPERATURE)(*tensors).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = InfoNCE(TEMPERATURE)(*tensors).loss
        product = tensors[0].float() @ tensors[1].float().T
    assert product.dtype == torch.bfloat16, "autocast was on"
    assert inside.dtype == torch.float32
    assert torch.equal(inside, plain)


def test_accuracy_is_the_share_of_own_positives_on_top() -> None:
    anchors = torch.eye(4)
    positives = anchors[[0, 1, 3, 2]]
    assert InfoNCE()(anchors, positives).accuracy.item() == 0.5
    # A hard negative equal to an anchor, beside a worse positive, takes that anchor's place.
    positives = anchors + 0.1
    assert InfoNCE()(anchors, positives).accuracy.item() == 1.0
    assert InfoNCE()(anchors, positives, anchors[:1]).accuracy.item() == 0.75
    assert not InfoNCE()(anchors.requires_grad_(), positives).accuracy.requires_grad


def test_perfect_and_useless_vectors() -> None:
    anchors = torch.eye(4)
    assert InfoNCE(0.01)(anchors, anchors).loss.item() == pytest.approx(0.0, abs=ATOL_FLOAT32)
    same = torch.ones(4, 3)
    # All candidates alike: the loss is that of guessing among 4 positives and 2 negatives.
    output = InfoNCE()(same, same, torch.ones(2, 3))
    assert output.loss.item() == pytest.approx(math.log(6), abs=ATOL_FLOAT32)


def test_zero_vector_gives_finite_loss_and_gradient() -> None:
    anchors = torch.zeros(2, 3, requires_grad=True)
    loss = InfoNCE()(anchors, torch.eye(3)[:2]).loss
    loss.backward()
    assert loss.isfinite()
    assert anchors.grad is not None
    assert anchors.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, -0.05, math.nan])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        InfoNCE(temperature)


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("per_anchor", [0, 1, 2])
def test_mean_over_ranks_is_the_loss_of_the_joint_batch(num_ranks: int, per_anchor: int) -> None:
    """Each rank scores its own anchors against everything that was gathered.

    The gathered candidates are all ranks' positives, then all ranks' hard negatives, so local
    anchor i of rank r has its positive in column r * local + i.
    """
    local = 4
    num_anchors = num_ranks * local
    owner = torch.arange(num_anchors).repeat_interleave(per_anchor) if per_anchor else None
    anchors, positives, negatives = batch(owner, num_anchors=num_anchors, seed=3)
    joint = InfoNCE(TEMPERATURE)(anchors, positives, negatives, owner).loss.item()
    gathered = positives if negatives is None else torch.cat([positives, negatives])
    losses, alone = [], []
    for rank in range(num_ranks):
        rows = slice(rank * local, (rank + 1) * local)
        logits = torch.nn.functional.cosine_similarity(
            anchors[rows].unsqueeze(1), gathered.unsqueeze(0), dim=-1
        )
        log_shares = (logits / TEMPERATURE).log_softmax(dim=1)
        own = log_shares[torch.arange(local), rank * local + torch.arange(local)]
        losses.append(-own.mean().item())
        alone.append(InfoNCE(TEMPERATURE)(anchors[rows], positives[rows]).loss.item())
    assert sum(losses) / num_ranks == pytest.approx(joint, abs=ATOL_FLOAT64)
    assert abs(sum(alone) / num_ranks - joint) > 1e-3, "negatives of other ranks matter"
