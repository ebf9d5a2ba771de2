import pytest

from benchmarks.cpu import WORKLOADS


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "only workloads whose name holds TEXT (repeatable)"
    parser.addoption("--workload", action="append", default=[], metavar="TEXT", help=text)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "contender" not in metafunc.fixturenames:
        return
    wanted = [text.lower() for text in metafunc.config.getoption("--workload")]
    pairs = [
        (workload.name, contender)
        for workload in WORKLOADS
        if not wanted or any(text in workload.name.lower() for text in wanted)
        for contender in workload.contenders
    ]
    metafunc.parametrize(("name", "contender"), pairs)
