"""Coded exchanges whose scheme, workers, optimizer or data do not go together."""

from spec.bad_spec import BadSpec, good, hugging_face


def coded(fields: str, more: str = "", workers: int = 4) -> str:
    """A good spec but for its coded exchange."""
    return good(f"exchange: {{name: coded, {fields}}}\nresources: {{workers: {workers}}}\n{more}")


FIVE = "sweep: {train.seed: [0, 1, 2, 3, 4]}"

CODED = [
    BadSpec("misspelt scheme", coded("scheme: fractionl"), "exchange.scheme", "Did you mean 'fractional'?"),
    BadSpec("parameter of another scheme", coded("scheme: backup, stragglers: 1"), "exchange", "scheme backup has no"),
    BadSpec("as many stragglers as workers", coded("stragglers: 4"), "exchange.stragglers", "at most 3"),
    BadSpec("more replicas than workers", coded("scheme: stochastic, replicas: 5"), "exchange.replicas", "at most 4"),
    BadSpec("only backups", coded("scheme: backup, backups: 4"), "exchange.backups", "at most 3"),
    BadSpec(
        "a window as long as a burst",
        coded("scheme: m_sgc, burst: 2, window: 2", FIVE),
        "exchange.window",
        "longer than a burst of 2 rounds. Legal: at least 3",
    ),
    BadSpec(
        "a window that bursts do not divide",
        coded("scheme: sr_sgc, burst: 2, window: 4", FIVE),
        "exchange.window",
        "window - 1 = 3 to be a multiple of burst = 2. Legal: 3 or 5",
    ),
    BadSpec(
        "delayed steps of a single model", coded("scheme: m_sgc"), "exchange.scheme", "2 or more models must share"
    ),
    BadSpec(
        "a batch that spares do not divide",
        coded("scheme: backup", "batch: {global_size: 64}"),
        "batch.global_size",
        "64 / 3 workers that count = 21.3333 samples each. Legal: a multiple of 3: 63 or 66",
    ),
    BadSpec(
        "a cyclic code for many workers",
        coded("scheme: cyclic", workers=65),
        "exchange.scheme",
        "rounding errors too large. Legal: fractional, or cyclic with at most 64 workers",
    ),
    BadSpec(
        "a cyclic code in bf16",
        coded("scheme: cyclic, message_dtype: bf16", workers=17),
        "exchange.scheme",
        "at most 16 workers",
    ),
    BadSpec("coded under fsdp2", coded("shards: 1", "engine: fsdp2"), "exchange.name", "requires local_gradients"),
    BadSpec(
        "one rate over divided tensors",
        coded("shards: 2", "optimizer: prodigy"),
        "optimizer.name",
        "finds one rate over all tensors, which are divided among 2 shards. Legal: exchange.shards of 1",
    ),
    BadSpec(
        "coded in fp16",
        good("exchange: {name: coded, scheme: uncoded}\ntrain: {steps: 8, precision: fp16}").replace(
            "train: {steps: 8}\n", ""
        ),
        "train.precision",
        "shards refuse them. Legal: fp32 or bf16",
    ),
    BadSpec("coded with loaders", coded("shards: 1", "data: {loader_workers: 2}"), "data.loader_workers", "Legal: 0"),
    BadSpec(
        "coded over a stream",
        hugging_face("data_files: {train: a.json}, streaming: true") + "exchange: {name: coded, scheme: uncoded}\n",
        "data.source.streaming",
        "Legal: false with exchange: coded",
        files={"a.json": "{}"},
    ),
    BadSpec("no file of delays", coded("inject: {delays: d.csv}"), "exchange.inject.delays", "cannot be read"),
    BadSpec(
        "a delay that is no number",
        coded("inject: {delays: d.csv}"),
        "exchange.inject.delays",
        "line 2: 'soon' is not a number of seconds, at least 0",
        files={"d.csv": "0,0,0,0\n0,soon,0,0\n"},
    ),
    BadSpec(
        "delays for fewer workers",
        coded("inject: {delays: d.csv}"),
        "exchange.inject.delays",
        "has 3 numbers in a line for 4 workers. Legal: at least 4 numbers",
        files={"d.csv": "0,0,0\n"},
    ),
    BadSpec(
        "uneven lines of delays",
        coded("inject: {delays: d.csv}"),
        "exchange.inject.delays",
        "line 2 has 3 numbers, line 1 has 4",
        files={"d.csv": "0,0,0,0\n0,0,0\n"},
    ),
    BadSpec(
        "an empty file of delays",
        coded("inject: {delays: d.csv}"),
        "exchange.inject.delays",
        "is empty",
        files={"d.csv": ""},
    ),
]
