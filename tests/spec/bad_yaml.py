"""Files that are not one plain YAML 1.2 document, or have values that no spec may have."""

from spec.bad_spec import GOOD, TRAIN, BadSpec, good

FILES = [
    BadSpec("empty file", "", "", "is empty"),
    BadSpec("comments only", "# nothing\n", "", "is empty"),
    BadSpec("10 MB file", b"# " + b"x" * 10_000_000, "", "too large"),
    BadSpec("not utf-8", GOOD.encode() + b"name: \xe9\n", "", "job.yaml:3: is not UTF-8: byte 0xe9"),
    BadSpec("utf-16", GOOD.encode("utf-16"), "", "is not UTF-8"),
    BadSpec("control character", good("storage: a\x01b"), "", "job.yaml:3: has a character that YAML does not allow"),
    BadSpec("yaml syntax", good("batch: {global_size: 8"), "", "is not valid YAML"),
    BadSpec("tab indentation", "train:\n\tsteps: 8\n", "", "job.yaml:2: is not valid YAML"),
    BadSpec("unterminated string", good("storage: 'abc"), "", "is not valid YAML"),
    BadSpec("impossible escape", good('storage: "\\UFFFFFFFF"'), "", "is not valid YAML"),
    BadSpec("undefined alias", good("storage: *nowhere"), "", "undefined alias"),
    BadSpec("root is a list", "- recipe\n- train\n", "", "is a list"),
    BadSpec("root is a string", "hello\n", "", "is a single value"),
    BadSpec("several documents", f"{GOOD}---\n{GOOD}", "", "job.yaml:3: has several documents"),
    BadSpec("yaml 1.1 directive", f"%YAML 1.1\n---\n{GOOD}", "", "YAML 1.2"),
    BadSpec("nested too deeply", good(f"env: {'[' * 2000}"), "", "nested more than 50 levels"),
    BadSpec("endless list", good(f"env: [{'1,' * 30_000}]"), "", "more than 20,000 keys and values"),
    BadSpec(
        "alias bomb",
        "a0: &a0 [x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]\n" for i in range(1, 9)),
        "",
        "more than 20,000 keys and values once its aliases are expanded",
    ),
    BadSpec(
        "aliases stacked deep",
        f"a: &a {'[' * 30}{']' * 30}\nb: {'[' * 30}*a{']' * 30}\n",
        "",
        "50 levels deep once its aliases are expanded",
    ),
]

YAML_VALUES = [
    BadSpec("duplicate key", good("optimizer: {lr: 0.1, lr: 0.2}"), "optimizer.lr", "duplicate key, first on line 3"),
    BadSpec("duplicate section", good(TRAIN), "train", "job.yaml:3: train: duplicate key, first on line 2"),
    BadSpec("python object tag", good("env: !!python/object/apply:os.system [ls]"), "env", "would construct an object"),
    BadSpec("python name tag", good("storage: !!python/name:os.system"), "storage", "would construct an object"),
    BadSpec("custom tag", good("storage: !secret x"), "storage", "tag !secret would construct an object"),
    BadSpec("binary tag", good("storage: !!binary aGVsbG8="), "storage", "!!binary"),
    BadSpec("tag that does not fit", good("batch: {global_size: !!int many}"), "batch.global_size", "not a legal int"),
    BadSpec("merge key", good("optimizer: {<<: {lr: 0.1}}"), "optimizer.<<", "merge keys are not YAML 1.2"),
    BadSpec("alias of itself", good("env: &e {A: *e}"), "env.A", "contains itself"),
    BadSpec("key is a number", good("env: {1: a}"), "env", 'key "1" is not a string'),
    BadSpec("key is a boolean", good("env: {true: a}"), "env", 'key "true" is not a string'),
    BadSpec("key is a list", good("env: {[a]: b}"), "env", "is not a string"),
    BadSpec("infinite", good("optimizer: {lr: .inf}"), "optimizer.lr", "not a finite number"),
    BadSpec("not a number", good("optimizer: {lr: .nan}"), "optimizer.lr", "not a finite number"),
    BadSpec("overflowing float", good("optimizer: {lr: 1e999}"), "optimizer.lr", "not a finite number"),
    BadSpec("overflowing integer", good(f"batch: {{global_size: 1{'0' * 30}}}"), "batch.global_size", "64-bit"),
    BadSpec("null character", good('storage: "a\\0b"'), "storage", "null character"),
    BadSpec("half a surrogate", good('storage: "\\uD800"'), "storage", "surrogate"),
]
