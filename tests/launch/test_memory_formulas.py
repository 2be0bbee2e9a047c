"""What the formulas of memory say of a model small enough to count by hand."""

import pytest

from orchestrator.launch.memory.deepspeed import ZeroSizes, deepspeed_peak
from orchestrator.launch.memory.fsdp2 import fsdp2_peak
from orchestrator.launch.memory.model import REST, Backward, Memory, Model, Parameter, Segment
from orchestrator.launch.memory.replicas import ddp_peak
from orchestrator.launch.memory.step import OptimizerCost, Setting
from orchestrator.spec.methods.engines import Fsdp2

ADAM = OptimizerCost(moments=2, in_passing=0, at_once=False)


def weight(name: str, unit: int, *shape: int, trainable: bool = True) -> Parameter:
    return Parameter(name=name, shape=shape, item_bytes=4, trainable=trainable, unit=unit)


def segment(unit: int, is_backward: bool, start: int, peak: int, gradients: int = 0) -> Segment:
    return Segment(
        unit=unit,
        is_backward=is_backward,
        start=start,
        peak=peak,
        gradients=gradients,
        peak_with_gradients=peak + gradients,
    )


def model(**changes: object) -> Model:
    """Two units of 400 bytes each and a head of 80: 880 bytes of weights, 3 elements of buffers."""
    segments = (
        segment(REST, False, 0, 10),
        segment(0, False, 10, 100),
        segment(REST, False, 90, 90),
        segment(1, False, 90, 200),
        segment(REST, False, 180, 220),
        segment(REST, True, 190, 230, 40),
        segment(1, True, 180, 210, 400),
        segment(0, True, 90, 120, 400),
        segment(REST, True, 10, 20, 40),
    )
    fields = {
        "parameters": (weight("0", 0, 10, 10), weight("1", 1, 10, 10), weight("head", REST, 10, 2)),
        "buffer_bytes": 12,
        "num_units": 2,
        "backwards": (Backward(num_samples=4, param_dtype=None, batch_bytes=16, segments=segments),),
    }
    return Model(**{**fields, **changes})


def setting(workers: int = 2, num_micro: int = 1, *, on_gpu: bool = True, optimizer: OptimizerCost = ADAM) -> Setting:
    return Setting(workers=workers, micro_batch_size=4, num_micro_batches=num_micro, optimizer=optimizer, on_gpu=on_gpu)


def test_ddp_holds_everything_four_times_and_the_activations():
    peak = ddp_peak(model(), setting())
    assert peak == Memory(parameters=892, gradients=880, optimizer=1760, activations=16 + 230)
    # Without activations what the step computes in passing is more: of the largest tensor, or of all.
    for at_once, num_bytes in ((False, 400), (True, 880)):
        optimizer = OptimizerCost(moments=2, in_passing=2, at_once=at_once)
        assert ddp_peak(model(backwards=()), setting(optimizer=optimizer)).optimizer == 1760 + 2 * num_bytes


def test_factored_moments_take_a_row_and_a_column_of_what_a_rank_holds():
    came = OptimizerCost(moments=1, in_passing=0, at_once=False, factored=2)
    shapes = ((), (7,), (10, 4), (3, 5, 2))
    # A whole moment of everything, one more of scalars and vectors, two rows and columns of each matrix.
    assert came.state_bytes(shapes) == 4 * (1 + 7 + 40 + 30 + 1 + 7 + 2 * (10 + 4) + 2 * 3 * (5 + 2))
    # FSDP2 divides rows and with them the row means; every rank has the means of the columns: 3 workers, 4 rows each.
    peak = fsdp2_peak(model(backwards=()), setting(3, optimizer=came), Fsdp2(name="fsdp2"))
    assert peak.optimizer == 4 * (2 * (4 * 10 + 2 * (4 + 10)) + 4 * 2 + 2 * (4 + 2))


def test_frozen_weights_have_neither_gradient_nor_state():
    frozen = model(parameters=(weight("0", 0, 10, 10), weight("1", 1, 10, 10, trainable=False)))
    peak = ddp_peak(frozen, setting())
    assert (peak.parameters, peak.gradients, peak.optimizer) == (812, 400, 800)


def test_rows_are_divided_and_padded():
    assert [weight("", 0, 10, 3).shard_numel(n) for n in (1, 2, 3, 4, 20)] == [30, 15, 12, 9, 3]
    assert weight("", 0).shard_numel(4) == 1


def test_fsdp2_reduces_one_unit_while_the_next_computes():
    peak = fsdp2_peak(model(), setting(), Fsdp2(name="fsdp2"))
    # In the backward of unit 0, with shards 440 and buffers 12: the rest 80 and unit 0 are gathered 400, unit 1 is
    # under way 400; gradients are the rest's so far 40, unit 0's 400 and the shards of unit 1's 200.
    assert peak == Memory(
        parameters=440 + 12 + 80 + 400, gradients=40 + 400 + 200, optimizer=880, activations=16 + 120, communication=400
    )


def test_gloo_stages_what_it_sends():
    uneven = model(parameters=(weight("0", 0, 10, 10), weight("1", 1, 10, 20)), backwards=())
    on_gpu, on_cpu = (fsdp2_peak(uneven, setting(on_gpu=gpu), Fsdp2(name="fsdp2")) for gpu in (True, False))
    # With gloo the peak is another moment: unit 0 is fetched 400 while unit 1's gradients are sent 800 and staged 800.
    assert on_cpu.communication == 400 + 800 + 800
    assert on_cpu.total == on_gpu.total + 400


