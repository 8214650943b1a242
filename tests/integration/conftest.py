from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.programs import Programs
from tests.toy_experiments import write_language_corpus


@pytest.fixture(scope="session")
def programs() -> Iterator[Programs]:
    with Programs() as running:
        yield running


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_language_corpus(str(tmp_path_factory.mktemp("corpus")), num_documents=120)
