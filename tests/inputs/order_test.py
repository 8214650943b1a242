"""Every example once in each visit, in an order that is a function of seed, group and visit alone."""

import numpy as np
import pytest

from tf_codistill.inputs.order import Order


@pytest.mark.parametrize("number", [1, 2, 3, 5, 1000, 4097, 9000])
def test_every_visit_visits_every_example_once(number):
    ids, visits = Order(number, (1, 0)).rows(0, 3 * number)
    for visit in range(3):
        assert sorted(ids[visits == visit]) == list(range(number))
    assert sorted(visits) == list(visits)
    if number > 5:
        assert not np.array_equal(ids[:number], ids[number : 2 * number])


def test_any_part_is_computed_by_itself():
    order = Order(103, (7, 1))
    ids, visits = order.rows(0, 500)
    for first, number in ((0, 1), (100, 7), (102, 206), (499, 1), (250, 0)):
        found = order.rows(first, number)
        np.testing.assert_array_equal(found[0], ids[first : first + number])
        np.testing.assert_array_equal(found[1], visits[first : first + number])
    np.testing.assert_array_equal(order.of_step(3, 32)[0], ids[96:128])


def test_an_order_lasts_for_ever():
    """A run that is resumed by a later release finds the same examples."""
    assert list(Order(10, (1, 0)).rows(0, 10)[0]) == [1, 4, 9, 2, 3, 6, 7, 0, 5, 8]
    assert list(Order(10**12, (1, 0)).rows(10**13, 2)[0]) == [968270759696, 291086904057]


def test_without_a_seed_it_is_that_of_storage():
    ids, visits = Order(3).rows(2, 5)
    assert (list(ids), list(visits)) == ([2, 0, 1, 2, 0], [0, 1, 1, 1, 2])


@pytest.mark.parametrize(("number", "trials"), [(7, 3000), (100, 3000), (5000, 300)])
def test_every_place_is_equally_likely_for_every_example(number, trials):
    ids, _ = Order(number, (3,)).rows(0, trials * number)
    places = np.argsort(ids.reshape(trials, number), axis=1)
    counts = np.stack([np.bincount(places[:, example], minlength=number) for example in (0, 1, number - 1)])
    chi_squared = ((counts - trials / number) ** 2 / (trials / number)).sum(axis=1) / (number - 1)
    assert (chi_squared < 1 + 5 * np.sqrt(2 / (number - 1))).all()
    followers = (places[:, 1] - places[:, 0]) % number  # neighbours in storage are none in a visit
    chance = trials / (number - 1)
    counts = np.bincount(followers, minlength=number)[1:]
    assert ((counts - chance) ** 2 / chance).sum() / (number - 2) < 1 + 5 * np.sqrt(2 / (number - 2))


def test_groups():
    def visited(group, data, number=2):
        return Order.of_group(9, group, number, seed=4, data=data).rows(0, 9)[0]

    assert set(visited(0, "disjoint")) == {0, 2, 4, 6, 8}
    assert set(visited(1, "disjoint")) == {1, 3, 5, 7}
    assert set(visited(0, "same")) == set(visited(1, "same")) == set(range(9))
    assert list(visited(0, "same")) != list(visited(1, "same"))
    assert list(visited(0, "same_batches")) == list(visited(1, "same_batches"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((9, 2, 2, 0, "disjoint"), "group is 2 of num_groups=2"),
        ((9, 0, 2, 0, "shared"), "data is 'shared'; expected one of 'disjoint', 'same', 'same_batches'"),
        ((1, 1, 2, 0, "disjoint"), "the part of group 1 of 2 is empty: there are 1 examples"),
        ((0, 0, 1, 0, "same"), "num_examples is 0"),
    ],
)
def test_what_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Order.of_group(*arguments)
