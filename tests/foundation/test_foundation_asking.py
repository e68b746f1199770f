"""Limits are kept, calls run side by side, and only a few batches are ever in memory."""

import threading
import time

import numpy as np
import pytest
from foundation_phantoms import SPEC, CountingNetwork, make_model, write_public

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.foundation import InputSpec, Ledger, Limits, acquire, plan_acquisition
from fedhelp_med.foundation.attempts import Attempt
from fedhelp_med.foundation.limits import Spent

IMAGE = 4 * 3 * 8 * 8


@pytest.fixture
def path(tmp_path):
    return tmp_path / "knowledge.sqlite"


class Service:
    """Answers like a model behind HTTP: every second request of a call is a repetition, and all are reported."""

    name, version, classes, input, kind = "service", "1", ("a", "b"), SPEC, "logits"
    batch_size = 3

    def __init__(self, overhead=1.0, repetitions=0):
        self.on_attempt = None
        self.overhead = overhead
        self.repetitions = repetitions
        self.asked = []

    def batch_limit(self):
        self.on_attempt(Attempt(0, 0, 500, 0.0, "200", 1))
        return self.batch_size

    def predict(self, batch):
        self.asked.append(len(batch))
        size = int(len(batch) * IMAGE * self.overhead)
        for number in range(1, self.repetitions + 1):
            self.on_attempt(Attempt(len(batch), size, 0, 0.0, "503", number))
        self.on_attempt(Attempt(len(batch), size, 80, 0.0, "200", self.repetitions + 1))
        return np.zeros((len(batch), 2), np.float32)


def test_at_most_so_many_images(tmp_path, path):
    datalist, network = write_public(tmp_path, range(10)), CountingNetwork()
    limits = Limits(images=6)
    summary = acquire(datalist, make_model(network), path, batch_size=4, limits=limits)
    assert (network.batches, summary.exhausted, summary.remaining) == ([4, 2], "max_images", 4)
    summary = acquire(datalist, make_model(network), path, batch_size=4, limits=limits)
    assert (network.batches, summary.asked, summary.exhausted) == ([4, 2, 4], 4, None)


def test_a_limit_that_is_just_enough_is_not_used_up(tmp_path, path):
    summary = acquire(write_public(tmp_path), make_model(), path, limits=Limits(images=6, calls=1, bytes=6 * IMAGE))
    assert (summary.asked, summary.exhausted, summary.remaining) == (6, None, 0)


def test_at_most_so_many_requests_with_repetitions(tmp_path, path):
    datalist = write_public(tmp_path, range(12))
    assert acquire(datalist, make_model(), path, batch_size=2, limits=Limits(calls=3)).calls == 3
    service = Service(repetitions=1)
    summary = acquire(datalist, service, path, limits=Limits(calls=4), concurrency=2)
    assert summary.exhausted == "max_calls"
    assert sum(service.asked) <= 3 * 3  # a third call was allowed when the first two had not been repeated yet
    assert summary.requests == 2 * summary.calls


@pytest.mark.parametrize("overhead", [0.5, 1.0, 4.0])
def test_at_most_so_many_bytes_on_the_wire(tmp_path, path, overhead):
    datalist, service = write_public(tmp_path, range(20)), Service(overhead)
    summary = acquire(datalist, service, path, limits=Limits(bytes=16 * IMAGE), concurrency=2)
    assert summary.bytes <= 16 * IMAGE
    assert summary.asked == int(16 / overhead) if overhead >= 1 else summary.asked == 20
    assert service.asked[0] == 1  # which tells what an image costs


def test_calls_are_made_at_a_rate(tmp_path, path):
    times = []

    class Timed(CountingNetwork):
        def forward(self, images):
            times.append(time.monotonic())
            return super().forward(images)

    acquire(write_public(tmp_path), make_model(Timed()), path, batch_size=1, limits=Limits(rate=20.0), concurrency=3)
    gaps = np.diff(sorted(times))
    assert len(times) == 6 and gaps.sum() >= 5 / 20 - 0.02  # lower bounds alone: a busy machine is only slower


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"images": 0}, "max_images is 0"),
        ({"calls": -1}, "max_calls is -1"),
        ({"bytes": 0}, "max_bytes is 0"),
        ({"rate": 0.0}, "rate is 0"),
        ({"rate": float("nan")}, "rate is nan"),
    ],
)
def test_limits_that_nothing_could_keep(limits, message):
    with pytest.raises(InputError, match=message):
        Limits(**limits)


def test_room_is_the_least_of_all_limits():
    limits = Limits(images=10, calls=3, bytes=1000)
    assert limits.room(64, Spent(0, 0, 0), 100) == (10, None)
    assert limits.room(64, Spent(4, 1, 400), 100) == (6, None)
    assert limits.room(64, Spent(4, 1, 700), 100) == (3, None)
    assert limits.room(64, Spent(4, 3, 400), 100) == (0, "max_calls")
    assert limits.room(64, Spent(4, 1, 901), 100) == (0, "max_bytes")
    assert Limits().room(64, Spent(10**9, 10**9, 10**12), 100) == (64, None)


