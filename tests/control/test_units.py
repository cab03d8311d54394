from fractions import Fraction

import pytest

from octavo_operator.core.units import in_digits, parse_duration, parse_quantity, same_quantity, two_digits


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("1h0m5s", 3605), ("2h", 7200)]
)
def test_durations_are_whole_seconds(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "-5s", "1.5h", "5s3m", "500ms", " 5s", "5s ", "s"])
def test_what_is_no_duration_is_refused_with_its_value(text):
    with pytest.raises(ValueError, match=repr(text)):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500m", Fraction(1, 2)),
        (2, 2),
        ("256Mi", 256 * 1024**2),
        ("1.5Gi", 1536 * 1024**2),
        ("1e3", 1000),
        ("2E", 2 * 10**18),
        ("2E3", 2000),
        (".5", Fraction(1, 2)),
    ],
)
def test_quantities_are_exact(text, number):
    assert parse_quantity(text) == number


@pytest.mark.parametrize(
    "text", ["", "-1", "1 Gi", "Gi", "1gi", "1.2.3", "0x10", "inf", "nan", "1e100", "1e999999999", "\u0663"]
)
def test_what_is_no_quantity_is_refused(text):
    with pytest.raises(ValueError, match="quantity"):
        parse_quantity(text)


def test_equal_amounts_in_different_notations_are_the_same():
    assert same_quantity("1024Mi", "1Gi")
    assert same_quantity("0.5", "500m")
    assert not same_quantity("1", "1Gi")
    assert not same_quantity("banana", "banana")


@pytest.mark.parametrize(
    ("value", "text"),
    [(20.700000000000003, "20.7"), (0.0, "0"), (0.01254, "0.01254"), (1234567, "1235000"), (190, "190")],
)
def test_a_number_of_a_status_has_no_exponent(value, text):
    assert in_digits(value, 4) == text


def test_two_digits_say_how_much():
    assert [two_digits(value) for value in (0, 7.4, 99.6, 1234, 98765)] == [0, 7, 100, 1200, 99000]
