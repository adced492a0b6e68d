from spikelens.report.progress import SearchBar


def test_the_bar_follows_the_search(capsys):
    with SearchBar("looking") as bar:
        bar._bar.delay = 0
        bar.show(3, 10, 0.25)
        bar.show(10, 10, 0.5)
        bar._bar.refresh()
        text = str(bar._bar)
    assert "looking" in text
    assert "10/10" in text
    assert "activation=0.500" in text
