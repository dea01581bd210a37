import pytest
from exported import FAMILIES, Exporter


@pytest.fixture(scope='session')
def exporters():
    """An :class:`Exporter` of each family, made when it is asked for."""

    class Exporters(dict):
        def __missing__(self, family):
            self[family] = Exporter(family)
            return self[family]

    return Exporters()


@pytest.fixture(params=FAMILIES)
def exporter(request, exporters):
    return exporters[request.param]
