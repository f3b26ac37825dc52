"""What an exported file may differ by: limits, or what the same precision costs the original on the same pictures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from export import ParityError
from export.parity import Limits, OutputDifference, PairComparison, compare, require_equal

LIMITS = Limits(mean=0.01, worst=0.3, cells=0.05)
CELLS = torch.tensor([[[[0.0, 1.0], [1.0, 1.0]]]])


def results(refined: float = 0.0, elsewhere: float = 0.0) -> dict[str, Tensor]:
    """Alpha of 8 x 8 pixels, three of four cells refined, that is off by so much in these and in the other one."""
    pha = torch.full((1, 1, 8, 8), 0.5 + refined)
    pha[..., :4, :4] = 0.5 + elsewhere
    return {'pha': pha, 'ref_sm': CELLS}


def test_each_figure_is_held_against_its_own_limit() -> None:
    differences = {'pha': OutputDifference(worst=0.2, mean=0.0023, refined=0.018)}
    assert PairComparison('x', differences).problems(LIMITS) == [
        'pha differs in the mean of refined cells by 1.8e-02, more than 1.0e-02'
    ]
    assert PairComparison('x', {'pha': OutputDifference(0.4, 0.02)}).problems(LIMITS) == [
        'pha differs by up to 4.0e-01, more than 3.0e-01',
        'pha differs in the mean by 2.0e-02, more than 1.0e-02',
    ]


def test_what_rounding_costs_the_original_too_is_no_fault_of_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    found = compare('steep', results(), results(0.018), LIMITS, lambda: results(0.015))
    require_equal([found], LIMITS, 'proved')
    out = capsys.readouterr().out
    assert '  steep: pha 1.8e-02 (1.4e-02; 1.8e-02)' in out
    assert '    by rounding alone: pha 1.5e-02 (1.1e-02; 1.5e-02)' in out
    assert 'or what rounding explains' in out


def test_what_rounding_does_not_explain_is_refused_with_what_to_do() -> None:
    found = compare('x', results(), results(0.018), LIMITS, lambda: results(0.004))
    with pytest.raises(ParityError) as refusal:
        require_equal([found], LIMITS, 'proved')
    lines = str(refusal.value).splitlines()
    assert (
        '  x: pha differs in the mean of refined cells by 1.8e-02, more than 1.2e-02 (4.0e-03 by rounding alone)'
        in lines
    )
    assert lines[-1].startswith('  rounding does not explain that: try another --refine-form')


def test_a_precision_that_ruins_the_original_is_refused_however_alike_the_file_is() -> None:
    found = compare('x', results(), results(0.2), LIMITS, lambda: results(0.2))
    with pytest.raises(ParityError, match='take --precision float32, or pictures and a --model-backbone-scale like'):
        require_equal([found], LIMITS, 'proved')


def test_rounding_is_measured_only_where_it_is_needed() -> None:
    assert compare('x', results(), results(0.005), LIMITS, lambda: pytest.fail('computed')).rounding is None
    nan = compare('x', results(), results(float('nan')), LIMITS, lambda: results(float('nan')))
    assert len(nan.problems(LIMITS)) == 3


def test_cells_of_nearly_equal_error_may_change_places_as_often_as_by_rounding() -> None:
    def choosing(first: int) -> dict[str, Tensor]:
        ref = torch.zeros(1, 1, 10, 20)
        ref.view(-1)[first : first + 100] = 1
        return {'pha': torch.zeros(1, 1, 40, 80), 'ref_sm': ref}

    assert compare('x', choosing(0), choosing(8), LIMITS, lambda: choosing(4)).problems(LIMITS) == []
    assert compare('x', choosing(0), choosing(8), LIMITS, lambda: choosing(1)).problems(LIMITS) == [
        '16 of 100 cells are refined differently, more than 10, which are 5 in place of others (2 by rounding alone)'
    ]
