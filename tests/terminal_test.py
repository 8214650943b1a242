from tf_codistill.terminal import visible


def test_control_characters_do_nothing() -> None:
    text = "a\tb\nc\x1b[2J\x9b\u202e\x00\r"
    assert visible(text) == "a\tb\nc\ufffd[2J\ufffd\ufffd\ufffd\ufffd"
