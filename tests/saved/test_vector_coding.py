import pytest
import torch

from persona_prune.methods.vector_codes import positive_codes, positive_values, signed_codes, signed_values
from persona_prune.saved.vector_coding import pack_codes, pack_floats, unpack_codes, unpack_floats


def test_signed_by_hand():
    codes, peaks = signed_codes(torch.tensor([[0.0, 4.0, -4.0, 1.0, -0.04], [0.0, 0.0, 0.0, 0.0, 0.0]]))
    # sqrt(1 / 4) * 15 = 7.5, to even: 8; sqrt(0.01) * 15 = 1.5, to even: 2
    assert codes.tolist() == [[15, 30, 0, 23, 13], [15] * 5]
    assert peaks.tolist() == [4.0, 0.0]
    values = signed_values(codes, peaks)
    assert values[0].tolist() == pytest.approx([0.0, 4.0, -4.0, 4 * (8 / 15) ** 2, -4 * (2 / 15) ** 2])
    assert values[1].tolist() == [0.0] * 5


def test_positive_by_hand():
    codes, peaks = positive_codes(torch.tensor([[8.0, 4.0, 0.0, 8 * 2**-0.3, 1e-30], [0.0, 0.0, 0.0, 0.0, 0.0]]))
    assert codes[0].tolist() == [0, 8, 255, 2, 255]
    values = positive_values(codes, peaks)
    assert values[0].tolist() == pytest.approx([8.0, 4.0, 0.0, 8 * 2**-0.25, 0.0])
    assert values[1].tolist() == [0.0] * 5


@pytest.mark.parametrize("kind", ["signed", "positive"])
def test_what_was_decoded_codes_the_same_again(kind):
    encode, decode = (signed_codes, signed_values) if kind == "signed" else (positive_codes, positive_values)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(40, 300, generator=generator).exp() * torch.logspace(-20, 20, 40)[:, None]
    if kind == "signed":
        vectors *= torch.randn(40, 300, generator=generator).sign()
    once = decode(*encode(vectors))
    assert torch.equal(decode(*encode(once)), once)
    assert torch.equal(once.sign(), vectors.sign() * (once != 0))


def test_half_a_level_is_the_largest_error():
    vectors = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0))
    error = signed_values(*signed_codes(vectors)).abs().div(vectors.abs().amax(1)[:, None]).sqrt()
    error -= vectors.abs().div(vectors.abs().amax(1)[:, None]).sqrt()
    assert error.abs().max() <= 0.5 / 15 + 1e-6
    squares = vectors.square()
    assert (positive_values(*positive_codes(squares)) / squares).log2().abs().max() <= 1 / 16 + 1e-5


def test_packed_and_unpacked():
    codes = [torch.tensor([[1, 2, 3]]).byte(), torch.tensor([[4], [5]]).byte()]
    again = unpack_codes(pack_codes(codes), [(1, 3), (2, 1)])
    assert [part.tolist() for part in again] == [[[1, 2, 3]], [[4], [5]]]
    floats = [torch.tensor([1.5, 0.0]), torch.tensor([3e-38])]
    assert [part.tolist() for part in unpack_floats(pack_floats(floats), [2, 1])] == [part.tolist() for part in floats]
    for sizes in ([2], [2, 2]):
        with pytest.raises(ValueError, match=r"bytes of vectors|longer or shorter"):
            unpack_floats(pack_floats(floats), sizes)
    with pytest.raises(ValueError, match="finite"):
        unpack_floats(pack_floats([torch.tensor([-1.0])]), [1])


def test_statistics_that_are_not_finite_are_refused():
    for value in (torch.inf, torch.nan):
        with pytest.raises(ValueError, match="overflows"):
            positive_codes(torch.tensor([[1.0, value]]))


def test_codes_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match="codes that there are not"):
        signed_values(torch.tensor([[31]]).byte(), torch.ones(1))