def test_attempts_are_in_the_ledger_and_the_service_is_left_as_it_was(tmp_path, path):
    service = Service(repetitions=2)
    service.on_attempt = before = print
    summary = acquire(write_public(tmp_path, range(4)), service, path)
    assert (service.asked, summary.calls, summary.requests) == ([3, 1], 2, 6)
    assert service.on_attempt is before
    with Ledger(path, readonly=True) as ledger:
        rows = ledger.rows("SELECT call, number, images, status FROM attempts ORDER BY call IS NOT NULL, call, number")
        total = ledger.summary()
    assert rows == [
        (None, 1, 0, "200"),  # what the service was asked before the first image
        *((call, number, images, status) for call, images in ((1, 3), (2, 1)) for number, status in
          ((1, "503"), (2, "503"), (3, "200"))),
    ]  # fmt: skip
    assert (total.attempts, total.sent, total.received) == (7, 12 * IMAGE, 660)


def test_nothing_is_asked_of_a_service_when_all_is_known(tmp_path, path):
    datalist = write_public(tmp_path, range(4))
    acquire(datalist, Service(), path)

    class Silent(Service):
        def batch_limit(self):
            raise AssertionError("a request")

        predict = batch_limit

    assert acquire(datalist, Silent(), path).asked == 0


class Gate(CountingNetwork):
    """Answers when it is told to, and knows how many calls wait at the same time."""

    def __init__(self):
        super().__init__()
        self.open = threading.Event()
        self.waiting = self.most = 0
        self.lock = threading.Lock()

    def forward(self, images):
        with self.lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
        assert self.open.wait(30)
        with self.lock:
            self.waiting -= 1
        return super().forward(images)


class CountedSpec(InputSpec):
    """Counts the images that were read."""

    def fit(self, pixels):
        READ.append(len(pixels))
        return super().fit(pixels)


READ: list[int] = []


def test_no_more_batches_are_read_than_can_be_under_way(tmp_path, path):
    datalist, gate = write_public(tmp_path, range(30)), Gate()
    READ.clear()
    model = make_model(gate, spec=CountedSpec(3, (8, 8)))
    thread = threading.Thread(target=acquire, args=(datalist, model, path), kwargs={"batch_size": 2, "concurrency": 3})
    thread.start()
    deadline = time.monotonic() + 30
    while len(READ) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)  # time to read on, if it would
    assert gate.waiting == 3
    assert len(READ) == (3 + 1) * 2  # three batches under way, one ready
    gate.open.set()
    thread.join(30)
    assert (sum(gate.batches), gate.most) == (30, 3)


def test_what_others_have_answered_is_kept_when_a_call_fails(tmp_path, path):
    barrier = threading.Barrier(3)

    class Moody(CountingNetwork):
        def forward(self, images):
            turn = barrier.wait(30)
            if turn == 0:
                raise RuntimeError("out of memory")
            time.sleep(0.1)
            return super().forward(images)

    datalist = write_public(tmp_path, range(12))
    with pytest.raises(FedHelpError, match="out of memory"):
        acquire(datalist, make_model(Moody()), path, batch_size=2, concurrency=3)
    with Ledger(path, readonly=True) as ledger:
        summary = ledger.summary()
    assert (summary.images, summary.calls, summary.failed, summary.under_way) == (4, 3, 1, 0)


def test_a_dry_run_sends_and_writes_nothing(tmp_path, path):
    datalist, service = write_public(tmp_path, [0, 1, 2, 3, 4, 5, 6, 6]), Service()
    before = sorted(tmp_path.rglob("*"))
    plan = plan_acquisition(datalist, service, path)
    assert (plan.images, plan.asked, plan.calls, plan.bytes, plan.remaining) == (8, 7, 3, 7 * IMAGE, 0)
    plan = plan_acquisition(datalist, service, path, limits=Limits(images=5))
    assert (plan.asked, plan.calls, plan.remaining, plan.exhausted) == (5, 2, 2, "max_images")
    assert service.asked == [] and sorted(tmp_path.rglob("*")) == before

    acquire(datalist, service, path, limits=Limits(images=4))
    content = path.read_bytes()
    plan = plan_acquisition(datalist, service, path, batch_size=2)
    assert (plan.asked, plan.calls) == (3, 2)
    plan = plan_acquisition(datalist, service, path, batch_size=100)  # the service takes 3
    assert (plan.asked, plan.calls) == (3, 1)
    assert plan_acquisition(datalist, service, tmp_path / "new.sqlite", batch_size=100).calls == 3
    assert path.read_bytes() == content and sum(service.asked) == 4
