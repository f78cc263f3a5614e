"""The order of names: numbers as numbers, and a name before the same name with a number."""

from seresnet.data.names import natural_key


def test_numbers_sort_as_numbers_and_a_name_stands_before_its_numbered_ones():
    names = ["10", "2", "img10", "img9", "img", "cat2", "cat", "cat 2b", "02", "", "cat10"]
    ordered = sorted(names, key=natural_key)
    assert ordered.index("2") < ordered.index("10") and ordered.index("img9") < ordered.index("img10")
    assert ordered.index("cat") < ordered.index("cat2") < ordered.index("cat10")
    assert ordered.index("img") < ordered.index("img9")


def test_the_end_of_a_name_comes_before_its_numbers_in_files_and_paths_too():
    names = ["cls", "cls2", "cls10", "img", "img2", "img10"]
    for form in ("{}", "{}/", "{}/x.jpg", "{}.jpg", "photos/{}", "1{}.tar.gz"):
        expected = [form.format(name) for name in names]
        assert sorted(expected, key=natural_key) == expected
    assert sorted(["v1.10", "v1.9", "v1"], key=natural_key) == ["v1", "v1.9", "v1.10"]
