"""The interpreter of Core ML programs: single operations by hand, and values in the types that are declared."""

import numpy as np
import pytest
import torch

from export.coreml.mil import Program
from export.coreml.mil_operations import OPERATIONS

ct = pytest.importorskip('coremltools')
mb = pytest.importorskip('coremltools.converters.mil').Builder


def package(folder, build, *shapes, precision='float32', target='iOS17', passes=None):
    """Saves a program of one function, as an export does."""
    program = mb.program(
        input_specs=[mb.TensorSpec(shape=shape) for shape in shapes], opset_version=getattr(ct.target, target)
    )(build)
    path = folder / 'small.mlpackage'
    ct.convert(
        program,
        convert_to='mlprogram',
        compute_precision=getattr(ct.precision, precision.upper()),
        minimum_deployment_target=getattr(ct.target, target),
        skip_model_load=True,
        pass_pipeline=passes or ct.PassPipeline.DEFAULT,
    ).save(str(path))
    return Program(path)


def test_half_precision_is_rounded_after_every_operation(tmp_path):
    program = package(tmp_path, lambda x: mb.sub(x=mb.add(x=x, y=1.0), y=1.0, name='out'), (3,), precision='float16')
    x = torch.tensor([2.0**-12, 2.0**-10, 0.3])
    [(_, found)] = program({'x': x})[0].items()
    assert found.tolist() == [0.0, 2.0**-10, (x[2].half() + 1).half().float().item() - 1]
    assert program({'x': torch.full((3,), 70_000.0)})[0].popitem()[1].isinf().all()


def test_single_precision_is_not_rounded_further(tmp_path):
    program = package(tmp_path, lambda x: mb.add(x=x, y=1.0, name='out'), (1,))
    assert program({'x': torch.tensor([2.0**-12])})[0].popitem()[1].item() == 1 + 2.0**-12


def test_an_index_beyond_the_end_is_an_error_and_no_number(tmp_path):
    def build(x):
        return mb.gather(x=np.arange(5, dtype=np.float32), indices=mb.cast(x=x, dtype='int32'), axis=0, name='out')

    program = package(tmp_path, build, (1,))
    assert program({'x': torch.tensor([4.0])})[0].popitem()[1].item() == 4.0
    with pytest.raises(IndexError, match=r'not in -5\.\.4'):
        program({'x': torch.tensor([5.0])})


def test_an_unknown_operation_is_named(tmp_path):
    program = package(tmp_path, lambda x: mb.erf(x=x, name='out'), (1,))
    with pytest.raises(NotImplementedError, match='erf'):
        program({'x': torch.zeros(1)})


def test_an_unknown_function_is_named(tmp_path):
    package(tmp_path, lambda x: mb.relu(x=x, name='out'), (1,))
    with pytest.raises(ValueError, match='no function other, but main'):
        Program(tmp_path / 'small.mlpackage', 'other')


INTS = torch.tensor([1, 2])
OF_2X3 = torch.arange(6.0).view(2, 3)


@pytest.mark.parametrize(
    ('name', 'arguments', 'expected'),
    [
        ('pad', {'x': OF_2X3, 'pad': torch.tensor([0, 0, 1, 0]), 'mode': 'constant'}, [[0, 0, 1, 2], [0, 3, 4, 5]]),
        ('gather', {'x': OF_2X3, 'indices': torch.tensor([2, -3]), 'axis': 1}, [[2, 0], [5, 3]]),
        ('scatter_nd', {'data': OF_2X3, 'indices': torch.tensor([[1]]), 'updates': torch.ones(1, 3), 'mode': 'update'},
         [[0, 1, 2], [1, 1, 1]]),
        ('slice_by_index', {'x': OF_2X3, 'begin': torch.tensor([1, 1]), 'end': torch.tensor([0, 3]),
                            'end_mask': torch.tensor([True, False])}, [[4, 5]]),
        ('slice_by_index', {'x': OF_2X3, 'begin': torch.tensor([0, 0]), 'end': torch.tensor([1, 3]),
                            'stride': torch.tensor([1, 2]), 'squeeze_mask': torch.tensor([True, False])}, [0, 2]),
        ('tile', {'x': OF_2X3[:1], 'reps': torch.tensor([2, 1])}, [[0, 1, 2], [0, 1, 2]]),
        ('expand_dims', {'x': OF_2X3[0], 'axes': torch.tensor([-1, 0])}, [[[0], [1], [2]]]),
        ('reduce_sum', {'x': INTS, 'axes': torch.tensor([0]), 'keep_dims': False}, 3),
        ('cast', {'x': torch.tensor([1.9, -1.9]), 'dtype': 'int32'}, [1, -1]),
        ('select', {'cond': torch.tensor([True, False]), 'a': INTS, 'b': INTS * 10}, [1, 20]),
        ('clip', {'x': torch.tensor([-1.0, 0.5, 7.0]), 'alpha': 0.0, 'beta': 6.0}, [0, 0.5, 6]),
        ('concat', {'values': [INTS, INTS], 'axis': 0, 'interleave': False}, [1, 2, 1, 2]),
    ],
)  # fmt: skip
def test_operations_by_hand(name, arguments, expected):
    assert OPERATIONS[name](**arguments).tolist() == expected


def test_convolution_pads_top_bottom_left_right():
    x, weight = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    arguments = {'strides': INTS * 0 + 1, 'dilations': INTS * 0 + 1, 'groups': 1, 'pad_type': 'custom'}
    out = OPERATIONS['conv'](x, weight, pad=torch.tensor([0, 2, 1, 0]), **arguments)
    assert out.tolist() == [[[[0, 1], [0, 0], [0, 0]]]]


def test_pooling_never_takes_what_is_padded():
    x = -torch.ones(1, 1, 2, 2)
    two = torch.tensor([2, 2])
    out = OPERATIONS['max_pool'](x, kernel_sizes=two, strides=two, pad_type='custom', pad=torch.tensor([1, 1, 1, 1]))
    assert out.tolist() == [[[[-1, -1], [-1, -1]]]]


def test_top_k_gives_the_largest_first_with_their_places():
    values, places = OPERATIONS['topk'](torch.tensor([[3.0, 9.0, 5.0]]), k=2, axis=1, ascending=False, sort=True)
    assert values.tolist() == [[9, 5]]
    assert places.tolist() == [[1, 2]]