def test_accumulating_keeps_whole_gradients():
    peak = fsdp2_peak(model(), setting(num_micro=3), Fsdp2(name="fsdp2"))
    # In the last backward as unit 0 is unpacked, 400 twice, while unit 1 is being reduced; the rest's gradients and
    # unit 0's are whole.
    assert peak == Memory(
        parameters=440 + 12 + 80 + 400, gradients=480 + 200, optimizer=880, activations=16 + 90, communication=800
    )


def test_units_stay_gathered_without_resharding():
    peak = fsdp2_peak(model(), setting(num_micro=2), Fsdp2(name="fsdp2", reshard_after_forward=False))
    # At the end of the second forward; the message of unit 1 is still there.
    assert peak == Memory(
        parameters=440 + 12 + 880, gradients=880, optimizer=880, activations=16 + 220, communication=400
    )


def test_replica_groups_shard_less():
    hybrid = Fsdp2.model_validate({"name": "fsdp2", "mesh": {"replicate": 2}})
    assert fsdp2_peak(model(), setting(4), hybrid) == fsdp2_peak(model(), setting(2), Fsdp2(name="fsdp2"))
    assert fsdp2_peak(model(), setting(4), Fsdp2(name="fsdp2")).optimizer < 880


def test_offloading_moves_what_is_divided_to_the_host():
    here = fsdp2_peak(model(), setting(), Fsdp2(name="fsdp2"))
    there = fsdp2_peak(model(), setting(), Fsdp2(name="fsdp2", cpu_offload=True))
    # After the backward the shards of the gradients are all there.
    assert there.host == 440 + 440 + 880
    # In the backward of unit 1, where nothing is reduced yet.
    assert there == Memory(
        parameters=12 + 80 + 400, gradients=40 + 400, activations=16 + 210, communication=400, host=there.host
    )
    assert there.total < here.total - 440 - 880
    # On CPUs there is only one memory.
    on_cpu = setting(on_gpu=False)
    assert fsdp2_peak(model(), on_cpu, Fsdp2(name="fsdp2", cpu_offload=True)).host == 0


def test_a_narrower_type_halves_what_is_gathered():
    narrow = fsdp2_peak(model(), setting(), Fsdp2(name="fsdp2", param_dtype="bf16"))
    assert narrow.parameters == 440 + 12 + 40 + 200
    assert narrow.communication == 200


def zero(stage: int, **changes: int) -> ZeroSizes:
    return ZeroSizes(stage=stage, **{"reduce_bucket": 1000, "persistence_threshold": 0, **changes})


def test_deepspeed_without_division_copies_all_gradients_into_a_message():
    peak = deepspeed_peak(model(backwards=()), setting(), zero(0))
    assert peak == Memory(parameters=892, gradients=880, optimizer=1760, communication=880)


def test_a_bucket_is_reserved_on_a_gpu_and_filled_on_a_host():
    # Stages 1 and 2: the bucket and the copy of it that is summed, after the backward.
    for stage in (1, 2):
        on_gpu, on_cpu = (
            deepspeed_peak(model(backwards=()), setting(on_gpu=gpu), zero(stage)) for gpu in (True, False)
        )
        assert on_gpu.gradients + on_gpu.communication == 4000 + 880
        assert on_cpu.gradients + on_cpu.communication == 880 + 880


def test_zero_divides_the_state_and_keeps_a_copy_of_the_weights():
    peak = deepspeed_peak(model(backwards=()), setting(), zero(2))
    assert (peak.parameters, peak.optimizer) == (892, 440 + 880)
    assert deepspeed_peak(model(backwards=()), setting(num_micro=2), zero(2)).gradients > peak.gradients


def test_stage_3_divides_the_weights_and_gathers_them_ahead():
    peak = deepspeed_peak(model(), setting(on_gpu=False), zero(3))
    # Part of the weights 440, gathered 880 and the message of the last fetch 880; the optimizer's own part 440.
    assert peak == Memory(
        parameters=440 + 12 + 880, gradients=440, optimizer=440 + 880, activations=16 + 230, communication=880 + 880
    )
    near = deepspeed_peak(model(), setting(on_gpu=False), zero(3, max_reuse_distance=20, prefetch=50))
    assert near.total < peak.total


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_moves_the_optimizer_to_the_host(stage):
    offloading = ZeroSizes(stage=stage, reduce_bucket=1000, persistence_threshold=0, offloads_optimizer=True)
    peak = deepspeed_peak(model(), setting(), offloading)
    assert peak.optimizer == 0
    assert peak.host >= 440 + 880


def test_sizes_come_from_deepspeeds_own_configuration():
    config = {
        "zero_optimization": {
            "stage": 2,
            "overlap_comm": True,
            "reduce_bucket_size": 5e6,
            "offload_optimizer": {"device": "cpu"},
        }
    }
    assert ZeroSizes.from_config(config) == ZeroSizes(
        stage=2, reduce_bucket=5_000_000, num_buckets=2, offloads_optimizer=True
    )


def test_backwards_between_and_beyond_the_traced_ones_are_linear():
    def backward(num_samples: int, peak: int) -> Backward:
        only = (segment(REST, True, peak // 2, peak, 8),)
        return Backward(num_samples=num_samples, param_dtype=None, batch_bytes=num_samples, segments=only)

    traced = model(backwards=(backward(4, 100), backward(8, 180)))
    peaks = {n: traced.backward(n).segments[0].peak for n in (2, 4, 6, 8, 16)}
    assert peaks == {2: 50, 4: 100, 6: 140, 8: 180, 16: 340}
    assert traced.backward(6).batch_bytes == 6
    assert traced.backward(6).segments[0].gradients == 8
