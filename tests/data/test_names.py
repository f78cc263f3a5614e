"""The order of names: numbers as numbers, and a name before the same name with a number."""

from seresnet.data.names import natural_key


def test_numbers_sort_as_numbers_and_a_name_stands_before_its_numbered_ones():
    names = ["10", "2", "img10", "img9", "img", "cat2", "cat", "cat 2b", "02", "", "cat10"]
    ordered = sorted(names, key=natural_key)
    assert ordered.index("2") < ordered.index("10") and ordered.index("img9") < ordered.index("img10")
    assert ordered.index("cat") < ordered.index("cat2") < ordered.index("cat10")
    assert ordered.index("img") < ordered.index("img9")
