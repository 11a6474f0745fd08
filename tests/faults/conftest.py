import pytest

from faults.commands import make_photos, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server") / "log") as found:
        yield found


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """The words by which a command uses a folder of small images."""
    return ["--data", str(make_photos(tmp_path_factory.mktemp("data") / "photos"))]
