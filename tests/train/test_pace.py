"""Paces are measured side by side, batches included."""

from gsjax.train import pace


def test_the_ratio_is_that_of_alternated_steps(monkeypatch):
    """A machine that grows slower slows both alike: seconds differ, the ratio does not."""
    calls = []

    def stepper(config):
        def step(number):
            calls.append((config, number))
            return {"slow": 3.0, "quick": 1.5}[config] * (1 + number)

        return step

    monkeypatch.setattr(pace, "_stepper", stepper)
    found = pace.ratio("slow", "quick", rounds=5)
    assert found["ratio"] == 2.0 and found["first_seconds"] == 3.0 * 5
    assert calls == [(name, i) for i in range(7) for name in ("slow", "quick")]
