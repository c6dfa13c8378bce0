import pytest

from .reference import SAVES


@pytest.fixture(params=SAVES)
def save(request):
    return request.param
