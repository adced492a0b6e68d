import pytest

from spikelens.data.image_files import ImageFile, assign_splits, find_image_files


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def numbered(num_by_label):
    files = [
        ImageFile(f"root/{label}/{i:03d}", 1, 1, label)
        for label, count in num_by_label.items()
        for i in range(count)
    ]
    return tuple(sorted(files))


def test_class_folders_are_labelled_in_alphabetical_order(tmp_path):
    found = find_image_files(touch(tmp_path, "b/1.png", "a/2.JPG", "a/deeper/3.webp", "a/x.txt"))
    assert found.classes == ("a", "b")
    assert [(file.path[len(str(tmp_path)) + 1 :], file.label) for file in found.files["all"]] == [
        ("a/2.JPG", 0),
        ("a/deeper/3.webp", 0),
        ("b/1.png", 1),
    ]


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    found = find_image_files(touch(tmp_path, "a/1.png", "a/._1.png", ".git/2.png"))
    assert found.classes == ("a",)
    assert len(found.files["all"]) == 1


def test_given_splits_are_kept_and_a_class_may_be_missing_from_the_test(tmp_path):
    found = find_image_files(
        touch(tmp_path, "train/a/1.png", "train/b/1.png", "test/b/1.png", "val/a/1.png")
    )
    assert found.classes == ("a", "b")
    assert {name: [file.label for file in group] for name, group in found.files.items()} == {
        "train": [0, 1],
        "val": [0],
        "test": [1],
    }


def test_a_class_may_be_called_train(tmp_path):
    assert find_image_files(touch(tmp_path, "train/1.png", "bus/1.png")).classes == ("bus", "train")


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["1.png"], "has no class folders"),
        (["train/a/1.png"], r"has train/ but no test/"),
        (["train/a/1.png", "test/1.png"], r"test has no class folders"),
        (["train/a/1.png", "test/a/1.png", "test/b/1.png"], "classes that train/ lacks: b"),
        (["a/1.png", "b/notes.txt"], r"Class folder .*b has no image; known are \.png"),
    ],
)
def test_bad_layouts_are_refused(tmp_path, paths, message):
    with pytest.raises(ValueError, match=message):
        find_image_files(touch(tmp_path, *paths))


def test_a_missing_root_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Argument `root` must be an existing folder, but got"):
        find_image_files(tmp_path / "nowhere")


def test_splits_are_disjoint_complete_stratified_and_a_function_of_the_seed():
    files = {"all": numbered({0: 20, 1: 40})}
    splits = assign_splits(files, 0.1, 0.2, seed=0)
    counts = {
        name: [sum(file.label == k for file in group) for k in (0, 1)]
        for name, group in splits.items()
    }
    assert counts == {"train": [14, 29], "val": [2, 4], "test": [4, 7]}
    assert sorted(file for group in splits.values() for file in group) == list(files["all"])
    assert assign_splits(files, 0.1, 0.2, seed=0) == splits
    assert assign_splits(files, 0.1, 0.2, seed=1) != splits


def test_validation_is_drawn_from_training_alone():
    files = {"train": numbered({0: 10}), "test": numbered({1: 5})}
    splits = assign_splits(files, 0.3, 0.1, seed=0)
    assert [len(splits[name]) for name in ("train", "val", "test")] == [7, 3, 5]
    assert sorted(splits["train"] + splits["val"]) == list(files["train"])
    assert sorted(splits["test"]) == list(files["test"])


def test_any_first_few_files_are_balanced():
    splits = assign_splits({"all": numbered(dict.fromkeys(range(4), 20))}, 0.1, 0.1, seed=0)
    labels = [file.label for file in splits["train"]]
    for start in range(0, 40, 4):
        assert sorted(labels[start : start + 4]) == [0, 1, 2, 3]
    assert labels[:4] != labels[4:8] or labels[4:8] != labels[8:12]


def test_too_few_images_to_split_are_refused():
    with pytest.raises(ValueError, match=r"Folder root/1 has too few images to be split"):
        assign_splits({"all": numbered({0: 9, 1: 2})}, 0.1, 0.1, seed=0)
