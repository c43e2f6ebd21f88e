"""Trees: each branch is scored as if prefix and branch stood alone."""

import pytest
import torch

from vocable.errors import ConfigError
from vocable.lm.branches import Tree, join_rows, tree_nll
from vocable.lm.scoring import token_nll


def random_trees():
    torch.manual_seed(0)
    sizes = [(5, (3, 4)), (1, (6,)), (2, (1, 5, 2)), (7, (0, 3)), (4, ()), (5, (3, 4))]
    return [
        Tree(torch.randint(2, 96, (prefix,)), tuple(torch.randint(2, 96, (n,)) for n in branches))
        for prefix, branches in sizes
    ]


@pytest.mark.parametrize("name", ["opt", "qwen2", "bloom"])
@pytest.mark.parametrize("max_tokens", [9, 10_000])
def test_trees_score_as_whole_rows_do(make_model, name, max_tokens):
    model, trees, told = make_model(name), random_trees(), []
    scored = tree_nll(model, trees, max_tokens=max_tokens, on_progress=told.append)
    assert sum(told) == len(trees)
    for tree, found in zip(trees, scored, strict=True):
        assert len(found.branches) == len(tree.branches)
        for branch, losses in zip(tree.branches, found.branches):
            (alone,) = token_nll(model, [torch.cat([tree.prefix, branch])], "none")
            # float32 products of other sizes; ten times the worst difference seen, 4e-6
            torch.testing.assert_close(torch.cat([found.prefix, losses]), alone, atol=4e-5, rtol=0)
    assert len(found.prefix) == len(trees[-1].prefix) - 1


def test_a_branch_does_not_see_its_sister(make_model):
    model, prefix = make_model("opt"), torch.arange(4, 10)
    one, other = torch.arange(20, 26), torch.arange(40, 43)
    first = tree_nll(model, [Tree(prefix, (one, other))])[0].branches[1]
    second = tree_nll(model, [Tree(prefix, (one.flip(0), other))])[0].branches[1]
    assert torch.equal(first, second)


def test_probabilities_within_a_class(make_model):
    model, classes = make_model("opt"), torch.arange(96) % 3
    tree = Tree(torch.tensor([4, 5]), (torch.tensor([7, 9, 11]),))
    found = tree_nll(model, [tree], classes=classes)[0]
    row = torch.cat([tree.prefix, tree.branches[0]])
    with torch.no_grad():
        logits = model(row[None]).logits[0]
    for place, token in enumerate(row[1:].tolist()):
        among = [i for i in range(96) if i % 3 == token % 3]
        expected = -(logits[place, token] - logits[place, among].logsumexp(0))
        assert abs(float(torch.cat([found.prefix, found.branches[0]])[place] - expected)) < 1e-5


def test_join_rows():
    tree = join_rows([torch.tensor([1, 5, 6, 7]), torch.tensor([1, 5, 9]), torch.tensor([1, 5, 6])])
    assert tree.prefix.tolist() == [1, 5]
    assert [branch.tolist() for branch in tree.branches] == [[6, 7], [9], [6]]
    assert join_rows([torch.tensor([1, 2]), torch.tensor([1, 2])]).branches[1].tolist() == []
    with pytest.raises(ConfigError, match="share no first token"):
        join_rows([torch.tensor([1, 2]), torch.tensor([3, 2])])


def test_errors(make_model):
    model = make_model("opt")
    with pytest.raises(ConfigError, match="Tree 0 has an empty prefix"):
        tree_nll(model, [Tree(torch.empty(0, dtype=torch.long), (torch.tensor([3]),))])
    positions = model.config.max_position_embeddings
    with pytest.raises(ConfigError, match=f"the model {positions} positions"):
        tree_nll(model, [Tree(torch.full((positions,), 5), (torch.tensor([3]),))])
