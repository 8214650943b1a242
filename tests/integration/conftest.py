from __future__ import annotations

import pytest

from tests.integration.programs import Programs
from tests.toy_experiments import write_language_corpus


@pytest.fixture(scope="session")
def programs() -> Programs:
    return Programs()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_language_corpus(str(tmp_path_factory.mktemp("corpus")), num_documents=120)
